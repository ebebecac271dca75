"""Nothing that a file says reaches a terminal as an order: names, labels and places are written out."""

from __future__ import annotations

import io
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.text import Text

from fxhead.show import render
from fxhead.show.fitting_table import FittingTable
from fxhead.show.visible import visible

Run = Callable[..., Any]

ORDERS = "\x1b]0;title\x07\x9b31m\r\x1b[2J\u202e\u2028\n[bold]"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def is_obeyed(text: str) -> bool:
    """Whether anything in it is more than letters, line breaks, and what rich itself colours with."""
    return not _COLOUR.sub("", text).replace("\n", "").isprintable()


def test_what_is_not_printed_is_written_out() -> None:
    assert visible("a é 你 [b]") == "a é 你 [b]"
    assert visible("a\x1b[31m\n\udcff\u202e") == r"a\x1b[31m\n\udcff\u202e"
    assert visible("a\nb\r", keep="\n") == "a\nb\\r"


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect",),
        ("rewrite", "--to", "conv", "--no-onnx", "-o", "out"),
        ("cam", "photo.png", "--size", "24,16", "--labels", "labels.json"),
        ("check",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_no_command_shows_an_order(run: Run, net: Path, arguments: tuple[str, ...]) -> None:
    name = f"{ORDERS}.pt"
    shutil.copy(net, name)
    Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save("photo.png")
    shutil.copy("photo.png", f"{ORDERS}.png")
    Path("labels.json").write_text('["\\u001b[31mred\\u202e", "b", "c", "d", "\\u009be"]')
    command, *rest = arguments
    second = {"check": [name], "cam": [f"{ORDERS}.png"]}.get(command, [])
    done = run(command, name, *second, *rest)
    assert done.code in (0, 2), done.err
    shown = done.out + done.err
    assert r"\x1b]0;title" in shown
    assert not is_obeyed(shown)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_and_tables_on_a_terminal_show_no_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")  # else a spinner moves the cursor
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    progress = render.TerminalProgress()
    progress.note(ORDERS)
    with progress.step(ORDERS), progress.count(ORDERS, 2) as advance:
        advance()
    render.show_error({}, ORDERS, as_json=False)
    render.show_traceback(f"a\n{ORDERS}")
    table = FittingTable("name", "result")
    table.add(ORDERS, Text(ORDERS, style="red"))
    render.console(stream).print(visible(ORDERS))
    for width in (40, 400):
        console = render.console(stream)
        console.width = width
        console.print(table)
    assert r"\x1b]0;title" in stream.getvalue()
    assert not is_obeyed(stream.getvalue())


def test_of_a_hundred_thousand_rows_a_thousand_are_shown() -> None:
    table, stream = FittingTable("name", "result"), io.StringIO()
    for row in range(1_005):
        table.add(f"row{row}", "bad")
    for width in (16, 400):
        console = render.console(stream)
        console.width = width
        console.print(table)
        assert "row999" in stream.getvalue().replace("\n", "")
        assert "row1000" not in stream.getvalue()
        assert "5 more" in stream.getvalue()
        stream.seek(stream.truncate(0))
