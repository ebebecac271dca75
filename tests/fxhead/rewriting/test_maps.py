"""``fxhead rewrite --to dense`` and ``--to fcn``: files with a map, their certificate, and the way back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from fxexport.providers import Session

Run = Callable[..., Any]
Written = Callable[[], set[str]]


def load(path: str) -> torch.nn.Module:
    module: torch.nn.Module = torch.load(path, weights_only=False)
    return module


def test_a_dense_head_with_its_map_and_back(run: Run, net: Path, written: Written) -> None:
    done = run("rewrite", "model.pt", "--to", "dense", "--with-map", "--input-shape", "1x3x16x16")
    assert done.code == 0, done.err
    assert written() == {
        "model.dense.pt",
        "model.linear.onnx",
        "model.dense.onnx",
        "model.dense.certificate.json",
        "model.dense.plan.json",
    }
    assert "Conv2d(8, 5, kernel_size=(1, 1)) before the pool" in done.out
    original, dense = load("model.pt").eval(), load("model.dense.pt")
    session = Session(Path("model.dense.onnx"), "cpu")
    assert list(session.output_names) == ["logits", "map"]
    for shape in ((3, 3, 9, 11), (1, 3, 16, 16), (2, 3, 24, 17)):
        x = torch.randn(shape)
        logits, scores = dense(x)
        torch.testing.assert_close(logits, original(x))
        torch.testing.assert_close(scores.mean((2, 3)), logits)
        for found, due in zip(session.run([x.numpy()]), (logits, scores), strict=True):
            np.testing.assert_allclose(found, due.detach().numpy(), atol=1e-5)
    content = json.loads(Path("model.dense.certificate.json").read_text())
    assert [check["verdict"] for check in content["checks"]] == ["proved", "proved", "proved"]
    assert [size["verdict"] for check in content["checks"] for size in check["sizes"]] == ["proved"] * 2
    replayed = run("check", "--replay", "model.dense.certificate.json", "--trust")
    assert replayed.code == 0, replayed.out
    back = run("rewrite", "model.dense.pt", "--to", "linear", "-o", "back.pt", "--input-shape", "1x3x16x16")
    assert back.code == 0, back.err
    assert {"back.dense.onnx", "back.linear.onnx"} <= written()
    torch.testing.assert_close(load("back.pt")(x), original(x), rtol=0, atol=0)


def test_a_fully_convolutional_head_states_its_native_size_and_holds_to_it(run: Run, net: Path) -> None:
    done = run("rewrite", "model.pt", "--to", "fcn", "--input-shape", "1x3x8x6")
    assert done.code == 0, done.err
    assert "native size 8x6" in done.out
    original, fcn = load("model.pt").eval(), load("model.fcn.pt")
    x, larger = torch.randn(2, 3, 8, 6), torch.randn(2, 3, 9, 8)
    torch.testing.assert_close(fcn(x), original(x)[..., None, None])
    (found,) = Session(Path("model.fcn.onnx"), "cpu").run([larger.numpy()])
    assert found.shape == fcn(larger).shape == (2, 5, 2, 3)
    np.testing.assert_allclose(found, fcn(larger).detach().numpy(), atol=1e-5)
    content = json.loads(Path("model.fcn.certificate.json").read_text())
    assert [check["verdict"] for check in content["checks"]] == ["agrees", "proved", "agrees"]
    assert all(
        "every position is the classifier" in s["reason"] for c in content["checks"] for s in c["sizes"]
    )
    # an input below it is an error
    for command in (
        ("rewrite", "model.fcn.pt", "--to", "linear", "-o", "back.pt", "--input-shape", "1x3x7x6"),
        ("check", "model.pt", "model.fcn.pt", "--input-shape", "1x3x7x6"),
    ):
        done = run(*command)
        assert done.code == 2, done.out
        assert "below the native size 8x6" in done.err, done.err
        assert "give inputs of at least 8x6" in done.err


def test_check_takes_the_pair_of_files(run: Run, net: Path) -> None:
    run("rewrite", "model.pt", "--to", "dense", "--input-shape", "1x3x16x16")
    done = run("check", "model.linear.onnx", "model.dense.onnx", "--input-shape", "1x3x12x12", "--json")
    assert done.document["check"]["verdict"] == "proved"
    assert done.document["check"]["sizes"][0]["size"] == "15x14"
    np.save("samples.npy", np.random.default_rng(0).standard_normal((4, 3, 10, 14)).astype(np.float32))
    given = run("check", "model.linear.onnx", "model.dense.onnx", "--inputs", "samples.npy", "-o", "c.json")
    assert given.code == 0, given.err
    assert run("check", "--replay", "c.json").code == 0
    # and tells a broken one
    proto = onnx.load("model.dense.onnx")
    weight = next(t for t in proto.graph.initializer if t.name == "fc.weight")
    array = onnx.numpy_helper.to_array(weight).copy()
    array[1, 2] *= 1.01
    weight.CopyFrom(onnx.numpy_helper.from_array(array, "fc.weight"))
    onnx.save(proto, "wrong.onnx")
    done = run("check", "model.linear.onnx", "wrong.onnx", "--input-shape", "1x3x16x16")
    assert done.code == 1
    assert "weights failed" in done.out


def test_programs_keep_their_size(run: Run, net: Path) -> None:
    options = ("-o", "dense.pt2", "--input-shape", "1x3x16x16", "--trace", "export")
    done = run("rewrite", "model.pt", "--to", "dense", "--with-map", *options)
    assert done.code == 0, done.err
    assert "dense.onnx takes 16x16 only: axis 2 of an input is fixed at 16" in done.err
    run_program = torch.export.load("dense.pt2").module()
    document = run("rewrite", "dense.pt2", "--to", "dense", "-o", "again.pt2", "--json").document
    assert document["report"]["rewrites"] == []
    logits, scores = run_program(torch.randn(2, 3, 16, 16))
    torch.testing.assert_close(scores.mean((2, 3)), logits)


def test_what_these_forms_do_not_have_is_an_error(run: Run, net: Path, written: Written) -> None:
    for options, where in (
        (("--to", "conv", "--with-map"), "--with-map"),
        (("--to", "dense", "--no-onnx", "--opset", "18"), "--no-onnx"),
        (("--to", "fcn", "--no-onnx", "--providers", "cpu"), "--no-onnx"),
        (("--to", "conv", "--no-onnx", "--fold-norms"), "--no-onnx"),
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
