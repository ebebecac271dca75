"""Calls that raise no audit event of their own in some versions of Python, and are to raise one."""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any

_OWN = "fxpasses.wall."
_CALLS = (
    ("_posixsubprocess", "fork_exec", "fork_exec"),
    ("os", "mkfifo", "mkfifo"),
    ("os", "mknod", "mknod"),
    ("_thread", "start_new_thread", "start"),
    ("_thread", "start_new", "start"),
    ("_thread", "start_joinable_thread", "start"),
    ("threading", "_start_new_thread", "start"),
    ("threading", "_start_joinable_thread", "start"),
)
STARTS = f"{_OWN}start"
"""The event of a new thread; its first argument is what the thread runs."""


def announce() -> None:
    """From now on each of them raises an event first; nothing else about them changes."""
    for module_name, name, event in _CALLS:
        try:
            module = importlib.import_module(module_name)
        except ImportError:
            continue  # another system
        call = getattr(module, name, None)
        if call is not None:
            setattr(module, name, _announced(call, _OWN + event))


def _announced(call: Any, event: str) -> Any:
    @functools.wraps(call)
    def announced(*args: Any, **options: Any) -> Any:
        sys.audit(event, *args)
        return call(*args, **options)

    return announced
