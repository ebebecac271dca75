"""export_onnx with dynamic height and width: heads before their pool and on windows, at several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from fxexport import export_onnx
from fxexport.providers import Session
from fxpasses import rewrite
from fxpasses.errors import SizeError
from zoo import Entry, build
from zoo.compare import leaves
from zoo.maps import DENSE, WINDOWED

BATCHES = (1, 2, 3, 5)
MAP_NAMES = {
    "dense_features_too": ["output_0", "output_1", "map"],
    "dense_sum_of_heads": ["logits", "map_0", "map_1"],
}
# what has a spelling or a rank of its own; the others take longer than they tell
TELLING = (
    "dense_dropout dense_mean_twice dense_own_extent dense_1d dense_features_too dense_sum_of_heads"
    " fcn_layer_norm_2d fcn_grid_half fcn_named"
).split()


def some(entries: Sequence[Entry]) -> list[Any]:
    """The entries, the less telling ones marked slow."""
    marks = {True: (), False: (pytest.mark.slow,)}
    return [pytest.param(entry, id=entry.name, marks=marks[entry.name in TELLING]) for entry in entries]


def sizes(entry: Entry) -> list[tuple[int, ...]]:
    """Shapes of the entry's own size, of a larger one, of one that is not square, and of an odd one."""
    channels, *extents = entry.input_shape
    more = ((0, 0, 0), (8, 8, 8), (2, 6, 1), (5, 3, 7))
    return [
        (batch, channels, *(extent + by for extent, by in zip(extents, some, strict=False)))
        for batch, some in zip(BATCHES, more, strict=True)
    ]


def check(model: nn.Module, path: Path, entry: Entry, names: list[str]) -> None:
    session = Session(path, "cpu")
    assert list(session.output_names) == names
    wide = model.double()
    generator = torch.Generator().manual_seed(1)
    for shape in sizes(entry):
        x = torch.randn(shape, generator=generator)
        with torch.no_grad():
            expected = [leaf.numpy() for leaf in leaves(wide(x.double()))]
        for found, due in zip(session.run([x.numpy()]), expected, strict=True):
            assert found.shape == due.shape
            assert np.abs(found - due).max() <= 2.0**-17 * np.abs(due).max()


def opened(path: Path) -> list[list[str | int]]:
    graph = onnx.load(path).graph
    return [[d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in graph.input]


@pytest.mark.parametrize("entry", some(DENSE))
def test_dense_with_its_map(entry: Entry, tmp_path: Path) -> None:
    model = build(entry).float()
    example = torch.randn(2, *entry.input_shape)
    dense = rewrite(model, to="dense", example_inputs=example, outputs=("logits", "map")).module
    path = export_onnx(dense, example, tmp_path / "dense.onnx", dynamic_size=True)
    names = MAP_NAMES.get(entry.name, ["logits", "map"])
    check(dense, path, entry, names)
    rank = len(entry.input_shape) - 1
    axes = {1: ["length"], 2: ["height", "width"], 3: ["depth", "height", "width"]}[rank]
    assert opened(path) == [["batch", entry.input_shape[0], *axes]]


@pytest.mark.parametrize("entry", some(WINDOWED))
def test_fcn(entry: Entry, tmp_path: Path) -> None:
    model = build(entry).float()
    example = torch.randn(2, *entry.input_shape)
    fcn = rewrite(model, to="fcn", example_inputs=example).module
    path = export_onnx(fcn, example, tmp_path / "fcn.onnx", dynamic_size=True)
    names = {"fcn_features_too": ["output_0", "output_1"]}.get(entry.name, ["logits"])
    check(fcn, path, entry, names)


class Windowed(nn.Module):
    """Shifts where its window is smaller than the map, as attention in windows does."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] > 8:
            x = torch.roll(x, 4, 2)
        return self.head(x).mean((2, 3))


class Narrow(nn.Module):
    """Another function of narrow images, which a larger example does not show."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x if x.shape[3] > 6 else x.relu()).mean((2, 3))


class Positions(nn.Module):
    """Adds a value to every position of an 8x8 map."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + self.position).mean((2, 3))


class Baked(nn.Module):
    """Fixes its width when it is traced, and takes any when it runs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_ones(int(x.shape[3])).sum() * x.mean((2, 3))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Windowed(), "the model has other operators at 16x24 than at 8x8 \\(roll 1 times, not 0\\)"),
        (Narrow(), "the model has other operators at 16x6 than at 16x24 \\(relu 1 times, not 0\\)"),
        (Positions(), "the model takes no input of 16x24 beside 8x8"),
        (nn.AdaptiveAvgPool2d(3), "pools to a grid of 3x3"),
        (Baked(), "axis 3 of an input is fixed at 24"),
    ],
    ids=["windowed", "narrow", "positions", "grid", "baked"],
)
def test_what_no_one_graph_can_do_is_an_error(model: nn.Module, message: str, tmp_path: Path) -> None:
    with pytest.raises(SizeError, match=message):
        export_onnx(model, torch.randn(2, 3, 8, 8), tmp_path / "m.onnx", dynamic_size=True)
    assert list(tmp_path.iterdir()) == []
    path = export_onnx(nn.Conv2d(3, 2, 1), torch.randn(2, 3, 8, 8), tmp_path / "m.onnx")
    assert opened(path) == [["batch", 3, 8, 8]]


def test_a_program_keeps_its_own_axes(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 2, 1)), torch.randn(2, 3, 8, 6)
    fixed = torch.export.export(model, (x,))
    with pytest.raises(SizeError, match="axis 2 of an input is fixed at 8"):
        export_onnx(fixed, x, tmp_path / "m.onnx", dynamic_size=True)
    size = torch.export.Dim.AUTO
    free = torch.export.export(model, (x,), dynamic_shapes=({2: size, 3: size},))
    path = export_onnx(free, x, tmp_path / "m.onnx", dynamic_size=True)
    assert opened(path) == [[2, 3, "height", "width"]]


def test_two_inputs_of_one_size(tmp_path: Path) -> None:
    class Sum(nn.Module):
        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            return (left + right).mean((2, 3))

    x = torch.randn(2, 3, 8, 6)
    path = export_onnx(Sum(), (x, x), tmp_path / "m.onnx", dynamic_size=True)
    assert opened(path) == [["batch", 3, "height", "width"]] * 2
    y = np.ones((1, 3, 5, 9), np.float32)
    (found,) = Session(path, "cpu").run([y, y])
    assert (found == 2).all()


def test_a_map_of_features_is_no_map_of_scores(tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.fc(x.mean((2, 3))), x * 1

    path = export_onnx(Both(), torch.randn(2, 3, 4, 4), tmp_path / "m.onnx", dynamic_size=True)
    assert [output.name for output in onnx.load(path).graph.output] == ["output_0", "output_1"]
