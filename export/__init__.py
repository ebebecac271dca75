"""Exports both forms of a head to ONNX and certifies that they are the same function."""

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
