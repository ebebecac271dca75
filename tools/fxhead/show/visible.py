"""Text from files as a terminal may get it: a terminal obeys what it is sent, and names can be orders."""

from __future__ import annotations


def visible(text: str, keep: str = "") -> str:
    """The text with everything that is not printed written out.

    That is control characters, line breaks, the marks that turn the direction of writing, and bytes that
    are no text.

    Characters in ``keep`` stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode()
        for char in text
    )
