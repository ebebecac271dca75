"""The command line: arguments in, exit code out; whatever goes wrong becomes one message."""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import NoReturn, cast

import click

from fxhead import __version__
from fxhead.commands.batch import batch_command
from fxhead.commands.cam import cam_command
from fxhead.commands.check import check_command
from fxhead.commands.convert_weights import convert_command
from fxhead.commands.explain import explain_command
from fxhead.commands.inspect import inspect_command
from fxhead.commands.report import report_command
from fxhead.commands.rewrite import rewrite_command
from fxhead.commands.schema import schema_command
from fxhead.commands.study import study_command
from fxhead.outcome import ExitCode
from fxhead.show import render
from fxhead.supervisor import fork_work

_REPORT = "this is a bug in fxhead: please report it with the output of the same command under --debug"

_ALLOCATIONS = 200_000
"""Objects made between two looks for cycles: a recording makes millions that stay, and none that cycle."""
_came: dict[int, float] = {}
"""The signals that are to end this process, with the time of each."""
_ONCE_S = 1.0
"""A terminal sends its signals to both processes, and the one that watches hands its own on."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, message="fxhead %(version)s")
def fxhead() -> None:
    """Rewrite a classifier's head between Linear and 1×1 convolution, and check both forms.

    SOURCE is a file that torch.save or torch.export.save wrote, an .onnx file, a state dict or checkpoint
    with --arch, torchvision:NAME, or package.module:callable. No code in a file is run unless you say
    --trust; a callable is code, and is run.

    Exit codes: 0 done; 1 the answer is no (nothing to rewrite, or not the same function);
    2 bad usage or input; 3 internal error; 130 interrupted.
    """


for _command in (
    rewrite_command,
    batch_command,
    inspect_command,
    explain_command,
    check_command,
    report_command,
    convert_command,
    cam_command,
    study_command,
    schema_command,
):
    fxhead.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; raises nothing."""
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    as_json, debug = "--json" in arguments, "--debug" in arguments or bool(os.environ.get("FXHEAD_DEBUG"))
    if not debug and not sys.warnoptions:
        # the user can act on our own notes and errors; torch's deprecations are for developers
        warnings.simplefilter("ignore")
    if not debug and not logging.root.handlers:
        logging.root.addHandler(logging.NullHandler())  # nor what libraries log afterwards
    try:
        with contextlib.nullcontext() if debug else _unlogged():
            returned = fxhead.main(arguments, prog_name="fxhead", standalone_mode=False)
        return int(returned or ExitCode.DONE)
    except (KeyboardInterrupt, click.Abort):
        _show("Interrupted", "interrupted", as_json=as_json)
        return ExitCode.INTERRUPTED
    except SystemExit as error:
        if _came:
            raise
        # whoever asks for the exit code would take 0 for an answer
        what = f"the code of a model ended the process, with the exit code {str(error.code)[:80]}"
        fix = "take sys.exit() out of it; behind if __name__ == '__main__' it is not run"
        _show("InputError", what, fix=fix, as_json=as_json)
        return ExitCode.USAGE
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "fxhead"
        # click lists choices on lines, and puts the nearest names behind what is wrong
        what, *near = re.split(r" \(?Did you mean ", " ".join(error.format_message().split()))
        fix = f"did you mean {near[0].rstrip('?)')}? " if near else ""
        _show("UsageError", what.rstrip("."), where=where, fix=f"{fix}see '{where} --help'", as_json=as_json)
        return ExitCode.USAGE
    except Exception as error:  # noqa: BLE001 - the one place where whatever happened becomes a message
        if _came:  # what a signal interrupts, an import say, may fail in any way afterwards
            return _stopped(max(_came, key=lambda number: _came[number]), as_json=as_json)
        if debug:
            render.show_traceback(traceback.format_exc())
        return _explain(error, as_json=as_json)


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """Within it no library logs what it does not like of a file, in the file's own words."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _stopped(number: int, *, as_json: bool) -> int:
    if number != signal.SIGINT:
        return 128 + number
    _show("Interrupted", "interrupted", as_json=as_json)
    return ExitCode.INTERRUPTED


def _explain(error: Exception, *, as_json: bool) -> ExitCode:
    # not imported before something failed: it imports torch
    from fxpasses.errors import FxHeadError, shortened

    name = type(error).__name__
    if isinstance(error, FxHeadError):
        _show(name, error.what, where=error.where, fix=error.fix, as_json=as_json)
        return ExitCode.USAGE
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):  # torch has no type for its own
        what = "there is not enough memory for it"
        _show("MemoryError", what, fix="give a smaller model, or use a machine with more", as_json=as_json)
        return ExitCode.USAGE
    _show("InternalError", shortened(f"{name}: {error}"), fix=_REPORT, as_json=as_json)
    return ExitCode.INTERNAL


def _show(kind: str, what: str, *, where: str | None = None, fix: str | None = None, as_json: bool) -> None:
    head = f"{where}: {what}" if where else what
    text = f"{head}; {fix}" if fix else head
    if kind != "Interrupted":
        text = f"error: {text}"
    render.show_error({"type": kind, "what": what, "where": where, "fix": fix}, text, as_json=as_json)


def _end_by(failed: threading.ExceptHookArgs) -> None:
    """Ends the process where time is up, says the clock, and the main thread is in a call that goes on."""
    if failed.thread is None or failed.thread.name != "fxhead clock" or failed.exc_value is None:
        threading.__excepthook__(failed)
        return
    sys.stdout = sys.__stdout__ or sys.stdout  # a command at work has it at stderr
    code = _explain(cast("Exception", failed.exc_value), as_json="--json" in sys.argv)
    os._exit(code)


def run(*, is_watched: bool = False) -> NoReturn:
    """Entry point of the ``fxhead`` command.

    Args:
        is_watched: whether another process watches over this one already.
    """
    # so that temporary files are removed by a signal, too
    ended: list[int] = []

    def end(number: int, _: object) -> None:
        before, _came[number] = _came.get(number), time.monotonic()
        if before is not None and _came[number] - before < _ONCE_S:
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        ended.append(128 + number)
        sys.exit(128 + number)

    # a thread that waits for another would keep a core busy: where other work wants that core, or a container
    # lends fewer than it shows, each waits for the other (measured: the whole command three times as long)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, end)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)
    if not is_watched:
        fork_work(lambda error: _explain(error, as_json="--json" in sys.argv))
    gc.set_threshold(_ALLOCATIONS, 20, 100)
    atexit.register(_leave, ended)
    threading.excepthook = _end_by
    try:
        ended.append(main())  # torch makes a TypeError of its own of what is raised in its C++ code
    except KeyboardInterrupt:  # a second one, while the first is told
        ended[:] = [int(ExitCode.INTERRUPTED)]
    sys.exit(ended[0])


def _leave(ended: list[int]) -> None:
    """Ends the process, after all else that is to be done at its end: to take torch apart takes a second."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):  # nobody reads any more, which Python tells
        return
    if ended:
        os._exit(ended[0])
