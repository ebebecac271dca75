"""One torchvision model of every family in every dialect, rewritten in both directions.

A model is written as its modules, as functions and tensor methods, and as ``torch.export`` writes it,
before and after ``run_decompositions()``; an exported one both as a program and as its module. The model
in its other form is written the same ways, and rewritten the other way. For each: whether the sites
are those of the module, the greatest difference to the graph before in float64 at a batch that was not
exported, relative to how much the logits differ between samples, whether a deliberately damaged head
shows in that measure, and whether the way back gives the same graph. ``drift`` is what writing the model
in the dialect cost before any rewrite: torch takes batch norm apart with its epsilon in float32.

    python tools/bench/dialects.py [NAME ...] [--dialects DIALECT ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

if __name__ == "__main__":  # a benchmark runs from a checkout, installed or not
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root / folder) for folder in ("", "export", "tools")]

from bench.zoo import DAMAGE_SEEN, REFUSED, TOLERANCE, build, calibrate, difference, inputs
from fxpasses import find_sites, rewrite
from fxpasses.report import Form

# the smallest member of each
FAMILIES = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet",
    "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf",
    "regnet_y_400mf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t",
    "swin_v2_t", "vgg11", "vgg11_bn", "vit_b_16", "wide_resnet50_2", "mc3_18", "mvit_v1_b", "mvit_v2_s",
    "r2plus1d_18", "r3d_18", "s3d", "swin3d_t",
)  # fmt: skip
DIALECTS = ("module", "functional", "training", "core")
EXPORT_BATCH = 2
RUN_BATCH = 3
_WHOLE = (nn.modules.batchnorm._BatchNorm, nn.MultiheadAttention)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one model gave in one dialect and one direction.

    Attributes:
        name: torchvision's name of the model.
        dialect: how its graph is spelled; ``.module()`` stands after a program that was opened first.
        to: the form that it was rewritten to.
        sites: the sites' names.
        expected: the sites' names in the module.
        misses: codes of the misses.
        difference: to the graph before, relative to the signal; None where nothing was rewritten.
        drift: of the graph before to the model in its first form, in the same measure.
        damage: the same with the head's first weight rolled by one channel.
        graph_restored: whether the way back gave the same graph, node for node.
    """

    name: str
    dialect: str
    to: Form
    sites: tuple[str, ...]
    expected: tuple[str, ...]
    misses: tuple[str, ...] = ()
    difference: float | None = None
    drift: float | None = None
    damage: float | None = None
    graph_restored: bool = True

    @property
    def is_right(self) -> bool:
        """Whether the sites are the module's, and the rewrite equals the model, or there are none."""
        if not self.expected:
            return not self.sites and set(self.misses) == {REFUSED.get(self.name)}
        return (
            self.sites == self.expected
            and self.difference is not None
            and self.difference <= TOLERANCE
            and self.damage is not None
            and self.damage > DAMAGE_SEEN
            and self.graph_restored
        )


class _FunctionTracer(fx.Tracer):
    """Traces into every module but those whose forward asks for the rank of its input."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module stays a call of it."""
        del module_qualified_name
        return isinstance(m, _WHOLE) or type(m).__name__ == "StochasticDepth"


def written_in(model: nn.Module, name: str, dialect: str) -> Iterator[tuple[str, Any]]:
    """The model in a dialect: a module, a GraphModule of functions, or a program and its module."""
    if dialect == "module":
        yield dialect, model
    elif dialect == "functional":
        yield dialect, fx.GraphModule(model, _FunctionTracer().trace(model))
    else:
        batch = Dim("batch", min=1, max=1024)
        source = _with_code(model) if isinstance(model, fx.GraphModule) else model
        program = torch.export.export(source, (inputs(name, EXPORT_BATCH),), dynamic_shapes=({0: batch},))
        program = program if dialect == "training" else program.run_decompositions()
        yield dialect, program
        yield f"{dialect}.module()", program.module()


def _with_code(graph: fx.GraphModule) -> nn.Module:
    """The graph as a module that runs its code.

    torch.export interprets a GraphModule with lists that no function may write to, as swin3d_t's do.
    """
    module = nn.Module()
    for registry in ("_parameters", "_buffers", "_modules", "training"):
        module.__dict__[registry] = graph.__dict__[registry]
    module.forward = types.MethodType(type(graph).forward, module)
    return module


def examine(name: str, dialects: tuple[str, ...] = DIALECTS) -> Iterator[Row]:
    """A model's rows: every dialect, and both directions where it has a head."""
    model, images = build(name), inputs(name, RUN_BATCH, seed=1)
    calibrate(model, inputs(name))
    examples = inputs(name, EXPORT_BATCH)
    found = find_sites(model, example_inputs=None if name in REFUSED else examples)
    sites = tuple(site.name for site in found.sites)
    with torch.no_grad():
        expected = model(images) if sites else images
    forms: list[tuple[nn.Module, Form]] = [(model, Form.CONV)]
    if sites:
        to = Form.LINEAR if found.sites[0].form is Form.CONV else Form.CONV
        other = rewrite(model, to=to, example_inputs=examples).module
        forms = [(model, to), (other, found.sites[0].form)]
    for form, to in forms:
        for dialect in dialects:
            for label, graph in written_in(form, name, dialect):
                row = Row(name=name, dialect=label, to=to, sites=(), expected=sites)
                yield _rewritten(row, graph, images, expected)
                gc.collect()


def _rewritten(row: Row, graph: Any, images: Tensor, expected: Tensor) -> Row:
    examples = images if row.expected else None
    there = rewrite(graph, to=row.to, example_inputs=examples)
    row = dataclasses.replace(
        row,
        sites=tuple(done.site.name for done in there.report.rewrites),
        misses=tuple(str(miss.code) for miss in there.report.misses),
    )
    if not row.sites:
        return row
    form = Form.LINEAR if row.to is Form.CONV else Form.CONV
    back = rewrite(there.module, to=form, example_inputs=examples)
    runs, before = _runnable(there.module), _runnable(graph)
    tensors = runs.state_dict()
    with torch.no_grad():
        own = before(images)
        drift = difference(expected, own)
        measured = difference(own, runs(images))
        weight = tensors[there.report.rewrites[0].site.weight]
        right = weight.clone()
        weight.copy_(weight.roll(1, dims=1))
        damage = difference(own, runs(images))
        weight.copy_(right)  # the weight is every form's own
    as_it_was = graph if isinstance(graph, ExportedProgram) else rewrite(graph, to=form).module
    return dataclasses.replace(
        row,
        difference=measured,
        drift=drift,
        damage=damage,
        graph_restored=_nodes(as_it_was) == _nodes(back.module),
    )


def _runnable(graph: Any) -> nn.Module:
    return graph.module() if isinstance(graph, ExportedProgram) else graph  # type: ignore[no-any-return]


def _nodes(graph: Any) -> list[tuple[Any, ...]]:
    return [(n.op, n.name, n.target, repr(n.args), repr(n.kwargs)) for n in graph.graph.nodes]


def say(line: str) -> None:
    """One line of the table; the only place that prints."""
    print(line, flush=True)


def _show(row: Row) -> None:
    verdict = "ok" if row.is_right else "WRONG"
    label = f"{row.name:20} {row.dialect:18} to {row.to:6}"
    if row.difference is None or row.damage is None:
        say(f"{label} refused  {', '.join(row.misses) or 'NO REASON'}  {verdict}")
        return
    back = "yes" if row.graph_restored else "NO"
    say(
        f"{label} {row.difference:8.1e}  drift {row.drift or 0:7.1e}  damage {row.damage:7.1e}  "
        f"back {back:3}  {' '.join(row.sites)}  {verdict}"
    )


def _summary(rows: list[Row], seconds: float) -> None:
    for dialect in dict.fromkeys(row.dialect for row in rows):
        for to in Form:
            some = [row for row in rows if (row.dialect, row.to) == (dialect, to)]
            measured = [row.difference for row in some if row.difference is not None]
            worst = f"{max(measured):.1e}" if measured else "-"
            wrong = sum(not row.is_right for row in some)
            refused = len(some) - len(measured)
            say(
                f"{dialect:18} to {to:6} {len(measured):3} rewritten {refused:3} refused "
                f"{wrong:3} wrong  worst {worst}"
            )
    say(f"{len({row.name for row in rows})} models, {len(rows)} rewrites, {seconds:.0f} s")


def main() -> int:
    """Prints the table; 1 where a model did not do what is expected of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help="models; one of every family where none is named")
    parser.add_argument("--dialects", nargs="+", choices=DIALECTS, default=DIALECTS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON as well")
    options = parser.parse_args()
    # grouped convolutions in float64 run group by group; a second thread costs more than it gives
    torch.set_num_threads(1)
    start = time.perf_counter()
    rows: list[Row] = []
    for name in options.names or FAMILIES:
        for row in examine(name, tuple(options.dialects)):
            rows.append(row)
            _show(row)
    say("")
    _summary(rows, time.perf_counter() - start)
    if options.json:
        data = [dataclasses.asdict(row) | {"is_right": row.is_right} for row in rows]
        options.json.write_text(json.dumps(data, indent=2) + "\n")
    return 0 if rows and all(row.is_right for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
