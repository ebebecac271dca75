"""The performance budget as ratios of medians, all taken in turns in one run.

Finding, rewriting in place, ``GraphModule.recompile()`` and ``replace_pattern`` on graphs of 1 k,
10 k and 100 k nodes, finding on a million; how a rewrite grows with heads,
layers, blocks and nodes; bytes of weights copied and peak memory on VGG-16;
start-up; and the ``rewrite`` command without ONNX over its floor.

    python tools/bench/passes.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

if __name__ == "__main__":  # a benchmark runs from a checkout, installed or not
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root / folder) for folder in ("", "export", "tools")]

import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassBase
from torch.fx.subgraph_rewriter import replace_pattern

from bench import _aten_chain, _process
from bench._chain import chain, conv_pattern, linear_pattern
from bench._growth import GROWTHS
from fxpasses import ConvToLinear, LinearToConv, find_sites, rewrite

SIZES = (1_000, 10_000, 100_000)
MILLION = 1_000_000
FIND_US = 2.0
PASS_RATIO = 1.1
PATTERN_RATIO = 5.0
HELP_S = 0.2
IMPORT_S = 0.05
MEMORY_RATIO = 1.05
COMMAND_RATIO = 1.15
EXPONENT = 1.2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured quantity and its budget.

    Attributes:
        what: what was measured, and on what.
        value: the measurement.
        unit: its unit; ``x`` for a ratio.
        budget: the limit, None where the value is there to compare with.
        is_floor: whether the value has to be at least the budget, not at most.
    """

    what: str
    value: float
    unit: str
    budget: float | None = None
    is_floor: bool = False

    @property
    def verdict(self) -> str:
        """``pass`` or ``MISS``, empty without a budget."""
        if self.budget is None:
            return ""
        met = self.value >= self.budget if self.is_floor else self.value <= self.budget
        return "pass" if met else "MISS"

    def line(self) -> str:
        """The row as the table has it."""
        sign = "" if self.budget is None else f"{'>=' if self.is_floor else '<='} {self.budget:g} {self.unit}"
        return f"{self.what:58} {self.value:12.4g} {self.unit:7} {sign:14} {self.verdict}"


def medians(jobs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each job; the jobs take turns, in order, so that they may undo each other.

    All run on one thread, so that what else the machine does counts less than on the wall clock. Garbage is
    collected between the jobs and not within them; what was there before is frozen, as a collection that
    walks all of torch's objects leaves cold caches to the job after it.
    """
    times: dict[str, list[float]] = {name: [] for name in jobs}
    with _frozen():
        for _ in range(repeats):
            for name, job in jobs.items():
                gc.collect()
                times[name].append(_cpu_seconds(job))
    return {name: statistics.median(values) for name, values in times.items()}


def _cpu_seconds(job: Callable[[], object]) -> float:
    start = time.process_time()
    job()
    return time.process_time() - start


@contextmanager
def _frozen() -> Iterator[None]:
    """No collection but those asked for, and none of what is there already."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def _scan(module: fx.GraphModule) -> int:
    return sum(node.op == "call_function" for node in module.graph.nodes)


def _applied(rewriting: PassBase, module: fx.GraphModule) -> None:
    result = rewriting(module)
    assert result is not None
    assert result.modified


def _replaced(module: fx.GraphModule, pattern: Callable[..., object], by: Callable[..., object]) -> None:
    assert len(replace_pattern(module, pattern, by)) == 1


@contextmanager
def _without_recompile() -> Iterator[None]:
    """Leaves out the code generation that every editing pass needs, whoever wrote it."""
    recompile = fx.GraphModule.recompile
    fx.GraphModule.recompile = lambda self: None  # type: ignore[method-assign, assignment, return-value]
    try:
        yield
    finally:
        fx.GraphModule.recompile = recompile  # type: ignore[method-assign]


def graph_rows(nodes: int, repeats: int) -> Iterator[Row]:
    """Finding and rewriting on a graph of ``nodes`` nodes, beside what it cannot be faster than."""
    ours, theirs = chain(nodes), chain(nodes)
    count = len(ours.graph.nodes)
    times = medians(
        {
            "scan": lambda: _scan(ours),
            "find": lambda: find_sites(ours),
            "recompile": ours.recompile,
            "there": lambda: _applied(LinearToConv(), ours),
            "recompile_conv": ours.recompile,
            "back": lambda: _applied(ConvToLinear(), ours),
            "pattern": lambda: _replaced(theirs, linear_pattern, conv_pattern),
            "pattern_back": lambda: _replaced(theirs, conv_pattern, linear_pattern),
        },
        repeats,
    )
    with _without_recompile():
        edits = medians(
            {
                "there": lambda: _applied(LinearToConv(), ours),
                "back": lambda: _applied(ConvToLinear(), ours),
                "pattern": lambda: _replaced(theirs, linear_pattern, conv_pattern),
                "pattern_back": lambda: _replaced(theirs, conv_pattern, linear_pattern),
            },
            repeats,
        )
    size = f"{nodes // 1000} k nodes"
    yield Row(what=f"bare scan, {size}", value=times["scan"] / count * 1e6, unit="µs/node")
    yield Row(what=f"find, {size}", value=times["find"] / count * 1e6, unit="µs/node", budget=FIND_US)
    yield Row(what=f"recompile, {size}", value=times["recompile"] * 1e3, unit="ms")
    yield Row(what=f"LinearToConv in place, {size}", value=times["there"] * 1e3, unit="ms")
    yield Row(what=f"replace_pattern, {size}", value=times["pattern"] * 1e3, unit="ms")
    for name, key, compiled in (
        ("LinearToConv", "there", "recompile_conv"),
        ("ConvToLinear", "back", "recompile"),
    ):
        ratio = times[key] / times[compiled]
        yield Row(what=f"{name} over recompile, {size}", value=ratio, unit="x", budget=PASS_RATIO)
    for name, key in (("LinearToConv", "there"), ("ConvToLinear", "back"), ("replace_pattern", "pattern")):
        yield Row(what=f"{name}, no recompile, {size}", value=edits[key] * 1e3, unit="ms")
    what = f"replace_pattern over LinearToConv, no recompile, {size}"
    ratio = edits["pattern"] / edits["there"]
    yield Row(what=what, value=ratio, unit="x")


def aten_rows(repeats: int) -> Iterator[Row]:
    """Finding and rewriting on an exported model, beside one canonical pattern on the same graph."""
    exported = _aten_chain.program()
    ours, theirs = _aten_chain.graph(exported), _aten_chain.graph(exported)
    count = len(ours.graph.nodes)
    conv, linear = _aten_chain.conv_pattern, _aten_chain.linear_pattern
    jobs: dict[str, Callable[[], object]] = {
        "find": lambda: find_sites(ours),
        "there": lambda: _applied(LinearToConv(), ours),
        "back": lambda: _applied(ConvToLinear(), ours),
        "pattern": lambda: _replaced(theirs, linear, conv),
        "pattern_back": lambda: _replaced(theirs, conv, linear),
    }
    times = medians({"recompile": ours.recompile, **jobs}, repeats)
    with _without_recompile():
        edits = medians(jobs, repeats)
    size = f"{_aten_chain.MODEL} in core ATen, {count} nodes"
    yield Row(what=f"find, {size}", value=times["find"] / count * 1e6, unit="µs/node", budget=FIND_US)
    yield Row(what=f"recompile, {size}", value=times["recompile"] * 1e3, unit="ms")
    for name, key in (("LinearToConv", "there"), ("ConvToLinear", "back")):
        ratio = times[key] / times["recompile"]
        yield Row(what=f"{name} over recompile, {size}", value=ratio, unit="x", budget=PASS_RATIO)
        yield Row(what=f"{name}, no recompile, {size}", value=edits[key] * 1e3, unit="ms")
        pattern = edits["pattern" if key == "there" else "pattern_back"]
        yield Row(what=f"replace_pattern, no recompile, {size}", value=pattern * 1e3, unit="ms")
        what = f"replace_pattern over {name}, no recompile, {size}"
        yield Row(what=what, value=pattern / edits[key], unit="x", budget=PATTERN_RATIO, is_floor=True)
    there, other = _first_medians(exported, repeats)
    yield Row(what=f"LinearToConv, no recompile, new graph, {size}", value=there * 1e3, unit="ms")
    yield Row(what=f"replace_pattern, no recompile, new graph, {size}", value=other * 1e3, unit="ms")
    what = f"replace_pattern over LinearToConv, no recompile, new graph, {size}"
    yield Row(what=what, value=other / there, unit="x")


def _first_medians(exported: torch.export.ExportedProgram, repeats: int) -> tuple[float, float]:
    """Median CPU seconds of LinearToConv and of replace_pattern, each time on a graph not seen before."""
    ours: list[float] = []
    theirs: list[float] = []
    conv, linear = _aten_chain.conv_pattern, _aten_chain.linear_pattern
    for _ in range(repeats):
        first, second = _aten_chain.graph(exported), _aten_chain.graph(exported)
        with _frozen(), _without_recompile():
            ours.append(_cpu_seconds(functools.partial(_applied, LinearToConv(), first)))
            theirs.append(_cpu_seconds(functools.partial(_replaced, second, linear, conv)))
    return statistics.median(ours), statistics.median(theirs)


def million_rows(repeats: int) -> Iterator[Row]:
    """Finding on a million nodes."""
    module = chain(MILLION)
    times = medians({"scan": lambda: _scan(module), "find": lambda: find_sites(module)}, repeats)
    scale = 1e6 / len(module.graph.nodes)
    yield Row(what="bare scan, 1 M nodes", value=times["scan"] * scale, unit="µs/node")
    yield Row(what="find, 1 M nodes", value=times["find"] * scale, unit="µs/node", budget=FIND_US)


def growth_rows(repeats: int) -> Iterator[Row]:
    """A rewrite at two sizes, with the exponent by which its time grows: 1 where it is linear."""
    for growth in GROWTHS:
        seconds = []
        for size in growth.sizes:
            model = growth.build(size)
            job = functools.partial(
                rewrite, model, to=growth.to, scope=growth.scope, example_inputs=growth.example
            )
            seconds.append(medians({"rewrite": job}, repeats)["rewrite"])
            what = f"rewrite to {growth.to}, {size} {growth.what}"
            yield Row(what=what, value=seconds[-1], unit="s")
        small, large = growth.sizes
        exponent = math.log(seconds[1] / seconds[0]) / math.log(large / small)
        what = f"exponent, rewrite to {growth.to}, {growth.what}"
        yield Row(what=what, value=exponent, unit="", budget=EXPONENT)


def weight_rows(folder: Path) -> Iterator[Row]:
    """Bytes copied and peak memory on VGG-16, whose head holds nine tenths of its weights."""
    from torchvision import models

    with torch.device("meta"):
        result = rewrite(models.vgg16(weights=None).eval(), to="conv")
    assert len(result.report.rewrites) == 3
    yield Row(what="weights copied, VGG-16", value=result.report.copied_bytes, unit="B", budget=0)
    source = folder / "vgg16.pt"
    _process.save_model("vgg16", source)
    load, both = _process.peaks(source, folder / "vgg16.conv.pt")
    yield Row(what="peak memory of load, VGG-16", value=load / 2**20, unit="MiB")
    yield Row(what="peak memory of load, rewrite, save, VGG-16", value=both / 2**20, unit="MiB")
    what = "peak memory over load, VGG-16"
    yield Row(what=what, value=both / load, unit="x", budget=MEMORY_RATIO)
    yield from command_rows(source, folder, "VGG-16")
    source.unlink()


def command_rows(source: Path, folder: Path, name: str, repeats: int = 3) -> Iterator[Row]:
    """The command without ONNX over its floor."""
    command, floor = _process.rewrite_and_floor(source, folder, repeats)
    yield Row(what=f"import torch + load + save, {name}", value=floor, unit="s")
    yield Row(what=f"fxhead rewrite --no-onnx, {name}", value=command, unit="s")
    what = f"fxhead rewrite --no-onnx over its floor, {name}"
    yield Row(what=what, value=command / floor, unit="x", budget=COMMAND_RATIO)


def start_rows(repeats: int) -> Iterator[Row]:
    """Start-up."""
    times = _process.seconds({"bare": ["-c", "pass"], "help": ["-m", "fxhead", "--help"]}, repeats)
    yield Row(what="python -c pass", value=times["bare"], unit="s")
    yield Row(what="fxhead --help", value=times["help"], unit="s", budget=HELP_S)
    yield Row(what="torch imports by fxhead --help", value=_process.help_imports_torch(), unit="", budget=0)
    value = _process.import_seconds(repeats)
    yield Row(what="import fxpasses over import torch", value=value, unit="s", budget=IMPORT_S)


def all_rows(*, quick: bool) -> Iterator[Row]:
    """Every row, in the order of the table."""
    for nodes in SIZES[: 2 if quick else 3]:
        yield from graph_rows(nodes, repeats=5 if nodes > 10_000 else 11)
    yield from aten_rows(repeats=11)
    if not quick:
        yield from million_rows(repeats=3)
    yield from growth_rows(repeats=1 if quick else 3)
    yield from start_rows(repeats=7)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "resnet50.pt"
        _process.save_model("resnet50", source)
        yield from command_rows(source, folder, "ResNet-50", repeats=5)
        if not quick:
            yield from weight_rows(folder)


def say(line: str) -> None:
    """One line of the table; the only place that prints."""
    print(line, flush=True)


def main() -> int:
    """Prints the table; a missed budget is in it and is not an error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="only what takes seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for row in all_rows(quick=options.quick):
        rows.append(row)
        say(row.line())
    judged = [row for row in rows if row.verdict]
    say(f"\n{sum(row.verdict == 'pass' for row in judged)} of {len(judged)} budgets met")
    if options.json:
        data = [dataclasses.asdict(row) | {"verdict": row.verdict} for row in rows]
        options.json.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
