"""What a job tells while it runs; render.py shows it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol


class Progress(Protocol):
    """Receives what a job has to say before its result."""

    def step(self, text: str) -> AbstractContextManager[None]:
        """Within it, ``text`` is what is going on."""

    def note(self, text: str) -> None:
        """Something that the user should know about the result."""
