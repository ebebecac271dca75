"""What a job tells while it runs; render.py shows it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol


class Progress(Protocol):
    """Receives what a job has to say before its result."""

    def step(self, text: str) -> AbstractContextManager[None]:
        """Within it, ``text`` is what is going on."""

    def count(self, text: str, total: int | None) -> AbstractContextManager[Callable[[], None]]:
        """Within it, ``text`` is going on, and each call of what it gives is one more of ``total`` done."""

    def note(self, text: str) -> None:
        """Something that the user should know about the result."""
