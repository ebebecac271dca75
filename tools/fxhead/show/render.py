"""The only file that prints: results to stdout, everything else to stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

from fxhead.show.visible import visible

if TYPE_CHECKING:
    from rich.console import Console

    from fxhead.outcome import Outcome

# off a terminal nothing is wrapped: a line stays one line for grep
_PIPE_WIDTH = 10_000
_NAME = "fxhead"


class TerminalProgress:
    """Progress on stderr: a spinner or a bar on a terminal, else a line for each step."""

    def __init__(self) -> None:
        self._live = _is_terminal(sys.stderr)

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Shows ``text`` while the step runs."""
        if not self._live:
            _line(sys.stderr, f"{_NAME}: {visible(text)}")
            yield
            return
        with console(sys.stderr).status(_escaped(text)):
            yield

    @contextlib.contextmanager
    def count(self, text: str, total: int | None) -> Iterator[Callable[[], None]]:
        """Shows ``text`` and a bar; what it gives moves the bar on by one."""
        if not self._live:
            _line(sys.stderr, f"{_NAME}: {visible(text)}")
            yield lambda: None
            return
        from rich import progress

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
        )
        with progress.Progress(*columns, console=console(sys.stderr), transient=True) as bar:
            task = bar.add_task(_escaped(text), total=total)
            yield lambda: bar.advance(task)

    def note(self, text: str) -> None:
        """Shows ``text`` on a line of its own."""
        _line(sys.stderr, f"{_NAME}: note: {visible(text)}")


def show_outcome(outcome: Outcome, *, as_json: bool) -> None:
    """Writes the result to stdout: one JSON document, or tables for a person."""
    if as_json:
        show_document(outcome.to_dict())
        return
    target = console(sys.stdout)
    with target.capture() as capture:
        for renderable in outcome.lines():
            target.print(visible(renderable) if isinstance(renderable, str) else renderable)
    _emit("\n".join(line.rstrip() for line in capture.get().splitlines()))


def show_document(document: dict[str, Any]) -> None:
    """Writes a JSON document to stdout."""
    _emit(json.dumps(document, indent=2))


def show_error(record: dict[str, str | None], text: str, *, as_json: bool) -> None:
    """Writes an error: one JSON document to stdout, or one line to stderr."""
    if as_json:
        try:
            show_document({"error": record})
            return
        except OSError:  # stdout itself is what failed
            pass
    _line(sys.stderr, f"{_NAME}: {visible(text)}")


def end_progress() -> None:
    """Makes the terminal as it was, where whoever showed progress on it could not."""
    if _is_terminal(sys.stderr):
        print(end="\r\x1b[2K\x1b[?25h", file=sys.stderr)  # the line is empty, and has a cursor


def show_traceback(text: str) -> None:
    """Writes a traceback to stderr, for --debug."""
    _line(sys.stderr, visible(text.rstrip(), keep="\n"))


def console(stream: TextIO) -> Console:
    """A console that colours only a terminal, and nothing under NO_COLOR."""
    from rich.console import Console

    terminal = _is_terminal(stream)
    colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Console(
        file=stream,
        force_terminal=terminal,
        color_system="auto" if colour else None,
        highlight=False,
        markup=True,
        emoji=False,
        width=None if terminal else _PIPE_WIDTH,
    )


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(visible(text))


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


def _emit(text: str) -> None:
    with _whole_stdout():
        print(text)


@contextlib.contextmanager
def _whole_stdout() -> Iterator[None]:
    """Flushes what is printed; a reader that went away (``| head``) is no error."""
    if sys.stdout is None:  # the caller closed it
        with contextlib.redirect_stdout(open(os.devnull, "w")):
            yield
        return
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # or Python complains once more when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _line(stream: TextIO | None, text: str) -> None:
    # a stderr that is closed or went away must not change what the command does
    with contextlib.suppress(OSError, ValueError):
        if stream is not None:
            print(text, file=stream, flush=True)
