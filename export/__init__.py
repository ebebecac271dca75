"""Exports both forms of a head to ONNX and certifies that they are the same function.

The names are imported on first use: who only reads a program (``export.programs``) needs no ONNX.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.certificate import certify
    from export.onnx_export import export_onnx
    from export.providers import available_providers
    from export.results import (
        Certificate,
        Coverage,
        Failure,
        Flip,
        LayerName,
        LayerResult,
        Mode,
        OutputStatistics,
        Status,
        TargetResult,
        Verdict,
    )

__all__ = [
    "Certificate",
    "Coverage",
    "Failure",
    "Flip",
    "LayerName",
    "LayerResult",
    "Mode",
    "OutputStatistics",
    "Status",
    "TargetResult",
    "Verdict",
    "available_providers",
    "certify",
    "export_onnx",
]
_HOMES = {"certify": "certificate", "export_onnx": "onnx_export", "available_providers": "providers"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'export' has no attribute {name!r}")
    return getattr(import_module(f"export.{_HOMES.get(name, 'results')}"), name)
