"""``fxhead rewrite --to dense`` and ``--to fcn``: files that hold a map, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Run = Callable[..., Any]
Written = Callable[[], set[str]]


def load(path: str) -> torch.nn.Module:
    module: torch.nn.Module = torch.load(path, weights_only=False)
    return module


def test_a_dense_head_with_its_map_and_back(run: Run, net: Path, written: Written) -> None:
    done = run("rewrite", "model.pt", "--to", "dense", "--with-map")
    assert done.code == 0, done.err
    assert written() == {"model.dense.pt", "model.dense.plan.json"}
    assert "Conv2d(8, 5, kernel_size=(1, 1)) before the pool" in done.out
    original, dense = load("model.pt").eval(), load("model.dense.pt")
    x = torch.randn(3, 3, 9, 11)
    logits, scores = dense(x)
    torch.testing.assert_close(logits, original(x))
    torch.testing.assert_close(scores.mean((2, 3)), logits)
    back = run("rewrite", "model.dense.pt", "--to", "linear", "-o", "back.pt", "--input-shape", "1x3x16x16")
    assert back.code == 0, back.err
    assert "not checked" in back.out
    assert not {name for name in written() if name.endswith(".onnx")}
    torch.testing.assert_close(load("back.pt")(x), original(x), rtol=0, atol=0)


def test_a_fully_convolutional_head_states_its_native_size(run: Run, net: Path) -> None:
    done = run("rewrite", "model.pt", "--to", "fcn", "--input-shape", "1x3x8x6")
    assert done.code == 0, done.err
    assert "native size 8x6" in done.out
    original, fcn = load("model.pt").eval(), load("model.fcn.pt")
    x = torch.randn(2, 3, 8, 6)
    torch.testing.assert_close(fcn(x), original(x)[..., None, None])
    assert fcn(torch.randn(2, 3, 9, 8)).shape == (2, 5, 2, 3)


def test_programs(run: Run, net: Path) -> None:
    done = run("rewrite", "model.pt", "--to", "dense", "--with-map", "-o", "dense.pt2")
    assert done.code == 0, done.err
    run_program = torch.export.load("dense.pt2").module()
    document = run("rewrite", "dense.pt2", "--to", "dense", "--json").document
    assert document["report"]["rewrites"] == []
    shape = document["model"]["input_shapes"] or [[1, 3, 224, 224]]
    logits, scores = run_program(torch.randn(2, *shape[0][1:]))
    torch.testing.assert_close(scores.mean((2, 3)), logits)


def test_what_these_forms_do_not_have_is_an_error(run: Run, net: Path, written: Written) -> None:
    for options, where in (
        (("--to", "conv", "--with-map"), "--with-map"),
        (("--to", "dense", "--opset", "18"), "--to dense"),
        (("--to", "fcn", "--providers", "cpu"), "--to fcn"),
    ):
        done = run("rewrite", "model.pt", *options)
        assert done.code == 2
        assert where in done.err
    assert written() == set()


def test_inspect_says_what_can_be_dense(run: Run, net: Path) -> None:
    can = run("inspect", "model.pt", "--to", "dense", "--json").document
    assert [site["name"] for site in can["sites"]] == ["fc"]
    cannot = run("inspect", "torchvision:mobilenet_v3_small", "--to", "dense", "--json").document
    assert cannot["sites"] == []
    assert {miss["code"] for miss in cannot["misses"]} == {"NONLINEAR"}
