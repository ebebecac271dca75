"""What is installed: of what only one command needs, and of what results depend on."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sysconfig
from importlib import metadata
from typing import Any

from fxpasses.errors import InputError
from fxpasses.wall.wall import lowered

_NEEDS = {"study": ("matplotlib", "scipy", "sklearn"), "cam": ("matplotlib",)}


def require_extra(command: str) -> None:
    """Returns where all that a command needs, and others do not, is installed; else raises InputError."""
    for name in _NEEDS[command]:
        try:
            # matplotlib takes settings from the working directory, where a stranger's model may lie; modules
            # are found there, too, and in this one those that are anyway
            with contextlib.chdir(sysconfig.get_path("stdlib")):
                importlib.import_module(name)
        except ImportError as error:
            raise InputError(
                f"{name} is not installed",
                where=f"fxhead {command}",
                fix=f"run pip install 'fxhead[{command}]'",
            ) from error


def import_extra(name: str, where: str) -> Any:
    """The library that the extra of its name brings.

    Raises:
        InputError: it is not installed.
    """
    with lowered():  # it looks around as it is imported
        try:
            return importlib.import_module(name)
        except ImportError as error:
            fix = f"run pip install 'fxhead[{name}]'"
            raise InputError(f"{name} is not installed", where=where, fix=fix) from error


@functools.cache
def version_of(package: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
