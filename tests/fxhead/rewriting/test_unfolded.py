"""``fxhead rewrite --to unfold``: memory told first, both forms checked, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Run = Callable[..., Any]
Written = Callable[[], set[str]]
SHAPE = ("--input-shape", "1x3x12x10")


def load(path: str) -> torch.nn.Module:
    module: torch.nn.Module = torch.load(path, weights_only=False)
    return module


def test_there_with_a_certificate_and_back(run: Run, net: Path, written: Written) -> None:
    done = run("rewrite", "model.pt", "--to", "unfold", *SHAPE)
    assert done.code == 0, done.err
    assert written() == {
        *("model.unfold.pt", "model.unfold.plan.json", "model.unfold.certificate.json"),
        *("model.unfold.onnx", "model.original.onnx"),
    }
    assert "verdict: proved" in done.out
    assert "unfold(3x3) + Linear(27, 8)" in done.out
    told, exporting = done.err.index("unfolded patches take up to"), done.err.index("exporting")
    assert told < exporting
    original, unfolded = load("model.pt").eval(), load("model.unfold.pt")
    x = torch.randn(3, 3, 9, 11)
    torch.testing.assert_close(unfolded(x), original(x))
    back = run("rewrite", "model.unfold.pt", "--to", "conv", "--scope", "unfolded", "--no-onnx", "-o", "b.pt")
    assert back.code == 0, back.err
    torch.testing.assert_close(load("b.pt")(x), original(x), rtol=0, atol=0)


def test_memory_is_told_in_json_and_by_inspect(run: Run, net: Path) -> None:
    document = run("rewrite", "model.pt", "--to", "unfold", "--no-onnx", "--json", *SHAPE).document
    memory = document["report"]["memory"]
    assert memory["input_shapes"] == [[1, 3, 12, 10]]
    assert memory["sites"][0]["columns_bytes"] == memory["sites"][0]["factor"] * 3 * 12 * 10 * 4
    assert memory["peak_bytes"] > memory["peak_before_bytes"]
    seen = run("inspect", "model.pt", "--to", "unfold", *SHAPE)
    assert seen.code == 0
    assert "unfolded patches take up to" in seen.out


def test_twice_is_nothing_to_rewrite(run: Run, net: Path) -> None:
    run("rewrite", "model.pt", "--to", "unfold", "--no-onnx", *SHAPE)
    again = run("rewrite", "model.unfold.pt", "--to", "unfold", "--no-onnx", *SHAPE)
    assert again.code == 1
    assert "has the unfold form already" in again.out
