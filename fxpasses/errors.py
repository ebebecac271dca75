"""One tree of errors: each says what is wrong, where, and how to fix it.

::

    FxHeadError                 a user can do something about it (exit code 2)
    ├── InputError              an argument, a model or an input of the wrong kind
    ├── TraceError              the model cannot be traced into a graph
    ├── PlanError               a weight plan does not fit what it is applied to
    ├── ExportError             ONNX export failed, or gave not what was asked for  (fxexport)
    │   └── SizeError           no one graph is the model at every input size
    ├── ProviderError           a provider is missing or did not run every node     (fxexport)
    ├── WallError               a file's content tried to act                       (fxpasses.wall)
    ├── SlowError               a file's content takes too long, or too much memory (fxpasses.wall)
    ├── CheckError              two things cannot be compared                       (fxexport)
    └── FileError               a file cannot be read or written                    (fxhead)
    InternalError               a bug in fxhead itself (exit code 3), outside the tree
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

_MOST_LISTED = 200
_LONGEST = 5_000
"""Characters of one part of an error: the longest path fits, and so does a list of names to choose from."""


class FxHeadError(Exception):
    """An error that the user can act on.

    Each part is cut to some thousand characters: it may quote a file, and a file may have megabytes to quote.

    Args:
        what: what is wrong, as a clause without a final stop.
        where: the file, module path or node that it is about.
        fix: what to do about it, as an imperative clause.
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(shortened(what))  # the rest is in its attributes, from which a pickle makes it again
        self.what = shortened(what)
        self.where = None if where is None else shortened(where)
        self.fix = None if fix is None else shortened(fix)

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}; {self.fix}" if self.fix else head


class InputError(FxHeadError):
    """An argument, a model or an input is not of the kind that is needed."""


class TraceError(FxHeadError):
    """The model cannot be traced into a graph."""


class PlanError(FxHeadError):
    """A weight plan does not fit the state dict or file that it is applied to."""


class ExportError(FxHeadError):
    """ONNX export failed, or would have written something else than was asked for."""


class SizeError(ExportError):
    """No one graph is the model at every input size."""


class ProviderError(FxHeadError):
    """An execution provider is missing or did not run every node."""


class CheckError(FxHeadError):
    """Two models cannot be compared; comparing nothing is an error, never a pass."""


class FileError(FxHeadError):
    """A file cannot be read or written."""


@contextlib.contextmanager
def telling(what: str, *, where: object, fix: str) -> Iterator[None]:
    """Within it, what the system refuses is an error that says ``what`` cannot be done, why, and what helps.

    Raises:
        FileError: it refused.
    """
    try:
        yield
    except OSError as error:
        raise FileError(f"{what} ({error.strerror or error})", where=str(where), fix=fix) from error


class InternalError(Exception):
    """A bug in fxhead itself; never the user's fault."""


def shortened(text: str) -> str:
    """The text, if need be without its middle: what it begins with and ends in says what it is."""
    if len(text) <= _LONGEST:
        return text
    kept = _LONGEST // 2
    return f"{text[:kept]} … {text[-kept:]}"


def suggest(name: str, known: Iterable[str]) -> str:
    """Names nearest to ``name`` as a clause for an error's ``fix``, else all of them, or some of many."""
    import difflib  # takes as long as all else that a command imports of ours before it works

    options = [str(option) for option in known]
    near = difflib.get_close_matches(name, options, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    if len(options) > _MOST_LISTED:
        return f"use one of {len(options):,} names, such as " + ", ".join(map(repr, options[:5]))
    return "use one of " + ", ".join(map(repr, options))


def brief(error: BaseException) -> str:
    """The error's class and the first line of its message."""
    first, kind = first_line(error), type(error).__name__
    if len(first) > 160:
        first = first[:159] + "…"
    return first if first == kind else f"{kind}: {first}"


def first_line(error: BaseException | None) -> str:
    """The first line of the error's message, or its class where there is none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
