"""JSON that anybody may have written: one call parses it, which nothing stops, so it is measured before."""

from __future__ import annotations

import json
from typing import Any

from fxexport.untrusted.limits import MAX_JSON_NAME, MAX_JSON_VALUES

_MARKS = "[{,:"
"""One of these stands before every value but the first: megabytes of ``{},`` become gigabytes of dicts."""


def read_plain_json(text: str, **options: Any) -> Any:
    """What ``json.loads`` makes of it, with its options.

    Raises:
        ValueError: it is no JSON, is nested too deep, may have more values or a longer name than the limits,
            or has one name twice in an object: one reader takes the first of these, another the last.
    """
    if sum(map(text.count, _MARKS)) > MAX_JSON_VALUES:
        raise ValueError(f"it has more than the limit of {MAX_JSON_VALUES:,} values")
    try:
        return json.loads(text, object_pairs_hook=_unique, **options)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    if any(len(name) > MAX_JSON_NAME for name in found):
        raise ValueError(f"a name in it has more than the limit of {MAX_JSON_NAME:,} characters")
    return found
