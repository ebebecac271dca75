from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., Any]


def test_sites_are_listed_with_what_they_can_become(run: Run, net: Path) -> None:
    done = run("inspect", "model.pt")
    assert done.code == 0, done.err
    for expected in (
        "model.pt",
        "Net",
        "fc",
        "head",
        "Linear(8, 5)",
        "Conv2d(8, 5, kernel_size=(1, 1))",
        "nets.py:",
    ):
        assert expected in done.out
    assert "is a guess" in done.err
    assert "1 site, 0 misses" in done.out


def test_misses_alone_are_exit_code_0(run: Run, folder: Path) -> None:
    done = run("inspect", "nets:Hooked")
    assert done.code == 0
    assert "HOOKED" in done.out


def test_the_json_document_has_every_field(run: Run, folder: Path) -> None:
    document = run("inspect", "nets:Hooked", "--scope", "pooled", "--json").document
    assert document["command"] == "inspect"
    assert document["scope"] == "pooled"
    assert document["model"]["input_origin"] == "guessed"
    (miss, *_) = document["misses"]
    assert {"code", "name", "node", "source", "reason", "fix"} <= set(miss)
    assert all(miss[field] for field in ("code", "node", "source", "reason", "fix"))


def test_torchvision_models_bring_their_shape(run: Run) -> None:
    document = run("inspect", "torchvision:resnet18", "--json").document
    assert [site["name"] for site in document["sites"]] == ["fc"]
    assert document["model"]["input_shapes"] == [[1, 3, 224, 224]]
    assert document["model"]["parameters"] == 11_689_512


def test_off_a_terminal_a_miss_is_one_line(run: Run, folder: Path) -> None:
    (line,) = (line for line in run("inspect", "nets:Hooked").out.splitlines() if "HOOKED" in line)
    assert line.startswith("skipped 'fc' (fc, nets.py:")
    assert line == line.rstrip()
