"""Names in a file that may become attributes, variables or paths: each of a stated alphabet.

torch.fx writes the names of modules, parameters, inputs and keywords into source text, and executes it;
nothing there escapes a quotation mark. So a name from a file has passed one of the functions below before
anything else sees it.
"""

from __future__ import annotations

import functools
import keyword
import re
from collections.abc import Iterable
from typing import Any

import torch

from fxexport.untrusted.limits import MAX_MODULES, MAX_OBJECT_DEPTH, MAX_TEXT
from fxexport.untrusted.refused import Refused

_NAME = re.compile(r"[A-Za-z0-9_]{1,1000}")
_PART = re.compile(r"[A-Za-z0-9_-]{1,1000}")  # hyphens, as torchvision's RegNet has; torch quotes them
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,999}")
_WORD = re.compile(r"[A-Za-z0-9_.,:+ -]{0,200}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def name(value: object, what: str = "something") -> str:
    """The name, if it is one.

    Raises:
        Refused: it has other characters, or two underscores at both ends, as Python's own names have.
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value) or _is_dunder(value):
        raise Refused(f"has {what} called {shown(value)}")
    return value


def part(value: object, what: str = "a module") -> str:
    """A path of one name, which may have hyphens.

    Raises:
        Refused: it is another.
    """
    found = path(value, what)
    if "." in found:
        raise Refused(f"has {what} called {shown(value)}")
    return found


def path(value: object, what: str = "a module") -> str:
    """The names with dots between.

    Raises:
        Refused: a part of it is no name.
    """
    parts = value.split(".") if isinstance(value, str) else ()
    if not parts or not all(_PART.fullmatch(part) and not _is_dunder(part) for part in parts):
        raise Refused(f"has {what} called {shown(value)}")
    return str(value)


def require_few_modules(paths: Iterable[str]) -> None:
    """Returns where the modules that paths run through are few, one below the other and altogether.

    A module takes a thousand times the bytes of its name.

    Raises:
        Refused: they are more than a model has.
    """
    tree: dict[str, Any] = {}
    count = 0
    for found in paths:
        *above, _ = found.split(".")
        if len(above) > MAX_OBJECT_DEPTH:
            what = f"{len(above):,} modules one below the other, more than the limit of {MAX_OBJECT_DEPTH:,}"
            raise Refused(f"has {what}, in {shown(found)}")
        inner = tree
        for item in above:
            count += item not in inner
            inner = inner.setdefault(item, {})
    if count > MAX_MODULES:
        raise Refused(f"has {count:,} modules, more than the limit of {MAX_MODULES:,}")


def member(value: object, what: str = "a parameter") -> str:
    """A path below a GraphModule, none of whose parts hides an attribute that every module has.

    Raises:
        Refused: it is no path, or hides one.
    """
    found = path(value, what)
    first, *others = found.split(".")
    if any(map(keyword.iskeyword, (first, *others))):
        raise Refused(f"has {what} called {shown(value)}, a word of Python's own")
    of_graphs, of_modules = _attributes()
    if first in of_graphs or not of_modules.isdisjoint(others):
        raise Refused(f"has {what} called {shown(value)} in place of an attribute of torch")
    return found


def variable(value: object, what: str = "a value") -> str:
    """The name, if source text can have a variable of that name.

    Raises:
        Refused: it cannot.
    """
    if (
        not isinstance(value, str)
        or not _VARIABLE.fullmatch(value)
        or keyword.iskeyword(value)
        or _is_dunder(value)
    ):
        raise Refused(f"has {what} called {shown(value)}")
    return value


def word(value: object, what: str = "a text") -> str:
    """A short text that is harmless between quotation marks.

    Raises:
        Refused: it is not.
    """
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise Refused(f"has {what} that is no word ({shown(value)})")
    return value


def text(value: object, what: str = "a text") -> str:
    """What people read.

    Raises:
        Refused: it is no text, too long, or has control characters.
    """
    if not isinstance(value, str) or _CONTROL.search(value):
        raise Refused(f"has {what} with control characters ({shown(value)})")
    if len(value) > MAX_TEXT:
        raise Refused(f"has {what} of {len(value):,} characters, more than the limit of {MAX_TEXT:,}")
    return value


def shown(value: object) -> str:
    """The value for a message: escaped and short."""
    return ascii(value[:80] if isinstance(value, str) else type(value).__name__)


def _is_dunder(value: str) -> bool:
    return value.startswith("__") and value.endswith("__")


@functools.cache
def _attributes() -> tuple[frozenset[str], frozenset[str]]:
    """What every GraphModule and every module below one has."""
    blank = torch.nn.Module()
    return frozenset(dir(torch.fx.GraphModule(blank, torch.fx.Graph()))), frozenset(dir(blank))
