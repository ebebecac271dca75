"""The ``fxhead`` command line: files in, files out, over ``fxpasses`` and ``export``.

``load_model`` and ``save_model`` are its rules for files as functions: no code in a file is run unless asked
for, and an output appears whole or not at all. They are imported on first use, since they import torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxhead.api import load_model, save_model

__all__ = ["load_model", "save_model"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fxhead' has no attribute {name!r}")
    from fxhead import api

    return getattr(api, name)
