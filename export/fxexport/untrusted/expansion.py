"""How many objects a pickle is to whoever walks it without remembering what it has seen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fxexport.untrusted.limits import MAX_EXPANDED_OBJECTS
from fxexport.untrusted.pickle_records import Made, PickleError, PlainDict


def require_bounded(root: Any) -> None:
    """Returns where the records are few, those that are shared counted as often as they are met.

    Thirty lists that each hold the next one twice are a billion objects to a loop over them. What contains
    itself counts once: whoever makes it real refuses it.

    Raises:
        PickleError: they are more than the limit.
    """
    sizes: dict[int, int] = {}  # 0 while a record is being counted
    pending: list[tuple[Any, bool]] = [(root, False)]
    while pending:
        record, is_counted = pending.pop()
        inner = _inside(record)
        if inner is None:
            continue
        if is_counted:
            size = 1 + sum(sizes.get(id(part), 1) or 1 for part in inner)
            if size > MAX_EXPANDED_OBJECTS:
                raise PickleError(
                    f"the pickle has more objects than the limit of {MAX_EXPANDED_OBJECTS:,}, those that are "
                    "shared counted as often as they are met"
                )
            sizes[id(record)] = size
        elif id(record) not in sizes:
            sizes[id(record)] = 0
            pending.append((record, True))
            pending += [(part, False) for part in inner]


def _inside(record: Any) -> Iterable[Any] | None:
    """What a record consists of, or None where it has no parts."""
    if isinstance(record, tuple | list):
        return record
    if isinstance(record, PlainDict):
        return [part for pair in record.pairs for part in pair]
    if isinstance(record, Made):
        return [record.function, record.args, *record.states, *record.items]
    return None
