"""``fxhead rewrite FILE.onnx`` where weights lie in other files, and where they are large."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnx_files import classifier, images, operators, outputs, weights

Run = Callable[..., Any]
GEMM = "p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, w, b)"
PRODUCT = "p = GlobalAveragePool(r) f = Flatten(p) q = MatMul(f, w) y = Add(q, b)"


def save(path: Path, *, transposed: bool = False) -> None:
    w = weights(500, 8)
    model = classifier(
        PRODUCT if transposed else GEMM,
        {"w": w.T.copy() if transposed else w, "b": weights(500)},
        result="float[N,500] y",
    )
    path.parent.mkdir(exist_ok=True)
    onnx.save(model, path, save_as_external_data=True, location="all.bin", size_threshold=100)


def require_same_files(one: Path, other: Path) -> None:
    before, after = (outputs(onnx.load(path), images())[0] for path in (one, other))
    assert abs(before - after).max() < 1e-4


@pytest.mark.parametrize("transposed", [False, True])
def test_weights_in_another_file_are_copied_with_it(run: Run, folder: Path, transposed: bool) -> None:
    save(folder / "net.onnx", transposed=transposed)
    done = run("rewrite", "net.onnx", "--to", "conv")
    assert done.code == 0, done.out + done.err
    assert "verdict: proved" in done.out
    assert Path("net.conv.onnx.data").read_bytes() == Path("all.bin").read_bytes()
    require_same_files(Path("net.onnx"), Path("net.conv.onnx"))
    Path("all.bin").rename("away.bin")
    assert operators(onnx.load("net.conv.onnx"))[1:] == ["Conv", "Flatten"]
    Path("away.bin").rename("all.bin")
    assert run("rewrite", "net.conv.onnx", "--to", "linear", "--no-check", "-o", "back.onnx").code == 0
    assert Path("back.onnx").read_bytes() == Path("net.onnx").read_bytes()
    require_same_files(Path("net.onnx"), Path("back.onnx"))


@pytest.mark.skipif(not hasattr(os, "SEEK_DATA"), reason="this system has no holes")
def test_a_file_that_is_mostly_holes_is_copied_as_one(run: Run, folder: Path) -> None:
    """Else a folder of a few bytes would fill the disk."""
    save(folder / "net.onnx")
    content = Path("all.bin").read_bytes()
    os.truncate("all.bin", 1 << 34)
    assert run("rewrite", "net.onnx", "--to", "conv", "--no-check").code == 0
    found = os.stat("net.conv.onnx.data")
    assert (found.st_size, found.st_blocks * 512 < 2**20) == (1 << 34, True)
    with open("net.conv.onnx.data", "rb") as file:
        assert file.read(len(content)) == content


def test_weights_that_nothing_reads_lie_in_the_folder_too(run: Run, folder: Path) -> None:
    """A certificate would tell the digest and size of any file that they name."""
    save(folder / "inner" / "net.onnx")
    (folder / "secret").write_bytes(bytes(4))
    model = onnx.load("inner/net.onnx", load_external_data=False)
    unread = model.graph.initializer.add(name="unread", data_type=1, dims=[1], data_location=1)
    unread.external_data.add(key="location", value="../secret")
    onnx.save(model, "inner/net.onnx")
    done = run("check", "inner/net.onnx", "inner/net.onnx", "-o", "c.json")
    assert (done.code, "outside the file's folder" in done.err, Path("c.json").exists()) == (2, True, False)


def test_weights_in_another_file_are_referred_to(run: Run, folder: Path) -> None:
    save(folder / "net.onnx")
    done = run("rewrite", "net.onnx", "--to", "conv", "--link-data")
    assert done.code == 0, done.out + done.err
    assert not Path("net.conv.onnx.data").exists()
    assert os.stat("all.bin").st_nlink == 1
    require_same_files(Path("net.onnx"), Path("net.conv.onnx"))
    done = run("rewrite", "net.onnx", "--to", "conv", "--link-data", "-o", "other/net.onnx")
    assert (done.code, "lies in another folder" in done.err) == (2, True)
    assert not Path("other").exists()
    assert run("rewrite", "net.onnx", "--to", "conv", "--no-check", "-o", "other/net.onnx").code == 0
    require_same_files(Path("net.onnx"), Path("other/net.onnx"))
    done = run("rewrite", "other/net.onnx", "--to", "linear", "--link-data", "-o", "other/back.onnx")
    assert (done.code, "reads 'all.bin', which is 'net.onnx.data' here" in done.err) == (2, True)


def test_what_lies_outside_the_folder_is_not_copied(run: Run, folder: Path) -> None:
    save(folder / "net.onnx")
    Path("secret").write_bytes(b"x" * 100_000)
    model = onnx.load("net.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../secret"
    Path("below").mkdir()
    onnx.save(model, "below/net.onnx")
    before = {*Path("below").iterdir()}
    done = run("rewrite", "below/net.onnx", "--to", "conv", "--no-check")
    assert done.code == 2
    assert "outside the file's folder" in done.err
    assert {*Path("below").iterdir()} == before


def test_a_file_of_weights_that_is_gone_is_an_error(run: Run, folder: Path) -> None:
    save(folder / "net.onnx")
    Path("all.bin").unlink()
    done = run("rewrite", "net.onnx", "--to", "conv", "--no-check")
    assert (done.code, "which is no file" in done.err) == (2, True)
    assert not Path("net.conv.onnx").exists()
