"""JSON that somebody else wrote: read strictly, with an error that names the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from fxexport.untrusted.archive import read_regular
from fxexport.untrusted.plain_json import read_plain_json
from fxpasses.errors import FileError

_MOST_BYTES = 64 * 2**20


class Field:
    """A value in a document, with the path to it.

    Args:
        path: where it stands, as in ``recipe.models[0]``.
        fix: what to do about a document that is not as it should be.
    """

    def __init__(self, value: Any, path: str, file: Path, fix: str) -> None:
        self.value, self.path = value, path
        self._file, self._fix = file, fix

    def refuse(self, what: str) -> NoReturn:
        """Raises the error that the field ``what``, as in "is no text"."""
        name = self.path or "the document"
        raise FileError(f"{name} {what}", where=str(self._file), fix=self._fix)

    def __getitem__(self, key: str) -> Field:
        if not isinstance(self.value, dict):
            self.refuse("is no object")
        inner = Field(self.value.get(key), f"{self.path}.{key}" if self.path else key, self._file, self._fix)
        if key not in self.value:
            inner.refuse("is missing")
        return inner

    def items(self, most: int) -> list[Field]:
        """The entries of a list that has at most so many."""
        if not isinstance(self.value, list) or len(self.value) > most:
            self.refuse(f"is no list of at most {most}")
        return [
            Field(item, f"{self.path}[{index}]", self._file, self._fix)
            for index, item in enumerate(self.value)
        ]

    def text(self, *known: str) -> str:
        """A text; one of ``known`` where some are named."""
        if not isinstance(self.value, str) or "\0" in self.value:
            self.refuse("is no text")
        if known and self.value not in known:
            self.refuse(f"is none of {', '.join(known)}")
        return self.value

    def integer(self, low: int, high: int) -> int:
        """An integer in a range."""
        if isinstance(self.value, bool) or not isinstance(self.value, int) or not low <= self.value <= high:
            self.refuse(f"is no integer from {low} to {high}")
        return self.value

    def flag(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            self.refuse("is neither true nor false")
        return self.value

    def number(self) -> float:
        """A number that a float can hold."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            self.refuse("is no number")
        try:
            return float(self.value)
        except OverflowError:
            self.refuse("is no number that a float can hold")


def read_json(path: Path, fix: str) -> Field:
    """The document in a file.

    Raises:
        FileError: it cannot be read, is too large, is no JSON, or is nested too deep.
    """
    try:
        text = read_regular(path, _MOST_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileError("is no JSON (it is no UTF-8)", where=str(path), fix=fix) from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise FileError(f"cannot be read ({reason})", where=str(path), fix=fix) from error
    try:
        value = read_plain_json(text, parse_constant=_no_constant)
    except ValueError as error:  # also an integer of too many digits
        raise FileError(f"is no JSON ({error})", where=str(path), fix=fix) from error
    return Field(value, "", path, fix)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")
