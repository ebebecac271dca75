"""Does the map find the digits? A classifier of single digits, made dense, on canvases with several.

Trained on one half of scikit-learn's digits, each at a random place of an empty square twice its size, and
one square in eleven with nothing in it: that class has the fixed logit 0, so that a positive score says
"rather this digit than nothing". It never sees two digits at once, nor where they are. Canvases are made
of the other half: three to six digits of different classes, at least three pixels apart. For each digit:
whether the place with the highest score of its class, on the whole canvas, lies inside its 8×8 pixels.

    python tools/bench/canvas.py [--canvases N] [--seed S] [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

if __name__ == "__main__":  # a benchmark runs from a checkout, installed or not
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root / folder) for folder in ("", "export", "tools")]

from fxpasses import rewrite

CLASSES, DIGIT = 10, 8
SQUARE, CANVAS, APART = 16, 64, 3
EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 40, 64, 6e-3, 1e-4
SMOOTHING = 0.1
"""Of the labels: without it the scores around a digit grow as large as those on it."""
WANTED = 0.95


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Digits:
    """Half of scikit-learn's digits, of 0 … 1.

    Shapes:
        images: [N, 8, 8]; labels: [N].
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Canvas:
    """Digits on an empty canvas.

    Attributes:
        pixels: [64, 64], of 0 … 1.
        places: for each class on it the upper left corner of its digit: row and column.
    """

    pixels: NDArray[np.float32]
    places: dict[int, tuple[int, int]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was found on many canvases.

    Attributes:
        seed: of the split, the training and the canvases.
        accuracy: of the classifier on single digits that it was not trained on, centred in a square.
        canvases: how many.
        all_inside: canvases on which every class's highest score lies inside its digit.
        digits: how many, on all canvases.
        inside: digits inside which their class's highest score lies.
        by_class: share of ``inside``, for each class.
        training_s: seconds that training took.
    """

    seed: int
    accuracy: float
    canvases: int
    all_inside: int
    digits: int
    inside: int
    by_class: tuple[float, ...]
    training_s: float

    @property
    def is_good(self) -> bool:
        """Whether as many canvases are right as there should be, all digits of each counted."""
        return self.all_inside >= WANTED * self.canvases


def split(seed: int) -> tuple[Digits, Digits]:
    """The digits to train on, and those held out; each class halved."""
    data = load_digits()
    images, labels = (data.images / data.images.max()).astype(np.float32), data.target.astype(np.int64)
    halves = train_test_split(np.arange(len(labels)), test_size=0.5, stratify=labels, random_state=seed)
    fit, held_out = (Digits(images=images[half], labels=labels[half]) for half in halves)
    return fit, held_out


def build() -> nn.Sequential:
    """The classifier: a place of its map sees 14×14 pixels, a digit and what is around it."""

    def block(channels: int, out: int) -> tuple[nn.Module, ...]:
        return nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()

    features = (*block(1, 24), *block(24, 24), nn.MaxPool2d(2), *block(24, 48), *block(48, 48))
    return nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, CLASSES))


def train(digits: Digits, seed: int) -> nn.Sequential:
    """The trained classifier in eval mode; the same for the same seed and version of torch."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    model = build().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    batches = -(-len(digits.labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=EPOCHS * batches)
    for _ in range(EPOCHS):
        for rows in np.array_split(random.permutation(len(digits.labels)), batches):
            squares, targets = _squares(digits, rows, random)
            logits = model(squares)
            with_nothing = torch.cat([logits, logits.new_zeros(len(logits), 1)], 1)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(with_nothing, targets, label_smoothing=SMOOTHING)
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def _squares(digits: Digits, rows: NDArray[np.int64], random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A digit somewhere on each square, but for one in eleven; their classes, 10 for nothing."""
    squares = np.zeros((len(rows), 1, SQUARE, SQUARE), np.float32)
    targets = np.full(len(rows), CLASSES)
    for index, row in enumerate(rows):
        if random.random() < 1 / (CLASSES + 1):
            continue
        top, left = random.integers(0, SQUARE - DIGIT + 1, 2)
        squares[index, 0, top : top + DIGIT, left : left + DIGIT] = digits.images[row]
        targets[index] = digits.labels[row]
    return torch.from_numpy(squares), torch.from_numpy(targets)


def accuracy(model: nn.Module, digits: Digits) -> float:
    """Share of single digits, centred in a square, that are read right."""
    margin = (SQUARE - DIGIT) // 2
    squares = np.pad(digits.images, ((0, 0), (margin, margin), (margin, margin)))[:, None]
    with torch.inference_mode():
        read = model(torch.from_numpy(squares)).argmax(1).numpy()
    return float((read == digits.labels).mean())


def canvases(digits: Digits, count: int, seed: int) -> Iterator[Canvas]:
    """Random canvases, the same for the same seed."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        pixels = np.zeros((CANVAS, CANVAS), np.float32)
        places: dict[int, tuple[int, int]] = {}
        for label in random.choice(CLASSES, random.integers(3, 7), replace=False):
            row = random.choice(np.flatnonzero(digits.labels == label))
            top, left = _free_place(places, random)
            pixels[top : top + DIGIT, left : left + DIGIT] = digits.images[row]
            places[int(label)] = (top, left)
        yield Canvas(pixels=pixels, places=places)


def _free_place(places: dict[int, tuple[int, int]], random: np.random.Generator) -> tuple[int, int]:
    while True:
        top, left = (int(corner) for corner in random.integers(0, CANVAS - DIGIT + 1, 2))
        if all(max(abs(top - y), abs(left - x)) >= DIGIT + APART for y, x in places.values()):
            return top, left


def finds(dense: nn.Module, canvas: Canvas) -> dict[int, bool]:
    """For each class on the canvas, whether its highest score lies inside its digit."""
    with torch.inference_mode():
        _, maps = dense(torch.from_numpy(canvas.pixels)[None, None])
    found = {}
    cell = CANVAS / maps.shape[-1]
    for label, (top, left) in canvas.places.items():
        row, column = divmod(int(maps[0, label].argmax()), maps.shape[-1])
        y, x = (row + 0.5) * cell, (column + 0.5) * cell  # the middle of the map's cell
        found[label] = top <= y < top + DIGIT and left <= x < left + DIGIT
    return found


def measure(count: int, seed: int) -> Found:
    """Trains, and looks at ``count`` canvases."""
    fit, held_out = split(seed)
    start = time.perf_counter()
    model = train(fit, seed)
    training_s = time.perf_counter() - start
    dense = rewrite(model, to="dense", outputs=("logits", "map")).module
    looks = [finds(dense, canvas) for canvas in canvases(held_out, count, seed)]
    by_class = [[look[label] for look in looks if label in look] for label in range(CLASSES)]
    return Found(
        seed=seed,
        accuracy=accuracy(model, held_out),
        canvases=count,
        all_inside=sum(all(look.values()) for look in looks),
        digits=sum(map(len, looks)),
        inside=sum(sum(look.values()) for look in looks),
        by_class=tuple(sum(own) / len(own) if own else 1.0 for own in by_class),
        training_s=round(training_s, 1),
    )


def main() -> int:
    """Prints the table; ``--json`` also writes it. The exit code is 1 where too few were found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--canvases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)  # sums are then the same however many cores there are
    found = measure(options.canvases, options.seed)
    print(f"seed {found.seed}: trained for {found.training_s:.0f} s, {found.accuracy:.1%} of single digits")
    print(f"{'digit':8} {'highest score inside it':>24}")
    for label, share in enumerate(found.by_class):
        print(f"{label:<8} {share:24.1%}")
    print(f"{'all':8} {found.inside / found.digits:24.1%}  ({found.inside} of {found.digits})")
    print(f"canvases with all inside: {found.all_inside} of {found.canvases} (wanted: {WANTED:.0%})")
    if options.json:
        options.json.write_text(json.dumps(dataclasses.asdict(found), indent=2) + "\n", encoding="utf-8")
    return 0 if found.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
