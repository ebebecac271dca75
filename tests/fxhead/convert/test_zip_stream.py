"""Large checkpoints: memory does not grow with them, and sizes beyond 32 bits are written as torch does."""

from __future__ import annotations

import filecmp
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.convert import BUDGET, measure
from checkpoints import MOVE, save
from fxhead.convert.zip_stream import open_zip


@pytest.mark.parametrize(
    ("container", "order"),
    [
        ("pt", "channels_first"),
        pytest.param("pt", "channels_last", marks=pytest.mark.slow),
        pytest.param("safetensors", "channels_first", marks=pytest.mark.slow),
        pytest.param("safetensors", "channels_last", marks=pytest.mark.slow),
    ],
)
def test_peak_memory(tmp_path: Path, container: str, order: str) -> None:
    """Loading and saving the file takes all three tensors; less than one is allowed."""
    found = measure(container, order, 0.1 if order == "channels_first" else 0.5, tmp_path)
    assert found.ratio < BUDGET < found.bare_peak_bytes / found.largest_bytes


def content(kind: str) -> Any:
    if kind == "small":
        return {"a": torch.arange(10), "empty": torch.empty(0), "b": [torch.ones(3).half(), 1.5]}
    # one storage of 4 GB, and what follows it: both its size and their offsets take more than 32 bits
    return {"a": torch.ones(3), "large": torch.zeros((1 << 32) + 4, dtype=torch.uint8), "b": torch.ones(5)}


@pytest.mark.parametrize("kind", ["small", pytest.param("large", marks=pytest.mark.slow)])
def test_an_archive_without_a_change_is_the_one_that_torch_wrote(tmp_path: Path, kind: str) -> None:
    path, out = save(content(kind), tmp_path / "run.pt"), tmp_path / "out.pt"
    checkpoint = open_zip(path)
    with path.open("rb") as source, out.open("wb") as target:
        checkpoint.write(source, target, [])
    assert filecmp.cmp(path, out, shallow=False)


@pytest.mark.slow
def test_a_head_behind_four_gigabytes(tmp_path: Path) -> None:
    from checkpoints import load, save_plan
    from fxhead.cli import main

    weight = torch.randn(MOVE.linear_shape)
    path = save({**content("large"), "fc.weight": weight}, tmp_path / "run.pt")
    plan = save_plan(path=tmp_path / "plan.json")
    assert main(["convert-weights", str(path), "--plan", plan, "-o", str(tmp_path / "out.pt")]) == 0
    after = load(tmp_path / "out.pt", mmap=True)
    assert torch.equal(after["fc.weight"], MOVE.to_conv(weight))
    assert torch.equal(after["b"], torch.ones(5))
