"""Whether what only a study needs is installed."""

from __future__ import annotations

import importlib

from fxpasses.errors import InputError

_NEEDS = ("matplotlib", "scipy", "sklearn")


def require_extra() -> None:
    """Returns where all that a study needs is installed.

    Raises:
        InputError: something is missing.
    """
    for name in _NEEDS:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise InputError(
                f"{name} is not installed", where="fxhead study", fix="run pip install 'fxhead[study]'"
            ) from error
