"""``fxhead rewrite FILE.onnx`` and ``fxhead inspect FILE.onnx``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import fxhead
from onnx_files import classifier, images, operators, require_same, weights

W, B = weights(5, 8), weights(5)
GEMM = "p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, w, b)"


Run = Callable[..., Any]


@pytest.fixture
def file(folder: Path) -> Path:
    onnx.save(classifier(GEMM, {"w": W, "b": B}), "net.onnx")
    return Path("net.onnx")


def shown(run: Run, *arguments: str) -> tuple[int, Any]:
    done = run(*arguments, "--json")
    return done.code, json.loads(done.out)


def test_a_file_is_rewritten_checked_and_taken_back(run: Run, file: Path) -> None:
    code, document = shown(run, "rewrite", "net.onnx", "--to", "conv")
    assert (code, document["verdict"]) == (0, "proved")
    written = ["net.conv.onnx", "net.conv.plan.json", "net.conv.certificate.json"]
    assert [Path(entry["path"]).name for entry in document["files"]] == written
    assert operators(onnx.load("net.conv.onnx")) == ["GlobalAveragePool", "Conv", "Flatten"]
    assert run("check", "--replay", "net.conv.certificate.json").code == 0
    code, document = shown(run, "rewrite", "net.conv.onnx", "--to", "linear", "--no-check", "-o", "back.onnx")
    assert (code, document["verdict"]) == (0, None)
    assert Path("back.onnx").read_bytes() == file.read_bytes()


def test_inspect_lists_sites_and_misses_by_node(run: Run, folder: Path) -> None:
    body = GEMM.replace("y = ", "v = Neg(w) z = Gemm<transB=1>(f, v) y = ")
    model = classifier(body, {"w": W, "b": B}, result="float[N,5] y, float[N,5] z")
    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}"
    onnx.save(model, "net.onnx")
    code, document = shown(run, "inspect", "net.onnx")
    assert code == 0
    assert document["sites"] == []
    found = [(miss["node"], miss["code"]) for miss in document["misses"]]
    assert found == [("n5", "COMPUTED_WEIGHT"), ("n6", "TIED_WEIGHT")]


def test_nothing_to_rewrite_is_no_and_writes_nothing(run: Run, file: Path) -> None:
    before = {*Path().iterdir()}
    code, document = shown(run, "rewrite", "net.onnx", "--to", "linear")
    assert code == 1
    assert [site["weight"] for site in document["already"]] == ["w"]
    assert {*Path().iterdir()} == before


@pytest.mark.parametrize("option", ["--opset=17", "--with-map", "--trace=export"])
def test_what_is_about_modules_is_refused(run: Run, file: Path, option: str) -> None:
    done = run("rewrite", "net.onnx", "--to", "dense", option)
    assert done.code == 2
    assert f"{option.partition('=')[0]}: an ONNX file is rewritten as it is" in done.err


def test_without_onnx_a_file_is_rewritten_and_not_checked(run: Run, file: Path) -> None:
    code, document = shown(run, "rewrite", "net.onnx", "--to", "conv", "--no-onnx")
    assert (code, document["verdict"]) == (0, None)
    assert {path.name for path in Path().glob("net.*")} == {"net.onnx", "net.conv.onnx", "net.conv.plan.json"}
    for option in ("--no-onnx", "--no-check"):
        told = run("rewrite", "net.onnx", "--to", "conv", option, "--force").out
        assert f"not checked: {option}" in told
    done = run("rewrite", "net.onnx", "--to", "conv", "--no-onnx", "--providers", "cpu", "--force")
    assert (done.code, "--no-onnx: nothing is checked" in done.err) == (2, True)


def test_norms_of_a_file_stay_as_they_are(run: Run, file: Path) -> None:
    done = run("rewrite", "net.onnx", "--to", "conv", "--fold-norms")
    assert (done.code, "--fold-norms: an ONNX file is rewritten as it is" in done.err) == (2, True)


def test_to_unfold_is_refused(run: Run, file: Path) -> None:
    done = run("rewrite", "net.onnx", "--to", "unfold")
    assert (done.code, "an ONNX file is not unfolded" in done.err) == (2, True)


def test_the_public_functions_take_onnx_models_and_modules(file: Path) -> None:
    model = onnx.load(file)
    made = fxhead.rewrite(model, to="conv").module
    require_same(model, made, images())
    assert fxhead.rewrite(str(file), to="conv").module == made
    assert [site.name for site in fxhead.find_sites(file).sites] == ["w"]
    head = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 3))
    assert [site.name for site in fxhead.find_sites(head).sites] == ["2"]
    with pytest.raises(fxhead.FxHeadError, match="gives what it gave"):
        fxhead.rewrite(model, to="dense", outputs=("logits", "map"))


def broken_files() -> dict[str, bytes]:
    good = classifier(
        GEMM, {"w": weights(500, 8), "b": weights(500)}, result="float[N,500] y"
    ).SerializeToString()
    unflattened = classifier("p = GlobalAveragePool(r) y = Gemm<transB=1>(p, w, b)", {"w": W, "b": B})
    dangling = classifier(GEMM, {"w": W, "b": B})
    dangling.graph.node[-1].input[0] = "nothing"
    few = classifier(GEMM, {"w": W, "b": B})
    del few.graph.node[-1].input[1:]
    twice = classifier(GEMM, {"w": W, "b": B})
    twice.graph.node.append(twice.graph.node[-1])
    short = classifier(GEMM, {"w": W, "b": B})
    short.graph.initializer[1].raw_data = W.tobytes()[:-4]
    sizes = {"w": W, "b": B, "s": np.array([-7, 8], np.int64)}
    negative = classifier(GEMM.replace("Flatten(p)", "Reshape(p, s)"), sizes)
    typeless = classifier(GEMM, {"w": W, "b": B})
    typeless.graph.node[-1].attribute[0].type = onnx.AttributeProto.UNDEFINED
    circle = classifier(GEMM, {"w": W, "b": B})
    circle.graph.node[0].input[0] = "r"
    return {
        "empty": b"",
        "text": b"no model at all, only words",
        "cut": good[: len(good) // 2],
        "no graph": onnx.ModelProto(ir_version=8).SerializeToString(),
        "unflattened": unflattened.SerializeToString(),
        "dangling": dangling.SerializeToString(),
        "too few inputs": few.SerializeToString(),
        "twice": twice.SerializeToString(),
        "short weight": short.SerializeToString(),
        "negative size": negative.SerializeToString(),
        "no type": typeless.SerializeToString(),
        "circle": circle.SerializeToString(),
    }


@pytest.mark.parametrize("name", broken_files())
def test_a_broken_file_is_an_error_of_one_line(run: Run, folder: Path, name: str) -> None:
    Path("net.onnx").write_bytes(broken_files()[name])
    before = {*Path().iterdir()}
    done = run("rewrite", "net.onnx", "--to", "conv", "--no-check")
    assert done.code == 2, done.out + done.err
    errors = [line for line in done.err.splitlines() if "error" in line]
    assert len(errors) == 1
    assert "net.onnx" in errors[0]
    assert "Traceback" not in done.err
    assert {*Path().iterdir()} == before


def test_a_batch_of_minus_one_is_checked_at_every_batch(run: Run, folder: Path) -> None:
    model = classifier(GEMM, {"w": W, "b": B})
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    onnx.save(model, "net.onnx")
    code, document = shown(run, "rewrite", "net.onnx", "--to", "conv")
    assert (code, document["verdict"]) == (0, "proved")
