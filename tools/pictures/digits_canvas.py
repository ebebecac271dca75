"""Makes the README's picture of digits on a canvas: trains a classifier, and gives both to ``fxhead cam``.

Writes digits.pt, canvas.png and canvas.cam.png to a folder; the same seed gives the same canvas. The
classifier and the canvases are those of tools/bench/canvas.py. Takes half a minute.

    python tools/pictures/digits_canvas.py FOLDER [--seed S]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

if __name__ == "__main__":  # from a checkout, installed or not
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root / folder) for folder in ("", "export", "tools")]

from bench.canvas import CANVAS, Canvas, canvases, split, train
from fxhead.cli import main as fxhead

SHOWN = 5


def make(folder: Path, seed: int) -> int:
    """Trains, saves, and draws; the exit code of ``fxhead cam``."""
    fit, held_out = split(seed)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(train(fit, seed), folder / "digits.pt")
    # another seed than the benchmark's: its canvases are not chosen from
    canvas = next(one for one in canvases(held_out, 1000, seed + 1) if len(one.places) == SHOWN)
    Image.fromarray(np.round(canvas.pixels * 255).astype(np.uint8)).save(folder / "canvas.png")
    return fxhead(arguments(folder, canvas))


def arguments(folder: Path, canvas: Canvas) -> list[str]:
    """The command line that draws the picture."""
    model, image, side = folder / "digits.pt", folder / "canvas.png", str(CANVAS)
    classes = ",".join(map(str, sorted(canvas.places)))
    size = ("--size", f"{side},{side}", "--mean", "0", "--std", "1")
    return ["cam", str(model), str(image), "-o", str(folder), "--classes", classes, *size, "--force"]


def main() -> int:
    """Makes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # sums are then the same however many cores there are
    return make(options.folder, options.seed)


if __name__ == "__main__":
    sys.exit(main())
