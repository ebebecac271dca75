"""The error of every reader of untrusted files."""

from __future__ import annotations


class Refused(ValueError):
    """The file has what no honest file of its kind has; the message is a clause that says what."""
