"""Every torchvision classification and video model, and transformers families: heads there and back.

For each model: the sites, the greatest difference to the original in float64 (relative to how much
the logits differ between samples, with batch norms calibrated first so that they do), whether a
deliberately damaged head shows in that measure, whether state-dict keys and storages are kept,
whether the way back gives the same graph, and what was refused and why.

    python tools/bench/zoo.py [NAME ...] [--group all|classification|video|transformers] [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torchvision import models

if __name__ == "__main__":  # a benchmark runs from a checkout, installed or not
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fxpasses import find_sites, rewrite
from fxpasses.report import Form, Sites

BATCH = 2
TOLERANCE = 1e-12
# damage moves an output by a part of the signal in it; rounding by some 1e-15
DAMAGE_SEEN = 1e-6
IMAGE = (3, 64, 64)
# the smallest inputs that these accept; all others take 64 x 64
INPUT_SHAPES = {
    "inception_v3": (3, 96, 96),
    "maxvit_t": (3, 224, 224),
    "s3d": (3, 16, 224, 224),
    "swin3d_b": (3, 4, 64, 64),
    "swin3d_s": (3, 4, 64, 64),
    "swin3d_t": (3, 4, 64, 64),
    "mc3_18": (3, 8, 64, 64),
    "r2plus1d_18": (3, 8, 64, 64),
    "r3d_18": (3, 8, 64, 64),
    "vit_b_16": (3, 224, 224),
    "mvit_v1_b": (3, 16, 224, 224),
    "mvit_v2_s": (3, 16, 224, 224),
    "transformers:levit": (3, 224, 224),
    "transformers:swin": (3, 224, 224),
}
# torchvision draws these by slow rejection sampling, and calibration replaces what it is for
OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False},
}
TRANSFORMERS = "transformers:"
# families of transformers with a pooled head, by their default configuration
FAMILIES = (
    "bit", "convnext", "convnextv2", "efficientnet", "focalnet", "levit", "mobilenet_v1", "mobilenet_v2",
    "mobilevit", "mobilevitv2", "poolformer", "pvt_v2", "regnet", "resnet", "swiftformer", "swin",
)  # fmt: skip
# class tokens, and a convolution that comes before the pool
REFUSED = {
    "mvit_v1_b": "NOT_POOLED",
    "mvit_v2_s": "NOT_POOLED",
    "squeezenet1_0": "BEFORE_POOL",
    "squeezenet1_1": "BEFORE_POOL",
    "vit_b_16": "NOT_POOLED",
    "vit_b_32": "NOT_POOLED",
    "vit_h_14": "NOT_POOLED",
    "vit_l_16": "NOT_POOLED",
    "vit_l_32": "NOT_POOLED",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one model gave.

    Attributes:
        name: torchvision's name of the model.
        parameters: how many weights it has.
        sites: ``path: before -> after`` of each site.
        misses: ``path: CODE`` of each miss.
        with_inputs: whether the sites are only found with example inputs.
        difference: to the original, relative to the signal; None where nothing was rewritten.
        damage: the same with the head's first weight rolled by one channel.
        keys_kept: whether the state dict has the same names in the same order.
        storages_shared: whether every weight still lives where it did.
        graph_restored: whether the way back gave the same graph, node for node.
        seconds: all of it.
    """

    name: str
    parameters: int
    sites: tuple[str, ...] = ()
    misses: tuple[str, ...] = ()
    with_inputs: bool = False
    difference: float | None = None
    damage: float | None = None
    keys_kept: bool = True
    storages_shared: bool = True
    graph_restored: bool = True
    seconds: float = 0.0

    @property
    def is_right(self) -> bool:
        """Whether the model did what is expected of it."""
        if self.name in REFUSED:
            codes = {miss.split(": ")[1] for miss in self.misses}
            return not self.sites and codes == {REFUSED[self.name]}
        return (
            bool(self.sites)
            and self.difference is not None
            and self.difference <= TOLERANCE
            and self.damage is not None
            and self.damage > DAMAGE_SEEN
            and self.keys_kept
            and self.storages_shared
            and self.graph_restored
        )


def model_names(group: str = "all") -> list[str]:
    """Names of torchvision's classification models, video models, transformers' families, or all."""
    names = []
    if group in ("all", "classification"):
        names += models.list_models(module=models)
    if group in ("all", "video"):
        names += models.list_models(module=models.video)
    if group in ("all", "transformers"):
        names += [TRANSFORMERS + name for name in FAMILIES]
    return names


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def build(name: str, device: str = "cpu", dtype: torch.dtype = torch.float64) -> nn.Module:
    """The model with random weights, in eval mode."""
    if device == "meta" and name.startswith("regnet"):
        # its constructor computes widths with tensors
        return build(name, "cpu", dtype).to("meta")
    with torch.device(device), _default_dtype(dtype), warnings.catch_warnings():
        # googlenet and inception_v3 announce a change of their default initialisation
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(0)
        if name.startswith(TRANSFORMERS):
            return _from_transformers(name.removeprefix(TRANSFORMERS)).to(dtype).eval()
        model: nn.Module = models.get_model(name, weights=None, **OPTIONS.get(name, {}))
        # swin_v2 has a table that is float32 whatever the default is
        return model.to(dtype).eval()


def _from_transformers(family: str) -> nn.Module:
    import transformers

    known = transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    config = next(kind for kind in known if kind.model_type == family)
    kinds = known[config]
    model: nn.Module = (kinds[0] if isinstance(kinds, tuple) else kinds)(config())
    return model


def logits(output: Any) -> Tensor:
    """The logits among what a model gives."""
    return output if isinstance(output, Tensor) else output["logits"]


def inputs(name: str, batch: int = BATCH, seed: int = 0) -> Tensor:
    """Random images or clips of the smallest size that the model takes."""
    generator = torch.Generator().manual_seed(seed)
    shape = INPUT_SHAPES.get(name, IMAGE)
    return torch.randn(batch, *shape, generator=generator, dtype=torch.float64)


@torch.no_grad()
def calibrate(model: nn.Module, x: Tensor) -> None:
    """Batch-norm statistics of real activations; without them an output may be its bias alone."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
        norm.train()
    model(x)
    for norm in norms:
        norm.eval()


def difference(reference: Tensor, candidate: Tensor) -> float:
    """Greatest difference, relative to how much the reference's samples differ."""
    signal = (reference - reference.mean(0)).abs().max()
    gap = (reference - candidate).abs().max()
    return float(gap / signal) if signal > 0 else float("inf")


def _places(module: nn.Module) -> dict[str, int]:
    state = module.state_dict(keep_vars=True)
    return {name: tensor.untyped_storage().data_ptr() for name, tensor in state.items()}


def _nodes(module: fx.GraphModule) -> list[tuple[Any, ...]]:
    return [(n.op, n.name, n.target, repr(n.args), repr(n.kwargs)) for n in module.graph.nodes]


def _look(name: str) -> tuple[Sites, bool, int]:
    """Sites and misses, read without allocating weights."""
    model = build(name, "meta", torch.float32)
    parameters = sum(weight.numel() for weight in model.parameters())
    if name.startswith(TRANSFORMERS):  # torch.fx does not trace them
        return find_sites(build(name), example_inputs=inputs(name)), True, parameters
    found = find_sites(model)
    if found.sites or not any(miss.code.startswith("UNKNOWN") for miss in found.misses):
        return found, False, parameters
    return find_sites(model, example_inputs=inputs(name).to("meta", torch.float32)), True, parameters


def examine(name: str) -> Row:
    """One model's row."""
    start = time.perf_counter()
    found, with_inputs, parameters = _look(name)
    misses = tuple(f"{miss.name}: {miss.code}" for miss in found.misses)
    row = Row(name=name, parameters=parameters, misses=misses, with_inputs=with_inputs)
    if found.sites:
        row = _rewritten(row, found.sites[0].form)
    return dataclasses.replace(row, seconds=time.perf_counter() - start)


@torch.no_grad()
def _rewritten(row: Row, form: Form) -> Row:
    model, x = build(row.name), inputs(row.name)
    calibrate(model, x)
    examples = x if row.with_inputs else None
    to = Form.CONV if form is Form.LINEAR else Form.LINEAR
    there = rewrite(model, to=to, example_inputs=examples)
    back = rewrite(there.module, to=form, example_inputs=examples)
    reference = logits(model(x))
    found = [logits(result.module(x)) for result in (there, back)]
    measured = max(difference(reference, result) for result in found)
    places = _places(model)
    # last, because the weight is the caller's own
    weight = there.module.state_dict()[there.report.rewrites[0].site.weight]
    weight.copy_(weight.roll(1, dims=1))
    return dataclasses.replace(
        row,
        sites=tuple(f"{done.site.name}: {done.before} -> {done.after}" for done in there.report.rewrites),
        difference=measured,
        damage=difference(reference, logits(there.module(x))),
        keys_kept=list(places) == list(_places(there.module)) == list(_places(back.module)),
        storages_shared=places == _places(there.module) == _places(back.module),
        graph_restored=_nodes(back.module) == _nodes(rewrite(model, to=form, example_inputs=examples).module),
    )


def say(line: str) -> None:
    """One line of the table; the only place that prints."""
    print(line, flush=True)


def _show(row: Row) -> None:
    def yes(fact: bool) -> str:
        return "yes" if fact else "NO"

    verdict = "ok" if row.is_right else "WRONG"
    if row.difference is None:
        reasons = ", ".join(row.misses) or "NO REASON"
        say(f"{row.name:22} refused  {reasons:58} {row.seconds:6.1f} s  {verdict}")
        return
    say(
        f"{row.name:22} {len(row.sites):2} sites  {row.difference:8.1e}  damage {row.damage:7.1e}  "
        f"keys {yes(row.keys_kept):3} shared {yes(row.storages_shared):3} back {yes(row.graph_restored):3} "
        f"{row.seconds:6.1f} s  {verdict}{'  (with example inputs)' if row.with_inputs else ''}"
    )
    for site in row.sites:
        say(f"{'':22} {site}")
    for miss in row.misses:
        say(f"{'':22} missed {miss}")


def main() -> int:
    """Prints the table; 1 where a model did not do what is expected of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help="models; all of the group where none is named")
    parser.add_argument("--group", choices=("all", "classification", "video", "transformers"), default="all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON as well")
    options = parser.parse_args()
    # grouped convolutions in float64 run group by group; a second thread costs more than it gives
    torch.set_num_threads(1)
    rows = []
    for name in options.names or model_names(options.group):
        rows.append(examine(name))
        _show(rows[-1])
        gc.collect()
    wrong = [row.name for row in rows if not row.is_right]
    rewritten = sum(row.difference is not None for row in rows)
    worst = max((row.difference for row in rows if row.difference is not None), default=None)
    say(f"\n{len(rows)} models: {rewritten} rewritten, {len(rows) - rewritten} refused, {len(wrong)} wrong")
    say(f"worst difference {worst}" if worst is not None else "nothing was compared")
    if options.json:
        options.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=2) + "\n")
    return 1 if wrong or worst is None else 0


if __name__ == "__main__":
    sys.exit(main())
