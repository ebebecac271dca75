"""The printed certificate: what is broken comes first, and it reads well at every width."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from fxhead import cli
from fxhead.show import render
from fxhead.show.fitting_table import FittingTable
from tests.fxhead.conftest import NET

Run = Callable[..., Any]
SMALL = ("--input-shape", "1x3x16x16", "--providers", "cpu")


def printed(renderable: Any, width: int) -> list[str]:
    target = Console(file=io.StringIO(), width=width, color_system=None)
    target.print(renderable)
    return target.file.getvalue().splitlines()


def table() -> FittingTable:
    found = FittingTable("name", "count", "why", prose="why", right=("count",))
    found.add("a.long.name.of.a.file.onnx", "1,000,000", "because of a reason that takes many words to give")
    found.add("[b]", "2", "")
    return found


def test_a_table_that_fits_is_one() -> None:
    heading, rule, first, second = printed(table(), 120)
    assert heading.split() == ["name", "count", "why"]
    assert set(rule.strip()) == {"─"}
    assert first.index("1,000,000") + 9 == second.index("2") + 1
    assert "[b]" in second


def test_prose_wraps_inside_the_table() -> None:
    lines = printed(table(), 80)
    assert len(lines) > 4
    assert "a.long.name.of.a.file.onnx" in lines[2]
    assert max(map(len, lines)) <= 80


def test_columns_that_do_not_fit_become_blocks() -> None:
    lines = printed(table(), 40)
    assert lines[0].rstrip() == "name   a.long.name.of.a.file.onnx"
    assert lines[1].rstrip() == "count  1,000,000"
    assert [line.rstrip() for line in lines[-2:]] == ["name   [b]", "count  2"]
    assert max(map(len, lines)) <= 40


@pytest.fixture
def pairs(run: Run, net: Path) -> None:
    """``tie1.pt`` and ``tie2.pt``, which decide between two nearly tied classes in other ways."""
    save_pairs(torch.load("model.pt", weights_only=False))


def save_pairs(module: Any) -> None:
    with torch.no_grad():
        module.fc.weight[1] = module.fc.weight[0]
        module.fc.bias[:2] = 10
        for name, step in (("tie1.pt", 1e-3), ("tie2.pt", -2e-3)):
            module.fc.bias[1] += step
            torch.save(module, name)


def test_what_is_broken_comes_first_with_both_values(run: Run, pairs: None) -> None:
    done = run("check", "tie1.pt", "tie2.pt", "--samples", "25", *SMALL)
    assert done.code == 1
    lines = done.out.splitlines()
    verdict = lines.index("verdict: broken")
    assert lines[verdict + 1].startswith("weights failed: fc.bias[1]: the parameter is another number")
    assert lines[verdict + 2].split() == ["expected", "found", "difference", "allowed"]
    assert lines[verdict + 4].split()[:3] == ["10.0010004", "9.99900055", "0.002"]
    assert any(line.startswith("also rounding: ") for line in lines)
    layers = [
        line.split()[0] for line in lines if line.split()[1:3] in (["eager", "failed"], ["failed", "45"])
    ]
    assert layers == ["weights", "rounding", "decision"]


def test_flips_are_shown_with_their_margins_and_counted(run: Run, pairs: None) -> None:
    done = run("check", "tie1.pt", "tie2.pt", "--samples", "25", *SMALL)
    assert "flips: 25 samples change class" in done.out
    assert "… and 15 more; --json lists all" in done.out
    shown = [line.split() for line in done.out.splitlines() if "no, up to" in line]
    assert [row[2:6] for row in shown] == [[str(index), "1", "0", "0.001"] for index in range(10)]
    document = run("check", "tie1.pt", "tie2.pt", "--samples", "25", "--json", *SMALL).document
    assert [flip["sample"] for flip in document["check"]["flips"]] == list(range(25))


class Terminal(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a check of the two and a rewrite have to say, worked out once for all widths."""
    found: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("outcomes")
        (folder / "nets.py").write_text(NET)
        patch.chdir(folder)
        patch.setattr(sys, "path", [str(folder), *sys.path])
        patch.delitem(sys.modules, "nets", raising=False)
        torch.manual_seed(0)
        save_pairs(__import__("nets").Net().eval())
        patch.setattr(render, "show_outcome", lambda outcome, as_json: found.append(outcome))
        for command in (("check", "tie1.pt", "tie2.pt"), ("rewrite", "tie1.pt", "--to", "conv")):
            cli.main((*command, *SMALL, "--allow", "nets.Net"))
    return dict(zip(("check", "rewrite"), found, strict=True))


@pytest.mark.parametrize("colour", [True, False], ids=["colour", "plain"])
@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("command", ["check", "rewrite"])
def test_no_line_is_wider_than_the_terminal_and_no_figure_is_broken(
    outcomes: dict[str, Any], monkeypatch: pytest.MonkeyPatch, command: str, width: int, colour: bool
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "" if colour else "1")
    target = Terminal()
    monkeypatch.setattr(sys, "stdout", target)
    render.show_outcome(outcomes[command], as_json=False)
    text = target.getvalue()
    assert ("\x1b[" in text) is colour
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert max(map(len, plain.splitlines())) <= width
    whole = {"check": ("0.002", "tie1.pt"), "rewrite": ("tie1.linear.onnx", "eager/cpu", "proved")}
    for cell in whole[command]:
        assert cell in plain
