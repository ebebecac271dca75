"""Natural numbers that somebody typed."""

from __future__ import annotations

_MOST_DIGITS = 18
"""A count of anything has fewer, and Python itself reads no more than 4,300."""


def natural_in(text: str) -> int | None:
    """The number that the digits 0 to 9 say; None for other texts, and for more than any count can be."""
    digits = text.strip().lstrip("0") or text.strip()[-1:]
    is_number = digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS
    return int(digits) if is_number else None
