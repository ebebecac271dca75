from __future__ import annotations

from pathlib import Path

import pytest

from fxhead.source import Source, SourceKind


@pytest.mark.parametrize(
    ("text", "kind", "stem"),
    [
        ("model.pt", SourceKind.FILE, "model"),
        ("a/b/model.v2.pth", SourceKind.FILE, "model.v2"),
        ("no-suffix", SourceKind.FILE, "no-suffix"),
        ("C:/models/model.pt", SourceKind.FILE, "model"),
        ("model.ONNX", SourceKind.ONNX, "model"),
        ("torchvision:resnet18", SourceKind.TORCHVISION, "resnet18"),
        ("torchvision:", SourceKind.TORCHVISION, ""),
        ("timm:resnet18.a1_in1k", SourceKind.TIMM, "resnet18.a1_in1k"),
        ("runs/best.pth.tar", SourceKind.FILE, "best"),
        ("nets:build", SourceKind.CALLABLE, "build"),
        ("my.nets:Zoo.build", SourceKind.CALLABLE, "build"),
        ("nets.py:build", SourceKind.CALLABLE, "build"),
        ("./my/nets.py:Zoo.build", SourceKind.CALLABLE, "build"),
        ("../nets.py:build", SourceKind.FILE, "nets"),
        ("nets.py", SourceKind.FILE, "nets"),
    ],
)
def test_kind_and_stem_are_read_from_the_text(text: str, kind: SourceKind, stem: str) -> None:
    source = Source.parse(text)
    assert (source.kind, source.stem) == (kind, stem)


def test_a_callable_may_be_named_by_its_file() -> None:
    assert Source.parse("./my/nets.py:Zoo.build").name == "my.nets:Zoo.build"


def test_a_file_that_looks_like_a_callable_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("odd:name").touch()
    assert Source.parse("odd:name").kind is SourceKind.FILE


def test_outputs_go_beside_a_file_and_into_the_working_directory_otherwise() -> None:
    assert Source.parse("a/b/model.pt").folder == Path("a/b")
    assert Source.parse("nets:build").folder == Path()
