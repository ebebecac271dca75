"""Gemm, MatMul (+ Add) and covering Conv of an ONNX graph, read as one ``[O, K]`` matrix and a bias."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx_ir as ir

from fxexport.onnx_graph.operators import static_dims
from fxexport.terms.term import Array


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OnnxAffine:
    """An affine operator of an ONNX graph.

    Attributes:
        source: the value that it reads.
        weight: ``[O, K]`` with alpha and any transposition folded in.
        bias: ``[O]`` with beta folded in, or None.
        weight_name: initialiser of the weight.
        bias_name: initialiser of the bias, or None.
        kernel_size: kernel of a Conv; empty for the others.
        is_plain: whether the stored weight is the matrix itself, with no alpha folded in.
        is_transposed: whether the stored weight is ``[K, O]``.
        is_exact: whether alpha and beta are powers of two, so that folding them rounded nothing.
    """

    source: ir.Value | None
    weight: Array
    bias: Array | None
    weight_name: str
    bias_name: str | None
    kernel_size: tuple[int, ...] = ()
    is_exact: bool = True
    is_plain: bool = True
    is_transposed: bool = False


def read_affine(node: ir.Node) -> OnnxAffine | None:
    """The affine operator that ``node`` is, or None.

    Cases: Gemm with constant weight and bias, any transB, alpha and beta, transA only behind a Transpose
    (else samples and features would change places); MatMul of a rank-2 value with a constant; Conv with
    one group, no padding and a kernel that covers its whole map. Refused: everything else, and rank-3
    MatMul (it works on tokens). An Add behind one of them is read by the caller.
    """
    if node.domain != "":
        return None
    if node.op_type == "Gemm":
        return _gemm(node)
    if node.op_type == "MatMul":
        return _matmul(node)
    if node.op_type == "Conv":
        return _conv(node)
    return None


def read_constant(value: ir.Value | None) -> Array | None:
    """A constant, also through a Transpose of it."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is not None:
        return tensor.numpy()
    producer = value.producer()
    if producer is None or producer.op_type != "Transpose" or producer.domain != "":
        return None
    inner = read_constant(producer.inputs[0])
    perm = producer.attributes.get("perm")
    return None if inner is None else inner.transpose(None if perm is None else perm.as_ints())


def is_stored_transposed(value: ir.Value | None) -> bool:
    """True if an odd number of Transpose nodes stands between the initialiser and ``value``."""
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "Transpose":
        return False
    return not is_stored_transposed(producer.inputs[0])


def stored_name(value: ir.Value | None) -> str:
    """Name of the initialiser, also behind a Transpose of it."""
    producer = None if value is None else value.producer()
    if producer is not None and producer.op_type == "Transpose":
        return stored_name(producer.inputs[0])
    return "" if value is None else str(value.name)


def _number(node: ir.Node, name: str, default: float) -> float:
    return node.attributes[name].as_float() if name in node.attributes else default


def _flag(node: ir.Node, name: str) -> bool:
    return name in node.attributes and node.attributes[name].as_int() != 0


def _is_power_of_two(number: float) -> bool:
    return number != 0.0 and math.frexp(abs(number))[0] == 0.5


def _scaled(array: Array, factor: float) -> Array:
    return array if factor == 1.0 else (array.astype(np.float64) * factor).astype(array.dtype)


def _untransposed(value: ir.Value | None) -> ir.Value | None:
    """What a Transpose of a matrix reads, or None where ``value`` is no such thing."""
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "Transpose" or producer.domain != "":
        return None
    perm = producer.attributes.get("perm")
    is_swap = len(static_dims(value) or ()) == 2 and (perm is None or tuple(perm.as_ints()) == (1, 0))
    return producer.inputs[0] if is_swap else None


def _gemm(node: ir.Node) -> OnnxAffine | None:
    weight = read_constant(node.inputs[1])
    source = _untransposed(node.inputs[0]) if _flag(node, "transA") else node.inputs[0]
    if weight is None or weight.ndim != 2 or source is None:
        return None
    third = node.inputs[2] if len(node.inputs) > 2 else None
    alpha, beta = _number(node, "alpha", 1.0), _number(node, "beta", 1.0)
    matrix = weight if _flag(node, "transB") else weight.T
    bias = read_constant(third)
    if third is not None and beta != 0.0:
        if bias is None or bias.size not in (1, matrix.shape[0]) or max(bias.shape[:-1], default=1) != 1:
            return None
        bias = _scaled(np.broadcast_to(bias.reshape(-1), matrix.shape[:1]), beta)
    else:
        bias, third = None, None
    return OnnxAffine(
        source=source,
        weight=_scaled(matrix, alpha),
        bias=bias,
        weight_name=stored_name(node.inputs[1]),
        bias_name=None if third is None else stored_name(third),
        is_plain=alpha == 1.0,
        is_transposed=_flag(node, "transB") == is_stored_transposed(node.inputs[1]),
        is_exact=_is_power_of_two(alpha) and (bias is None or _is_power_of_two(beta)),
    )


def _matmul(node: ir.Node) -> OnnxAffine | None:
    weight = read_constant(node.inputs[1])
    if weight is None or weight.ndim != 2 or len(static_dims(node.inputs[0]) or ()) != 2:
        return None
    return OnnxAffine(
        source=node.inputs[0],
        weight=weight.T,
        bias=None,
        weight_name=stored_name(node.inputs[1]),
        bias_name=None,
        is_transposed=not is_stored_transposed(node.inputs[1]),
    )


def _conv(node: ir.Node) -> OnnxAffine | None:
    weight, dims = read_constant(node.inputs[1]), static_dims(node.inputs[0])
    if weight is None or dims is None or dims[1:] != weight.shape[1:]:
        return None
    if node.attributes["group"].as_int() != 1 if "group" in node.attributes else False:
        return None
    if "pads" in node.attributes and any(node.attributes["pads"].as_ints()):
        return None
    auto_pad = node.attributes.get("auto_pad")
    if auto_pad is not None and auto_pad.as_string() not in ("NOTSET", "VALID"):
        return None
    dilations = node.attributes["dilations"].as_ints() if "dilations" in node.attributes else ()
    if any(step != 1 and extent != 1 for step, extent in zip(dilations, weight.shape[2:], strict=False)):
        return None
    third = node.inputs[2] if len(node.inputs) > 2 else None
    bias = read_constant(third)
    if third is not None and bias is None:
        return None
    return OnnxAffine(
        source=node.inputs[0],
        weight=weight.reshape(weight.shape[0], -1),
        bias=bias,
        weight_name=stored_name(node.inputs[1]),
        bias_name=None if third is None else stored_name(third),
        kernel_size=weight.shape[2:],
    )
