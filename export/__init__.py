"""Exports both forms of a head to ONNX and certifies that they are the same function."""

from export.onnx_export import export_onnx

__all__ = ["export_onnx"]
