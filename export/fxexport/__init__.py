"""Exports both forms of a head to ONNX and certifies that they are the same function.

The names are imported on first use: who only reads a program (``fxexport.untrusted.programs``) needs no ONNX.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxexport.certificate import certify
    from fxexport.providers import available_providers
    from fxexport.results import (
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
    from fxexport.to_onnx.write import export_onnx
    from fxexport.witness import Witness

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
    "Witness",
    "available_providers",
    "certify",
    "export_onnx",
]
_HOMES = {
    "certify": "certificate",
    "export_onnx": "to_onnx.write",
    "available_providers": "providers",
    "Witness": "witness",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fxexport' has no attribute {name!r}")
    return getattr(import_module(f"fxexport.{_HOMES.get(name, 'results')}"), name)
