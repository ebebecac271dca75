"""Sites of an ONNX graph that work at many places of a sample at once."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from fxexport.onnx_graph.affine import (
    OnnxAffine,
    is_stored_transposed,
    read_constant,
    stored_name,
)
from fxexport.onnx_graph.operators import static_dims
from fxexport.terms.term import Shape


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OnnxSite:
    """A site and where it works.

    Attributes:
        affine: its weights.
        rank: number of dimensions of what it reads.
        axis: the dimension that it sums over, in whose place the result has its outputs.
    """

    affine: OnnxAffine
    rank: int
    axis: int


def read_pointwise(node: ir.Node) -> OnnxSite | None:
    """The site that ``node`` applies at every place of what it reads, or None.

    Cases: MatMul with a constant matrix on either side; Conv with a kernel of one cell, stride 1, one group
    and no padding. Refused: weights that are computed.

    Source:
        ONNX operators MatMul-13, Conv-22.
    """
    if node.domain != "" or any(value is None for value in node.inputs[:2]):
        return None
    if node.op_type == "MatMul":
        return _matmul(node)
    return _conv(node) if node.op_type == "Conv" else None


def _matmul(node: ir.Node) -> OnnxSite | None:
    for number, source in ((1, node.inputs[0]), (0, node.inputs[1])):
        weight, dims = read_constant(node.inputs[number]), static_dims(source)
        if weight is None or weight.ndim != 2 or dims is None or len(dims) < 2:
            continue
        affine = OnnxAffine(
            source=source,
            weight=weight.T if number == 1 else weight,
            bias=None,
            weight_name=stored_name(node.inputs[number]),
            bias_name=None,
            is_transposed=(number == 1) != is_stored_transposed(node.inputs[number]),
        )
        return OnnxSite(affine=affine, rank=len(dims), axis=len(dims) - (1 if number == 1 else 2))
    return None


def _conv(node: ir.Node) -> OnnxSite | None:
    weight, dims = read_constant(node.inputs[1]), static_dims(node.inputs[0])
    third = node.inputs[2] if len(node.inputs) > 2 else None
    bias = read_constant(third)
    if weight is None or dims is None or len(dims) != weight.ndim or dims[1] != weight.shape[1]:
        return None
    group, auto_pad = node.attributes.get("group"), node.attributes.get("auto_pad")
    if (group is not None and group.as_int() != 1) or (third is not None and bias is None):
        return None
    if auto_pad is not None and auto_pad.as_string() not in ("NOTSET", "VALID"):
        return None
    if {*weight.shape[2:], *_ints(node, "strides")} - {1} or {*_ints(node, "pads")} - {0}:
        return None
    affine = OnnxAffine(
        source=node.inputs[0],
        weight=weight.reshape(weight.shape[0], -1),
        bias=bias,
        weight_name=stored_name(node.inputs[1]),
        bias_name=None if third is None else stored_name(third),
        kernel_size=weight.shape[2:],
    )
    return OnnxSite(affine=affine, rank=weight.ndim, axis=1)


def _ints(node: ir.Node, name: str) -> Shape:
    return tuple(node.attributes[name].as_ints()) if name in node.attributes else ()
