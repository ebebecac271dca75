"""The opset of a written file is the one that was asked for, or an error says what is possible."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from fxpasses.errors import ExportError
from fxpasses.graph.quiet import quiet

EXPORTER_OPSET_MIN = 18
"""Oldest opset that torch's exporter writes by itself (its ``TORCHLIB_OPSET``)."""
_OLDEST = 13
"""Before opset 13 Squeeze, Softmax and the reductions meant other things; the head needs none of them."""


def check_opset(opset: int | None) -> None:
    """Nothing, if a file of this opset can be asked for.

    Raises:
        ExportError: the installed onnx does not know the opset, or it is older than 13.
    """
    newest = onnx.defs.onnx_opset_version()
    if opset is not None and not _OLDEST <= opset <= newest:
        raise ExportError(
            f"opset {opset} cannot be written", fix=f"ask for an opset from {_OLDEST} to {newest}"
        )


def exporter_opset(opset: int | None) -> int | None:
    """The opset to ask torch's exporter for: itself from 18 on, 18 below."""
    return None if opset is None else max(opset, EXPORTER_OPSET_MIN)


def require_opset(model: ir.Model, opset: int | None) -> ir.Model:
    """The model in exactly the opset that was asked for.

    Raises:
        ExportError: an operator of the graph has no form in that opset.
    """
    written = model.opset_imports.get("")
    if opset is None or written == opset:
        return model
    fix = f"ask for opset {written}" + (" or newer" if opset < EXPORTER_OPSET_MIN else "")
    try:
        with quiet("onnxscript", "onnx_ir"):
            converted = onnx.version_converter.convert_version(ir.to_proto(model), opset)
        onnx.checker.check_model(converted, full_check=True)
    except (
        RuntimeError,
        ValueError,
        onnx.checker.ValidationError,
        onnx.version_converter.ConvertError,
        onnx.shape_inference.InferenceError,
    ) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise ExportError(
            f"the graph cannot be converted from opset {written} to {opset} ({reason})", fix=fix
        ) from error
    if {entry.domain: entry.version for entry in converted.opset_import}.get("") != opset:
        raise ExportError(f"the converter left opset {written} where {opset} was asked for", fix=fix)
    return ir.from_proto(converted)
