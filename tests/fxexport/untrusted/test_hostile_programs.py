"""``certify`` and ``export_onnx`` take paths of programs: no code in such a file runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hostile_names import PAYLOADS

from fxexport import certify, export_onnx
from fxpasses.errors import FileError
from hostile import CANARY, program

PROGRAMS = sorted(name for name in PAYLOADS if "program" in name)


def test_the_corpus_has_programs() -> None:
    assert len(PROGRAMS) >= 20


@pytest.mark.parametrize("name", PROGRAMS)
def test_nothing_in_a_hostile_program_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = PAYLOADS[name](tmp_path)
    (tmp_path / "good.pt2").write_bytes(program())
    monkeypatch.chdir(tmp_path)
    x = torch.randn(2, 3, 8, 8)
    with pytest.raises(FileError, match=r"evil\.pt2: .*; "):
        certify("good.pt2", path, x)
    with pytest.raises(FileError, match=r"evil\.pt2: .*; "):
        certify(path, "good.pt2", x)
    with pytest.raises(FileError, match=r"evil\.pt2: .*; "):
        export_onnx(path, x, tmp_path / "out.onnx")
    assert not (tmp_path / CANARY).exists()
    assert not (tmp_path / "out.onnx").exists()
    assert "evil_module" not in sys.modules


def test_a_good_program_is_read(tmp_path: Path) -> None:
    """Else the test above would prove nothing."""
    (tmp_path / "good.pt2").write_bytes(program())
    certificate = certify(tmp_path / "good.pt2", tmp_path / "good.pt2", torch.randn(2, 3, 8, 8))
    assert certificate.verdict == "proved"


def test_a_path_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text.pt2").write_text("no archive")
    for name, what in (("none.pt2", "no such file"), ("text.pt2", "is not a file that torch.save wrote or")):
        with pytest.raises(FileError, match=what):
            certify(tmp_path / name, tmp_path / name, torch.randn(2, 3, 8, 8))
