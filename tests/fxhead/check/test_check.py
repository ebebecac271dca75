from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fxhead import cli
from tests.fxhead.conftest import NET

Run = Callable[..., Any]
FORMS = ("model.linear.onnx", "model.conv.onnx")
SMALL = ("--input-shape", "1x3x16x16", "--providers", "cpu")


SOURCES = ("model.pt", "model.conv.pt", "program.pt2", "model.linear.onnx", "model.conv.onnx", "nets:build")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one model in every form that ``check`` takes, made once."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "nets.py").write_text(NET)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [str(folder), *sys.path])
        patch.delitem(sys.modules, "nets", raising=False)
        torch.manual_seed(0)
        module = __import__("nets").Net().eval()
        torch.save(module, "model.pt")
        assert cli.main(("rewrite", "model.pt", "--to", "conv", *SMALL, "--allow", "nets.Net")) == 0
        batch = {0: torch.export.Dim("batch")}
        program = torch.export.export(module, (torch.randn(2, 3, 16, 16),), dynamic_shapes=(batch,))
        torch.export.save(program, "program.pt2")
        with torch.no_grad():
            module.fc.weight[2, 3] *= 1.01
        torch.save(module, "bad.pt")
    return folder


@pytest.fixture
def rewritten(folder: Path, sources: Path) -> None:
    """The working directory after ``rewrite``, with the original damaged in one weight as ``bad.pt``."""
    for path in sources.glob("*.*"):
        if path.is_file():
            shutil.copy(path, folder)


@pytest.mark.parametrize("candidate", ["model.conv.pt", "model.conv.onnx", "model.linear.onnx"])
def test_what_rewrite_wrote_is_the_same_function(run: Run, rewritten: None, candidate: str) -> None:
    done = run("check", "model.pt", candidate, "--plan", "model.conv.plan.json", *SMALL)
    assert done.code == 0, done.out + done.err
    assert "verdict: " in done.out


@pytest.mark.parametrize("candidate", SOURCES)
@pytest.mark.parametrize("reference", SOURCES)
def test_any_two_can_be_checked(run: Run, rewritten: None, reference: str, candidate: str) -> None:
    shape = () if {reference, candidate} & {"program.pt2", *FORMS} else SMALL[:2]
    done = run("check", reference, candidate, "--providers", "cpu", "--json", *shape)
    assert done.code == 0, done.out + done.err
    accepted = {"proved"} if reference == candidate else {"proved", "agrees"}
    assert done.document["verdict"] in accepted
    assert done.document["check"]["heads"]
    assert done.document["inputs"]["inputs"][0]["shape"] == [3, 16, 16]


def test_two_onnx_files_can_be_checked(run: Run, rewritten: None) -> None:
    done = run("check", "model.linear.onnx", "model.conv.onnx", "--providers", "cpu", "--json")
    assert done.code == 0, done.out + done.err
    assert done.document["verdict"] != "broken"


@pytest.mark.parametrize("reference", ["model.conv.pt", "model.conv.onnx"])
def test_one_weight_off_by_a_percent_is_broken(run: Run, rewritten: None, reference: str) -> None:
    done = run("check", reference, "bad.pt", *SMALL)
    assert done.code == 1, done.out + done.err
    assert "verdict: broken" in done.out


def test_a_plan_that_is_no_plan_is_refused(run: Run, rewritten: None) -> None:
    for plan, says in (("nets.py", "is no JSON"), ("gone.json", "no such file"), ("model.pt", "is no JSON")):
        done = run("check", "model.pt", "model.conv.pt", "--plan", plan, *SMALL)
        assert done.code == 2
        assert says in done.err
        assert done.err.endswith("give a file that fxhead wrote as *.plan.json\n")


def test_a_file_that_is_no_onnx_is_refused(run: Run, rewritten: None) -> None:
    Path("garbage.onnx").write_bytes(b"\x00garbage" * 20)
    done = run("check", "model.pt", "garbage.onnx", *SMALL)
    assert done.code == 2
    assert "garbage.onnx" in done.err
    assert "Traceback" not in done.err
