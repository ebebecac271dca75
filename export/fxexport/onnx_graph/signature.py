"""How an ONNX node is told, and which elementwise functions have a bound."""

from __future__ import annotations

import math

import onnx_ir as ir

from fxexport.terms.term import Array

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
    """Operator and its inputs: ``c`` is a constant, ``v`` another value, ``-`` one left out."""
    domain = f"{node.domain}." if node.domain else ""
    inputs = "".join(
        "-" if v is None else "c" if ir.convenience.get_const_tensor(v) is not None else "v"
        for v in node.inputs
    ).rstrip("-")
    return f"{domain}{node.op_type}({inputs})"


def captured(node: ir.Node) -> tuple[ir.Value, ...]:
    """Values from outside that the node's subgraphs read, in order of appearance."""
    graphs: list[ir.Graph] = []
    for item in node.attributes.values():
        if item.type == ir.AttributeType.GRAPH:
            graphs.append(item.as_graph())
        elif item.type == ir.AttributeType.GRAPHS:
            graphs.extend(item.as_graphs())
    found: dict[ir.Value, None] = {}
    for graph in graphs:
        own = {*graph.inputs, *graph.initializers.values()}
        own.update(value for inner in graph for value in inner.outputs)
        reads = [v for inner in graph for v in (*inner.inputs, *captured(inner))]
        found |= dict.fromkeys(v for v in (*reads, *graph.outputs) if v is not None and v not in own)
    return tuple(found)
