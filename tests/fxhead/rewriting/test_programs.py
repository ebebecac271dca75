"""``fxhead`` on exported programs: ``.pt2`` files in and out, and ``--trace``."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from fxexport.untrusted.programs import read_program
from fxhead import load_model
from fxhead.files.pt2 import is_program_file, program_bytes
from fxhead.inputs.program_shapes import program_shapes
from fxhead.source import Source
from fxpasses.errors import FileError, InputError

Run = Callable[..., Any]
Written = Callable[[], set[str]]

SMALL = ("--input-shape", "1x3x16x16")
CPU = ("--providers", "cpu")
SHAPED = """
import nets


class Shaped(nets.Net):
    def forward(self, x):
        if x.shape[2] > 3:
            x = x * 2
        return super().forward(x)
"""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.flatten(self.pool(self.features(x)), 1))  # type: ignore[no-any-return]


def exported(dynamic: dict[int, Any] | None, batch: int = 2) -> bytes:
    torch.manual_seed(0)
    x = torch.randn(batch, 3, 16, 16)
    shapes = None if dynamic is None else (dynamic,)
    return program_bytes(torch.export.export(Net().eval(), (x,), dynamic_shapes=shapes))


@pytest.fixture(scope="module")
def dynamic() -> bytes:
    return exported({0: Dim("batch")})


@pytest.fixture(scope="module")
def static() -> bytes:
    return exported(None, batch=3)


@pytest.fixture
def program(folder: Path, dynamic: bytes) -> Path:
    """``model.pt2`` in the working directory, with a dynamic batch."""
    Path("model.pt2").write_bytes(dynamic)
    return Path("model.pt2")


@pytest.fixture
def shaped(folder: Path) -> Path:
    """``shaped.py``: modules that decide by a shape, which symbolic tracing cannot trace."""
    Path("shaped.py").write_text(SHAPED)
    return folder


def load(path: str) -> ExportedProgram:
    loaded = load_model(path)
    assert isinstance(loaded, ExportedProgram)
    return loaded


def test_a_program_is_known_by_its_content_not_its_name(program: Path) -> None:
    shutil.copy(program, "renamed.bin")
    assert is_program_file("renamed.bin")
    assert isinstance(load("renamed.bin"), ExportedProgram)
    torch.save(nn.Linear(2, 3), "module.pt2")
    assert not is_program_file("module.pt2")
    assert isinstance(load_model("module.pt2"), nn.Linear)


def test_a_rewritten_program_is_a_program(run: Run, program: Path, written: Written) -> None:
    done = run("rewrite", "model.pt2", "--to", "conv", "--no-onnx")
    assert done.code == 0, done.err
    assert written() - {"model.pt2"} == {"model.conv.pt2", "model.conv.plan.json"}
    before, after = load("model.pt2"), load("model.conv.pt2")
    assert list(after.state_dict) == list(before.state_dict)
    assert after.state_dict["fc.weight"].shape == (5, 8, 1, 1)
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 16, 16)
        torch.testing.assert_close(after.module()(x), before.module()(x))
    back = run("rewrite", "model.conv.pt2", "--to", "linear", "--no-onnx", "-o", "back.pt2")
    assert back.code == 0, back.err
    assert torch.equal(load("back.pt2").state_dict["fc.weight"], before.state_dict["fc.weight"])


def test_the_same_program_gives_the_same_bytes(run: Run, spawn: Run, program: Path, folder: Path) -> None:
    """In a process of its own, with another hash seed, and in this one, where much ran before it."""
    command = ("rewrite", "model.pt2", "--to", "conv", "--no-onnx", "-o")
    assert spawn(*command, "one.pt2").code == 0
    assert run(*command, "two.pt2").code == 0
    assert Path("one.pt2").read_bytes() == Path("two.pt2").read_bytes()


def test_a_program_may_be_written_as_a_module(run: Run, program: Path) -> None:
    done = run("rewrite", "model.pt2", "--to", "conv", "--no-onnx", "-o", "out.pt")
    assert done.code == 0, done.err
    assert "does not check its inputs" in done.err
    module = torch.load("out.pt", weights_only=False)
    assert isinstance(module, torch.fx.GraphModule)
    x = torch.randn(5, 3, 16, 16)
    torch.testing.assert_close(module(x), load("model.pt2").module()(x))


def test_inspect_reads_a_program(run: Run, program: Path) -> None:
    document = run("inspect", "model.pt2", "--json").document
    assert [site["name"] for site in document["sites"]] == ["fc"]
    assert document["model"]["class"] == "ExportedProgram"
    assert document["model"]["input_shapes"] == [[2, 3, 16, 16]]
    assert document["trace"]["method"] == "given"


def test_a_program_cannot_be_traced_symbolically(run: Run, program: Path) -> None:
    done = run("rewrite", "model.pt2", "--to", "conv", "--no-onnx", "--trace", "symbolic")
    assert done.code == 2
    assert "traced already" in done.err


def test_a_module_is_written_as_a_program_where_that_is_asked_for(run: Run, net: Path) -> None:
    done = run("rewrite", "model.pt", "--to", "conv", "--no-onnx", "-o", "out.pt2", *SMALL)
    assert done.code == 0, done.err
    module = torch.load("model.pt", weights_only=False).eval()
    program = load("out.pt2")
    assert program.state_dict["fc.weight"].shape == (5, 8, 1, 1)
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 16, 16)
        torch.testing.assert_close(program.module()(x), module(x))


@pytest.mark.parametrize(
    ("way", "method"), [("symbolic", "symbolic"), ("auto", "symbolic"), ("export", "export")]
)
def test_the_way_is_chosen_and_said(run: Run, net: Path, way: str, method: str) -> None:
    trace = run("inspect", "model.pt", "--trace", way, "--json", *SMALL).document["trace"]
    assert trace["method"] == method
    assert trace["reason"] == ("asked for" if way == "export" else None)


def test_what_only_export_can_trace_is_written_as_a_program(run: Run, shaped: Path) -> None:
    done = run("rewrite", "shaped:Shaped", "--to", "conv", "--no-onnx", *SMALL)
    assert done.code == 0, done.err
    assert "traced with torch.export: torch.fx cannot trace it symbolically" in done.out
    assert load("Shaped.conv.pt2").state_dict["fc.weight"].shape == (5, 8, 1, 1)
    again = run("rewrite", "shaped:Shaped", "--to", "conv", "--no-onnx", *SMALL)
    assert again.code == 2
    assert "exists already" in again.err


def test_without_export_it_is_refused(run: Run, shaped: Path, written: Written) -> None:
    done = run("rewrite", "shaped:Shaped", "--to", "conv", "--trace", "symbolic", "--no-onnx", *SMALL)
    assert done.code == 2
    assert "cannot trace it symbolically" in done.err
    assert written() == {"shaped.py"}


def test_shapes_are_the_program_s_own(dynamic: bytes, static: bytes) -> None:
    source = Source.parse("model.pt2")
    found = program_shapes(torch.export.load(io.BytesIO(dynamic)), source)
    assert (found.shapes, found.fixed_batch) == (((2, 3, 16, 16),), None)
    assert found.examples(5)[0].shape == (5, 3, 16, 16)
    program = torch.export.load(io.BytesIO(static))
    found = program_shapes(program, source)
    assert (found.shapes, found.fixed_batch) == (((3, 3, 16, 16),), 3)
    assert found.examples(5)[0].shape == (3, 3, 16, 16)
    with pytest.raises(InputError, match="3x3x16x16"):
        program_shapes(program, source, [(1, 3, 8, 8)])
    with pytest.raises(InputError, match="1 inputs, 2 shapes"):
        program_shapes(program, source, [(1, 3, 16, 16)] * 2)


def test_a_program_without_example_inputs_says_its_shapes(dynamic: bytes) -> None:
    program = torch.export.load(io.BytesIO(dynamic))
    program.example_inputs = None
    assert program_shapes(program, Source.parse("model.pt2")).shapes == ((2, 3, 16, 16),)


def _compiled() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/archive_format", "pt2")
        archive.writestr("model/data/aotinductor/model/wrapper.so", "")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"garbage", "nor torch.export.save, safetensors or ONNX, or is damaged"),
        (b"PK\x03\x04garbage", "torch.export.save wrote, or is damaged"),
        (None, "torch.export.save wrote, or is damaged"),
        (_compiled(), "compiled by AOTInductor"),
        (b"", "the file is empty"),
    ],
    ids=["garbage", "no zip", "truncated", "compiled", "empty"],
)
def test_a_file_that_holds_no_program_is_refused(
    run: Run, folder: Path, dynamic: bytes, content: bytes | None, says: str
) -> None:
    Path("bad.pt2").write_bytes(dynamic[: len(dynamic) // 2] if content is None else content)
    for command in (("inspect", "bad.pt2"), ("rewrite", "bad.pt2", "--to", "conv", "--no-onnx")):
        done = run(*command)
        assert (done.code, done.out) == (2, "")
        assert says in done.err
        assert "bad.pt2" in done.err
        assert "Traceback" not in done.err
        assert run(*command, "--json").document["error"]["type"] == "FileError"


def test_a_damaged_archive_is_refused(folder: Path, dynamic: bytes) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(dynamic)) as whole, zipfile.ZipFile(buffer, "w") as archive:
        for item in whole.infolist():
            archive.writestr(item, b"{" if item.filename.endswith("model.json") else whole.read(item))
    Path("bad.pt2").write_bytes(buffer.getvalue())
    with pytest.raises(FileError, match=r"bad\.pt2: is not a file that torch\.export\.save wrote"):
        read_program("bad.pt2")


def test_both_forms_of_a_static_program_are_checked_at_its_batch(
    run: Run, folder: Path, static: bytes
) -> None:
    Path("model.pt2").write_bytes(static)
    done = run("rewrite", "model.pt2", "--to", "conv", *CPU, "--json")
    assert done.code == 0, done.out + done.err
    assert "batches of 3 only" in done.err
    assert [check["verdict"] for check in done.document["checks"]] == ["proved", "proved", "proved"]
    assert run("check", "model.pt2", "model.conv.pt2", *CPU).code == 0


@pytest.mark.parametrize(
    ("batch", "example", "sizes"),
    [
        (Dim("batch", min=1, max=4), 2, [1, 2, 3]),
        (Dim("batch", min=3, max=7), 3, [3, 4, 5]),
    ],
    ids=["to four", "three to seven"],
)
def test_a_program_is_checked_at_batches_that_it_takes(
    run: Run, folder: Path, batch: Any, example: int, sizes: list[int]
) -> None:
    Path("model.pt2").write_bytes(exported({0: batch}, example))
    done = run("rewrite", "model.pt2", "--to", "conv", *CPU, "--json")
    assert done.code == 0, done.out + done.err
    assert [check["verdict"] for check in done.document["checks"]] == ["proved", "proved", "proved"]
    assert done.document["checks"][0]["statistics"][0]["batches"] == sizes
    assert run("check", "model.pt2", "model.conv.pt2", *CPU).code == 0


def test_what_only_export_can_trace_gets_its_onnx_files_and_certificate(run: Run, shaped: Path) -> None:
    done = run("rewrite", "shaped:Shaped", "--to", "conv", *CPU, *SMALL, "--json")
    assert done.code == 0, done.out + done.err
    assert done.document["report"]["trace"]["method"] == "export"
    assert [check["verdict"] for check in done.document["checks"]] == ["proved", "proved", "proved"]
    assert {path["path"] for path in done.document["files"]} >= {"Shaped.conv.onnx", "Shaped.linear.onnx"}
    assert run("check", "Shaped.linear.onnx", "Shaped.conv.onnx", *CPU).code == 0
    damaged = load("Shaped.conv.pt2")
    with torch.no_grad():
        damaged.state_dict["fc.weight"].mul_(1.5)
    Path("damaged.pt2").write_bytes(program_bytes(damaged))
    assert run("check", "Shaped.linear.onnx", "damaged.pt2", *CPU).code == 1


class Nested(nn.Module):
    """Inputs in a dict, in a list and by keyword; outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(
        self, images: dict[str, torch.Tensor], others: list[torch.Tensor], *, scale: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        return {"first": self.net(images["left"] * scale), "second": self.net(others[0])}


def test_nested_inputs_get_their_onnx_files_and_certificate(run: Run, folder: Path) -> None:
    torch.manual_seed(0)
    x, batch = torch.randn(2, 3, 16, 16), {0: Dim("batch")}
    program = torch.export.export(
        Nested().eval(),
        ({"left": x}, [x]),
        {"scale": torch.randn(2, 3, 16, 16)},
        dynamic_shapes={"images": {"left": batch}, "others": [batch], "scale": batch},
    )
    Path("model.pt2").write_bytes(program_bytes(program))
    done = run("rewrite", "model.pt2", "--to", "conv", *CPU, "--json")
    assert done.code == 0, done.out + done.err
    assert [check["verdict"] for check in done.document["checks"]] == ["proved", "proved", "proved"]
    names = [value.name for value in onnx.load("model.conv.onnx").graph.input]
    assert names == ["images_left", "others_0", "scale"]
    assert run("check", "model.pt2", "model.conv.pt2", *CPU).code == 0
