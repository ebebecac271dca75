"""The names of classes, and which classes are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fxexport.untrusted.archive import open_regular
from fxexport.untrusted.plain_json import read_plain_json
from fxhead.inputs.class_names import class_name
from fxhead.inputs.naturals import natural_in
from fxpasses.errors import FileError, InputError, suggest, telling

_FORMS = "give one name a line, or JSON: a list, or a dict from a class's number to its name"


_MOST_BYTES = 2**26


def read_labels(path: Path) -> tuple[str, ...]:
    """The names in a file, in the order of the classes.

    Taken are one name a line; a JSON list; a JSON dict from number to name, or to a list whose last entry
    is the name (ImageNet's class index); and one from name to number (torchvision's ``class_to_idx``).

    Raises:
        FileError: it cannot be read, or is none of these.
    """
    with telling("cannot be read", where=path, fix=_FORMS), open_regular(path) as file:
        content = file.read(_MOST_BYTES + 1)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError("is no text in UTF-8", where=str(path), fix=_FORMS) from error
    if len(content) > _MOST_BYTES:
        raise FileError(f"is larger than {_MOST_BYTES // 2**20} MiB", where=str(path), fix=_FORMS)
    try:
        is_json = text.lstrip().startswith(("[", "{"))
        names = [*map(class_name, _listed(read_plain_json(text)) if is_json else text.rstrip().splitlines())]
    except (ValueError, TypeError) as error:
        raise FileError(f"is no list of labels ({error})", where=str(path), fix=_FORMS) from error
    if not names or not all(names):
        raise FileError("has a class without a name", where=str(path), fix=_FORMS)
    return tuple(names)


def _listed(found: Any) -> list[str]:
    """The names in the order of their classes.

    Raises:
        ValueError: the numbers are not 0 … n - 1, or something is no name.
    """
    if isinstance(found, dict):
        by_number = found
        if all(isinstance(value, int) for value in found.values()):
            by_number = {number: name for name, number in found.items()}
        if sorted(map(int, by_number)) != [*range(len(found))]:
            raise ValueError(f"the classes are not numbered from 0 to {len(found) - 1}")
        found = [value for _, value in sorted(by_number.items(), key=lambda item: int(item[0]))]
    names = [value[-1] if isinstance(value, list) and value else value for value in found]
    if not all(isinstance(name, str) for name in names):
        raise ValueError("a name is no text")
    return names


def choose_classes(given: Sequence[str], labels: Sequence[str], count: int) -> tuple[int, ...]:
    """The numbers of the classes that ``--classes`` names, in its order, each once.

    Each of ``given`` is a number or a label, or several with commas between; a label may have commas itself.

    Raises:
        InputError: there is no such class.
    """
    known = {label.casefold(): number for number, label in reversed([*enumerate(labels)])}
    wanted: list[str] = []
    for text in given:
        whole = text.strip()
        wanted += [whole] if whole.casefold() in known else [part.strip() for part in text.split(",")]
    return tuple(dict.fromkeys(_number(text, known, labels, count) for text in wanted))


def _number(text: str, known: dict[str, int], labels: Sequence[str], count: int) -> int:
    if text.isascii() and text.isdigit():
        number = natural_in(text)
        if number is not None and number < count:
            return number
        fix = f"the model has {count} classes, from 0 to {count - 1}"
        raise InputError(f"there is no class {text}", where="--classes", fix=fix)
    if text.casefold() in known:
        return known[text.casefold()]
    fix = suggest(text, labels) if 0 < len(labels) <= 50 or _is_near(text, labels) else "give its number"
    raise InputError(f"there is no class {text!r}", where="--classes", fix=fix)


def _is_near(text: str, labels: Sequence[str]) -> bool:
    return bool(labels) and suggest(text, labels).startswith("did you mean")
