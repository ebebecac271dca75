"""How long the convolution form takes beside the linear one in ONNX Runtime on a CPU, pool included.

CPU time of one thread, both forms taking turns in one run, conv ÷ linear: of heads alone (from the map to the
logits) and of whole models, at batches 1, 8 and 32. Of each ratio the median over ``--turns`` and, in
brackets, the quartiles: where they enclose 1, nothing was told apart.

    python tools/bench/heads.py [--turns N] [--models NAME ...]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":  # a benchmark runs from a checkout, installed or not
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root / folder) for folder in ("", "export", "tools")]

import numpy as np
import torch
import torchvision
from torch import nn

from fxexport import export_onnx
from fxexport.providers import require_onnxruntime
from fxpasses import rewrite

BATCHES = (1, 8, 32)
HEADS = {"512 → 1000": (512,), "2048 → 1000": (2048,), "576 → 1024 → 1000, hardswish": (576, 1024)}
MODELS = ("resnet18", "mobilenet_v3_small", "efficientnet_b0")
SHORTEST = 0.02
"""Seconds: so often is a session run for one time that this is reached."""


def head(*widths: int) -> nn.Module:
    """Pool, flatten and one or two layers."""
    layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    for now, then in zip(widths, (*widths[1:], 1000), strict=True):
        layers += [nn.Linear(now, then), nn.Hardswish()]
    return nn.Sequential(*layers[:-1]).eval()


def cases(models: list[str]) -> Iterator[tuple[str, nn.Module, tuple[int, ...]]]:
    """What is measured, and the shape of one sample."""
    for name, widths in HEADS.items():
        yield name, head(*widths), (widths[0], 7, 7)
    for name in models:
        yield name, torchvision.models.get_model(name, weights=None).eval(), (3, 224, 224)


def session(module: nn.Module, shape: tuple[int, ...], path: Path):
    """A session of one thread on the module's file."""
    export_onnx(module, torch.randn(2, *shape), path)
    runtime = require_onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def seconds(run, values: np.ndarray, times: int) -> float:
    """CPU time of so many runs."""
    start = time.process_time()
    for _ in range(times):
        run.run(None, {run.get_inputs()[0].name: values})
    return time.process_time() - start


def ratios(linear, conv, shape: tuple[int, ...], batch: int, turns: int) -> list[float]:
    """The convolution's time over the linear form's, by turn; who goes first alternates."""
    values = np.random.default_rng(0).standard_normal((batch, *shape)).astype(np.float32)
    first = max(seconds(each, values, 1) for each in (linear, conv, linear, conv))
    times, found = max(1, round(SHORTEST / max(first, 1e-6))), []
    for turn in range(turns):
        order = (linear, conv) if turn % 2 else (conv, linear)
        took = {id(each): seconds(each, values, times) for each in order}
        found.append(took[id(conv)] / took[id(linear)])
    return found


def main() -> None:
    """Prints a row for each head and model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=41)
    parser.add_argument("--models", nargs="*", default=[*MODELS])
    options = parser.parse_args()
    print(f"{'conv ÷ linear, CPU time':32}" + "".join(f"{f'batch {batch}':>20}" for batch in BATCHES))
    with tempfile.TemporaryDirectory() as folder:
        for name, model, shape in cases(options.models):
            pair = [
                session(module, shape, Path(folder, f"{form}.onnx"))
                for form, module in (("linear", model), ("conv", rewrite(model, to="conv").module))
            ]
            cells = []
            for batch in BATCHES:
                turns = options.turns if len(shape) and shape[0] > 3 else max(7, options.turns // 4)
                low, middle, high = statistics.quantiles(ratios(*pair, shape, batch, turns), n=4)
                cells.append(f"{middle:.2f} ({low:.2f}-{high:.2f})")
            print(f"{name:32}" + "".join(f"{cell:>20}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
