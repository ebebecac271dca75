"""What an ONNX node computes, as text, and which elementwise functions have a bound."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir

from export.terms import Array

ELEMENTWISE: dict[str, str | None] = {
    "Relu": "relu",
    "HardSwish": "hardswish",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Gelu": "gelu",
    **dict.fromkeys(("HardSigmoid", "Clip", "LeakyRelu", "Elu", "Selu", "Celu", "Mish", "Softplus")),
    **dict.fromkeys(("Softsign", "Abs", "Neg", "Exp", "Log", "Sqrt", "Erf", "Cast")),
}


def function_of(node: ir.Node, constants: tuple[Array, ...]) -> str | None:
    """Name under which ``activations`` knows the function with these constants, or None."""
    if node.op_type == "Clip":
        is_relu6 = len(constants) == 2 and constants[0].item() == 0.0 and constants[1].item() == 6.0
        return "relu6" if is_relu6 else None
    if node.op_type == "HardSigmoid":
        alpha = node.attributes.get("alpha")
        is_sixth = alpha is not None and math.isclose(alpha.as_float(), 1 / 6, rel_tol=2.0**-23)
        return "hardsigmoid" if is_sixth and "beta" not in node.attributes else None
    if node.op_type == "Gelu" and "approximate" in node.attributes:
        return None if node.attributes["approximate"].as_string() != "none" else "gelu"
    return ELEMENTWISE[node.op_type]


def signature_of(node: ir.Node) -> str:
    """Operator and attributes; equal signatures are equal operators."""
    attributes = ", ".join(f"{name}={_plain(item)}" for name, item in sorted(node.attributes.items()))
    domain = f"{node.domain}." if node.domain else ""
    return f"{domain}{node.op_type}({attributes})"


def _plain(attribute: ir.Attr) -> Any:
    if attribute.type == ir.AttributeType.TENSOR:
        array = attribute.as_tensor().numpy()
        return (array.dtype.str, array.shape, array.tobytes())
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return id(attribute)
    return attribute.value
