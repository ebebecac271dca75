"""Whether what only one command needs is installed."""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path

from fxpasses.errors import InputError

_NEEDS = {"study": ("matplotlib", "scipy", "sklearn"), "cam": ("matplotlib",)}


def require_extra(command: str) -> None:
    """Returns where all that a command needs, and others do not, is installed; else raises InputError."""
    for name in _NEEDS[command]:
        try:
            # matplotlib takes settings from the working directory, where a stranger's model may lie
            with contextlib.chdir(Path(__file__).parent):
                importlib.import_module(name)
        except ImportError as error:
            raise InputError(
                f"{name} is not installed",
                where=f"fxhead {command}",
                fix=f"run pip install 'fxhead[{command}]'",
            ) from error
