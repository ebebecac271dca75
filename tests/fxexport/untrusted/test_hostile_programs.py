"""``certify`` and ``export_onnx`` take paths of programs: no code in such a file runs."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_names import PAYLOADS

from fxexport import certify, export_onnx
from fxexport.untrusted import program_archive
from fxexport.untrusted.archive import open_archive
from fxexport.untrusted.program_archive import read_parts
from fxexport.untrusted.refused import Refused
from fxpasses.errors import FileError
from hostile import CANARY, edited_program, program

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


def saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


X = torch.zeros(2, 3, 8, 8)
PARTS: dict[str, tuple[str, Any, str]] = {
    "two samples": ("data/sample_inputs/model.pt", ((X, X), {}), "of another structure"),
    "no arguments": ("data/sample_inputs/model.pt", [X], "something else than arguments"),
    "a list": ("data/sample_inputs/model.pt", ((X,), [X]), "something else than arguments"),
    "a keyword": ("data/sample_inputs/model.pt", ((X,), {"x y": X}), "an argument called"),
    "a number": ("data/constants/model.pt", {"a": 5}, "something else than tensors"),
    "a tensor": ("data/constants/model.pt", X, "something else than tensors"),
}


@pytest.mark.parametrize("case", PARTS)
def test_a_part_is_what_the_program_says(case: str, tmp_path: Path) -> None:
    end, value, says = PARTS[case]

    def edit(members: dict[str, bytes]) -> None:
        folder = next(name for name in members if name.endswith("models/model.json"))
        members[folder.removesuffix("models/model.json") + end] = saved(value)

    with pytest.raises(Refused, match=says):
        read_parts(open_archive(edited_program(tmp_path, edit), "evil.pt2"))


@pytest.mark.parametrize("name", ["weight_x", "weight_../0", "weight_", "custom_obj_0", "weight_²"])
def test_weights_lie_in_members_of_their_own(name: str, tmp_path: Path) -> None:
    def edit(members: dict[str, bytes]) -> None:
        listed = next(name for name in members if name.endswith("model_weights_config.json"))
        data = json.loads(members[listed])
        next(iter(data["config"].values()))["path_name"] = name
        members[listed] = json.dumps(data).encode()

    with pytest.raises(Refused, match="holds an object that is no tensor"):
        read_parts(open_archive(edited_program(tmp_path, edit), "evil.pt2"))


@pytest.mark.parametrize("change", [{"layout": 1}, {"dtype": 0}])
def test_weights_are_of_a_known_kind(change: dict[str, int], tmp_path: Path) -> None:
    def edit(members: dict[str, bytes]) -> None:
        listed = next(name for name in members if name.endswith("model_weights_config.json"))
        data = json.loads(members[listed])
        next(iter(data["config"].values()))["tensor_meta"].update(change)
        members[listed] = json.dumps(data).encode()

    with pytest.raises(Refused, match="of an unknown kind"):
        read_parts(open_archive(edited_program(tmp_path, edit), "evil.pt2"))


def test_a_program_s_text_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_archive, "MAX_PROGRAM_BYTES", 100)
    with pytest.raises(Refused, match="more than the limit of 100"):
        read_parts(open_archive(edited_program(tmp_path, lambda _: None), "evil.pt2"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda meta: meta["sizes"][0].update(as_int=meta["sizes"][0]["as_int"] + 1), "of another size"),
        (lambda meta: meta["sizes"].pop(), "of another size"),
        (lambda meta: meta.update(dtype=8), "of another dtype"),
    ],
    ids=["extent", "rank", "dtype"],
)
def test_a_weight_is_what_the_graph_says(change: Callable[[Any], Any], says: str, tmp_path: Path) -> None:
    def edit(members: dict[str, bytes]) -> None:
        name = next(name for name in members if name.endswith("models/model.json"))
        data = json.loads(members[name])
        values = data["graph_module"]["graph"]["tensor_values"]
        change(values[next(value for value in values if value.startswith("p_"))])
        members[name] = json.dumps(data).encode()

    with pytest.raises(Refused, match=says):
        read_parts(open_archive(edited_program(tmp_path, edit), "evil.pt2"))
