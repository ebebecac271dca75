"""Runs a command's job and shows what came out."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from fxhead.outcome import ExitCode
from fxhead.show import render

if TYPE_CHECKING:
    from fxhead.outcome import Outcome


def finish(job: Callable[[], Outcome], *, as_json: bool) -> ExitCode:
    """Does ``job``, shows its outcome on stdout, and returns the exit code.

    Raises:
        FileError: where stdout takes no more.
    """
    # what a model prints while it loads or runs is not the result
    with contextlib.redirect_stdout(sys.stderr):
        outcome = job()
    try:
        render.show_outcome(outcome, as_json=as_json)
    except OSError as error:
        from fxpasses.errors import FileError

        what = f"the result cannot be written ({error.strerror or error})"
        raise FileError(what, where="stdout", fix="make room; output files are complete") from error
    return outcome.exit_code
