"""Class activation maps: ours against public packages on a ResNet-50, the same maps and the time they take.

The map of the dense form, less its bias, is held against CAM as the paper defines it, computed in float64,
against torchcam's CAM, and against pytorch-grad-cam's Grad-CAM, whose gradients are constant for such a
head, so that it is the same map after its ReLU, its division by the highest value and its resizing. Then
the calls are timed in turns, each from images to the maps of the top classes at the size of the images;
a forward pass of the model alone is there to compare with. A package that is not installed is left out.

    pip install grad-cam torchcam
    python tools/bench/cam.py [--batch N] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

if __name__ == "__main__":  # a benchmark runs from a checkout, installed or not
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root / folder) for folder in ("", "export", "tools")]

from bench.zoo import build, calibrate
from fxpasses import rewrite

MODEL, LAYER, SIDE = "resnet50", "layer4", 224
FASTER = 2.0
TOLERANCE = 1e-4
"""Of the largest value of a map: far above float32's rounding of 2,048 products, far below another map."""
PACKAGES = {"pytorch-grad-cam": "pytorch_grad_cam", "torchcam": "torchcam"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far the maps lie from others.

    Attributes:
        other: whose.
        difference: the largest, relative to the largest value of a map.
    """

    other: str
    difference: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long a call takes for the whole batch.

    Attributes:
        call: what was timed.
        best_ms: of the rounds; what else the machine does only adds to it.
        median_ms: of the rounds.
        ratio: to ours, of the best.
    """

    call: str
    best_ms: float
    median_ms: float
    ratio: float


class Calls:
    """The ways from images to maps, on one model."""

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self.model, self.images = model, images
        self.dense = rewrite(model, to="dense", outputs=("logits", "map")).module
        with torch.inference_mode():
            self.top = model(images).argmax(1)

    def scores(self) -> Tensor:
        """[N, h, w] of the top classes, by one forward pass of the dense form."""
        with torch.inference_mode():
            logits, maps = self.dense(self.images)
            return maps[torch.arange(len(maps)), logits.argmax(1)]

    def ours(self) -> Tensor:
        """The same at the size of the images."""
        return self._resized(self.scores())

    def forward(self) -> Tensor:
        """The logits alone."""
        with torch.inference_mode():
            logits: Tensor = self.model(self.images)
            return logits

    def grad_cam(self) -> Tensor:
        """pytorch-grad-cam's Grad-CAM: from 0 to 1, at the size of the images."""
        from pytorch_grad_cam import GradCAM

        with GradCAM(model=self.model, target_layers=[self._layer()]) as extractor:
            return torch.from_numpy(extractor(input_tensor=self.images, targets=None))

    def torchcam(self) -> Tensor:
        """Torchcam's CAM, as it is before it is normalised."""
        from torchcam.methods import CAM

        with CAM(self.model, LAYER, "fc") as extractor, torch.inference_mode():
            logits = self.model(self.images)
            (maps,) = extractor(logits.argmax(1).tolist(), normalized=False)
            return maps

    def torchcam_resized(self) -> Tensor:
        """The same at the size of the images."""
        return self._resized(self.torchcam())

    def of_the_paper(self) -> Tensor:
        """Σ_k w_k^c f_k(x, y) in float64."""
        found: list[Tensor] = []
        handle = self._layer().register_forward_hook(lambda module, args, output: found.append(output))
        with torch.inference_mode(), handle:
            self.model(self.images)
        weights = self.model.fc.weight.detach()[self.top].double()
        return torch.einsum("nk,nkhw->nhw", weights, found[0].double())

    def _layer(self) -> nn.Module:
        return self.model.get_submodule(LAYER)

    def _resized(self, maps: Tensor) -> Tensor:
        size = self.images.shape[2:]
        return functional.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]

    def as_grad_cam(self, maps: Tensor) -> Tensor:
        """Maps through what pytorch-grad-cam does to them: ReLU, 0 to 1, resizing, 0 to 1 again."""
        return _unit(self._resized(_unit(maps.clamp(min=0))))


def _unit(maps: Tensor) -> Tensor:
    low = maps.amin((1, 2), keepdim=True)
    return (maps - low) / (1e-7 + (maps - low).amax((1, 2), keepdim=True))


def agreements(calls: Calls) -> Iterator[Agreement]:
    """Our maps less their bias against the definition and what is installed."""
    cam = calls.scores() - calls.model.fc.bias.detach()[calls.top, None, None]
    yield Agreement(other="the paper's definition, float64", difference=_relative(cam, calls.of_the_paper()))
    if is_installed("torchcam"):
        yield Agreement(other="torchcam's CAM", difference=_relative(cam, calls.torchcam()))
    if is_installed("pytorch-grad-cam"):
        found = _relative(calls.as_grad_cam(cam), calls.grad_cam())
        yield Agreement(other="pytorch-grad-cam's Grad-CAM, normalised", difference=found)


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max() / b.double().abs().max())


def timings(calls: Calls, rounds: int) -> list[Timing]:
    """Every call once a round, in turns, after one round that does not count."""
    ways: dict[str, Callable[[], Any]] = {
        "fxhead, dense form": calls.ours,
        "forward pass alone": calls.forward,
    }
    if is_installed("torchcam"):
        ways["torchcam, CAM"] = calls.torchcam_resized
    if is_installed("pytorch-grad-cam"):
        ways["pytorch-grad-cam, Grad-CAM"] = calls.grad_cam
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for count in range(rounds + 1):
        for name, call in ways.items():
            start = time.perf_counter()
            call()
            if count:
                taken[name].append((time.perf_counter() - start) * 1e3)
    ours = min(taken["fxhead, dense form"])
    return [
        Timing(call=name, best_ms=min(values), median_ms=statistics.median(values), ratio=min(values) / ours)
        for name, values in taken.items()
    ]


def is_installed(package: str) -> bool:
    """Whether a package is there to compare with."""
    return importlib.util.find_spec(PACKAGES[package]) is not None


def main() -> int:
    """Prints the tables; ``--json`` also writes them. The exit code is 1 where a figure misses its mark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    model = build(MODEL, dtype=torch.float32)
    images = torch.randn(options.batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    calibrate(model, images)
    with contextlib.redirect_stdout(sys.stderr):  # what the packages say
        calls = Calls(model, images)
        agreed, timed = [*agreements(calls)], timings(calls, options.rounds)
    for package in PACKAGES:
        if not is_installed(package):
            print(f"skipped: {package} is not installed; pip install grad-cam torchcam")
    print(f"{MODEL}, {options.batch} images of {images.shape[-1]}, {torch.get_num_threads()} threads")
    print(f"{'the map, less its bias, against':42} {'difference':>10}")
    for row in agreed:
        print(f"{row.other:42} {row.difference:10.1e}")
    print(f"{'call':42} {'best ms':>10} {'median ms':>10} {'ratio':>6}")
    for row in timed:
        print(f"{row.call:42} {row.best_ms:10.0f} {row.median_ms:10.0f} {row.ratio:6.2f}")
    if options.json:
        plain = {
            "model": MODEL,
            "batch": options.batch,
            "threads": torch.get_num_threads(),
            "agreements": [dataclasses.asdict(row) for row in agreed],
            "timings": [dataclasses.asdict(row) for row in timed],
        }
        options.json.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
    slow = [row for row in timed if "Grad-CAM" in row.call and row.ratio < FASTER]
    return 1 if slow or any(row.difference > TOLERANCE for row in agreed) else 0


if __name__ == "__main__":
    sys.exit(main())
