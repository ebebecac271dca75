"""``--attest``: a statement that other tools take, about the files that were written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fxexport.results import LayerName
from tests.fxhead.check.test_witness import written as good_and_limited

Run = Callable[..., Any]
SMALL = ("--input-shape", "1x3x16x16", "--providers", "cpu")


def validated(path: Path) -> Any:
    """The statement, after in-toto's own library has taken it."""
    statement = pytest.importorskip("in_toto_attestation.v1.statement", reason="the extra 'test' has it")
    json_format = pytest.importorskip("google.protobuf.json_format")
    parsed = json_format.Parse(path.read_text(), statement.Statement([], "", {}).pb)  # unknown fields raise
    statement.Statement.copy_from_pb(parsed).validate()
    return json.loads(path.read_text())


def digest(name: str) -> str:
    return hashlib.sha256(Path(name).read_bytes()).hexdigest()


def test_a_rewrite_states_what_it_wrote(run: Run, net: Path) -> None:
    done = run("rewrite", "model.pt", "--to", "conv", "--attest", *SMALL, "--json")
    assert done.code == 0, done.err
    written = {entry["path"] for entry in done.document["files"]}
    assert "model.conv.intoto.json" in written
    found = validated(Path("model.conv.intoto.json"))
    subjects = {entry["name"]: entry["digest"]["sha256"] for entry in found["subject"]}
    own = {"model.conv.intoto.json", "model.conv.certificate.json"}
    assert {*subjects} == (written - own) | {"model.pt"}
    assert subjects == {name: digest(name) for name in subjects}
    predicate = found["predicate"]
    assert predicate["verdict"] == "proved"
    assert predicate["certificate"] == {
        "name": "model.conv.certificate.json",
        "digest": {"sha256": digest("model.conv.certificate.json")},
    }
    assert [check["candidate"] for check in predicate["checks"]] == [
        "model.conv.pt", "model.linear.onnx", "model.conv.onnx"
    ]  # fmt: skip
    assert all([*check["layers"]] == [*LayerName] for check in predicate["checks"])


def test_what_is_broken_is_stated_too(run: Run, folder: Path) -> None:
    good_and_limited(folder)
    assert run("check", "good.onnx", "limited.onnx", "-o", "c.json", "--attest").code == 1
    found = validated(Path("c.intoto.json"))
    assert found["predicate"]["verdict"] == "broken"
    assert found["predicate"]["checks"][0]["layers"]["backbone"] == "failed"
    assert [entry["name"] for entry in found["subject"]] == ["good.onnx", "limited.onnx"]


def test_without_a_certificate_or_a_file_there_is_nothing_to_state(run: Run, net: Path) -> None:
    for command, says in (
        (("check", "model.pt", "model.pt"), "--attest: is written beside a certificate"),
        (("rewrite", "model.pt", "--to", "conv", "--no-onnx"), "--attest: there is no certificate"),
        (("check", "nets:build", "nets:build", "-o", "c.json"), "--attest: the certificate is about no file"),
    ):
        done = run(*command, "--attest", *(SMALL[:2] if "-o" in command else ()))
        assert done.code == 2
        assert says in done.err
    assert not Path("c.json").exists()
