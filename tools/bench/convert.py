"""What ``fxhead convert-weights`` costs on a large checkpoint, beside loading it and saving it again.

- **memory**: peak resident memory above that of the same imports, over the largest tensor. Budget 1.2, for
  a head that is only reshaped and for one whose k×k kernel needs another order.
- **time**: beside a bare load and save of the same file, no budget: both write the same bytes to the disk.

    python tools/bench/convert.py [--gigabytes N] [--folder DIR] [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":  # a benchmark runs from a checkout, installed or not
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root / folder) for folder in ("", "export", "tools")]

from bench._process import PEAK, python

BUDGET = 1.2
KERNEL = (2, 2)
CHANNELS = 1024
MAKE = """
import json, torch
from fxpasses import Form, WeightMove, WeightOrder, WeightPlan
rows, channels, kernel, order, path = {rows}, {channels}, {kernel}, {order!r}, {path!r}
columns = channels * kernel[0] * kernel[1]
state = {{"backbone.weight": torch.ones(rows, columns), "fc.weight": torch.ones(rows, columns)}}
move = WeightMove(
    name="fc.weight", order=WeightOrder(order), linear_shape=(rows, columns),
    conv_shape=(rows, channels, *kernel),
)
plan = WeightPlan(to=Form.CONV, moves=(move,))
if order == "channels_last":  # from the convolution to the linear form has to copy
    plan, state["fc.weight"] = plan.invert(), state["fc.weight"].view(move.conv_shape)
json.dump(plan.to_dict(), open(path + ".json", "w"))
if path.endswith("safetensors"):
    import safetensors.torch
    safetensors.torch.save_file(state, path)
else:
    # the optimiser knows the head alone, so that no other weight of its shape is in question
    groups = [{{"params": [0], "param_names": ["fc.weight"]}}]
    moment = {{"momentum_buffer": torch.ones_like(state["fc.weight"])}}
    torch.save({{"model": state, "optimizer": {{"state": {{0: moment}}, "param_groups": groups}}}}, path)
"""
CONVERT = """
import torch, fxhead.convert.run
from fxhead.cli import main
assert main(["convert-weights", {path!r}, "--plan", {path!r} + ".json", "-o", {out!r}, "--force"]) == 0
"""
IMPORTS = "import torch, fxhead.convert.run, fxhead.cli, fxhead.show.tables, rich.console\n"
BARE = {
    "pt": "import torch\ntorch.save(torch.load({path!r}), {out!r})\n",
    "safetensors": "from safetensors.torch import load_file, save_file\n"
    "save_file(load_file({path!r}), {out!r})\n",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One file, converted and bare."""

    container: str
    order: str
    file_bytes: int
    largest_bytes: int
    peak_bytes: int
    bare_peak_bytes: int
    convert_s: float
    bare_s: float

    @property
    def ratio(self) -> float:
        """Peak over the imports, by the largest tensor."""
        return self.peak_bytes / self.largest_bytes


def peak_over_imports(code: str, imports: str) -> tuple[int, float]:
    """Peak resident bytes that ``code`` adds to ``imports``, and its wall time."""
    floor = int(python("-c", imports + PEAK).split()[-1])
    start = time.perf_counter()
    peak = int(python("-c", code + PEAK).split()[-1])
    return (peak - floor) * 1024, time.perf_counter() - start


def measure(container: str, order: str, gigabytes: float, folder: Path) -> Measured:
    """The figures for one file of about ``gigabytes``, which is removed afterwards."""
    path, out = folder / f"run.{container}", folder / f"out.{container}"
    tensors = 2 if container == "safetensors" else 3
    columns = CHANNELS * KERNEL[0] * KERNEL[1]
    rows = int(gigabytes * 1e9 / tensors / 4 / columns)
    python("-c", MAKE.format(rows=rows, channels=CHANNELS, kernel=KERNEL, order=order, path=str(path)))
    names = {"path": str(path), "out": str(out)}
    peak, seconds = peak_over_imports(CONVERT.format(**names), IMPORTS)
    out.unlink()
    bare_peak, bare_seconds = peak_over_imports(BARE[container].format(**names), "import torch\n")
    found = Measured(
        container=container,
        order=order,
        file_bytes=path.stat().st_size,
        largest_bytes=rows * columns * 4,
        peak_bytes=peak,
        bare_peak_bytes=bare_peak,
        convert_s=seconds,
        bare_s=bare_seconds,
    )
    for left in (path, out, Path(f"{path}.json")):
        left.unlink()
    return found


def main() -> int:
    """Prints the table; 1 where a budget is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, help="where there is room for two such files")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    print("file         kernel             size      peak  of tensor      bare     time     bare")
    results = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for container in ("pt", "safetensors"):
            for order in ("channels_first", "channels_last"):
                found = measure(container, order, options.gigabytes, Path(folder))
                results.append(found)
                print(
                    f"{container:12} {order:15} {found.file_bytes / 1e9:5.2f} GB "
                    f"{found.peak_bytes / 1e6:6.0f} MB {found.ratio:9.3f} "
                    f"{found.bare_peak_bytes / 1e6:6.0f} MB {found.convert_s:6.1f} s {found.bare_s:6.1f} s"
                )
    if options.json:
        rows = [dataclasses.asdict(found) | {"ratio": found.ratio} for found in results]
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    return int(any(found.ratio > BUDGET for found in results))


if __name__ == "__main__":
    sys.exit(main())
