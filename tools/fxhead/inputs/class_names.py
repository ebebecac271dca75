"""What a class is called, by a file of labels, a folder or a model."""

from __future__ import annotations

from typing import Any

_LONGEST = 1_000
"""Characters: every name in a table takes the room of the longest one."""


def class_name(value: Any) -> str:
    """The name on one line.

    Raises:
        ValueError: it is longer than any name is.
    """
    text = str(value)
    if len(text) > _LONGEST:
        raise ValueError(f"a name of {len(text):,} characters, more than the limit of {_LONGEST:,}")
    return " ".join(text.split())
