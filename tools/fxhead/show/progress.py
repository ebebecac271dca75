"""What a job tells while it runs; render.py shows it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Progress(Protocol):
    """Receives what a job has to say before its result."""

    def step(self, text: str) -> AbstractContextManager[None]:
        """Within it, ``text`` is what is going on."""

    def count(self, text: str, total: int | None) -> AbstractContextManager[Callable[[], None]]:
        """Within it, ``text`` is going on, and each call of what it gives is one more of ``total`` done."""

    def note(self, text: str) -> None:
        """Something that the user should know about the result."""


class Notes:
    """Keeps the notes, for somebody else to tell, and shows nothing."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def step(self, _text: str) -> AbstractContextManager[None]:
        """Nothing."""
        return nullcontext()

    def count(self, _text: str, _total: int | None) -> AbstractContextManager[Callable[[], None]]:
        """Nothing."""
        return nullcontext(lambda: None)

    def note(self, text: str) -> None:
        """Kept."""
        self.told.append(text)
