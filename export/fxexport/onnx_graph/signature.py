"""What an ONNX node computes, as text, and which elementwise functions have a bound."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import onnx
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

_WINDOWED = ("Conv", "ConvTranspose", "AveragePool", "MaxPool", "BatchNormalization")
_CHANGES: dict[str, tuple[int, ...]] = {
    "Add": (7,),
    "AveragePool": (7, 19),
    "BatchNormalization": (7, 9),
    "Concat": (4,),
    "Div": (7,),
    "Dropout": (7, 12),
    "Gelu": (20,),
    "GroupNormalization": (21,),
    "Hardmax": (13,),
    "LogSoftmax": (13,),
    "MaxPool": (8, 10),
    "Mul": (7,),
    "Resize": (11, 13, 18),
    "Scan": (9,),
    "Softmax": (13,),
    "Sub": (7,),
    "TopK": (10,),
    "Upsample": (9,),
}
"""Versions since which operators mean something else than before, by the same attributes and inputs.

Source:
    ONNX, *Operator Changelog*.
"""


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


def signature_of(node: ir.Node, without: Collection[str] = ()) -> str:
    """Operator, what its version means, attributes other than their defaults, and which inputs there are.

    Equal signatures are equal operators. ``c`` is a constant input, ``v`` another one, ``-`` one left out.

    Args:
        node: the operator.
        without: attributes that the caller tells in another way.
    """
    schema = _schema(node)
    defaults = {} if schema is None else schema.attributes
    shown = sorted(
        f"{name}={_plain(item)}"
        for name, item in node.attributes.items()
        if name not in without
        and not _is_default(item, defaults.get(name))
        and not _is_implied(node, name, item)
    )
    domain = f"{node.domain}." if node.domain else ""
    inputs = "".join(
        "-" if v is None else "c" if ir.convenience.get_const_tensor(v) is not None else "v"
        for v in node.inputs
    ).rstrip("-")
    return f"{domain}{node.op_type}{_meaning(node, schema)}({', '.join([inputs, *shown])})"


def _schema(node: ir.Node) -> onnx.defs.OpSchema | None:
    version = node.version or (node.graph.opset_imports.get(node.domain) if node.graph else None)
    try:
        return onnx.defs.get_schema(node.op_type, version or onnx.defs.onnx_opset_version(), node.domain)
    except onnx.defs.SchemaError:
        return None


def _meaning(node: ir.Node, schema: onnx.defs.OpSchema | None) -> str:
    """The version since which the operator means what it does, where an older one means something else."""
    changes = _CHANGES.get(node.op_type, ()) if node.domain == "" else ()
    since = 0 if schema is None else schema.since_version
    reached = [version for version in changes if version <= since]
    return f"-{reached[-1]}" if reached else ""


def _is_default(item: ir.Attr, declared: onnx.defs.OpSchema.Attribute | None) -> bool:
    if declared is None or not declared.default_value.name:
        return False
    default: ir.Attr = ir.serde.deserialize_attribute(declared.default_value)
    return bool(_plain(item) == _plain(default))


def _is_implied(node: ir.Node, name: str, item: ir.Attr) -> bool:
    """True for what a Conv or pool does as well where the attribute is left out."""
    if node.op_type not in _WINDOWED or node.domain != "":
        return False
    if name in ("strides", "dilations"):
        return all(step == 1 for step in item.as_ints())
    if name == "pads":
        return not any(item.as_ints())
    if name == "kernel_shape":
        return node.op_type.startswith("Conv")
    return name == "momentum"


def _plain(attribute: ir.Attr) -> Any:
    if attribute.type == ir.AttributeType.TENSOR:
        array = attribute.as_tensor().numpy()
        return (array.dtype.str, array.shape, array.tobytes())
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        graphs = [attribute.as_graph()] if attribute.type == ir.AttributeType.GRAPH else attribute.as_graphs()
        return tuple(_graph(graph) for graph in graphs)
    return tuple(attribute.value) if isinstance(attribute.value, list | tuple) else attribute.value


def _graph(graph: ir.Graph) -> str:
    """A subgraph with its values numbered in order of appearance; those from outside are told by number."""
    numbers: dict[ir.Value, str] = {}

    def number(value: ir.Value | None) -> str:
        return "-" if value is None else numbers.setdefault(value, f"%{len(numbers)}")

    lines = [f"in {' '.join(map(number, graph.inputs))}"]
    for name, value in sorted(graph.initializers.items()):
        array = None if value.const_value is None else value.const_value.numpy()
        stored = None if array is None else (array.dtype.str, array.shape, array.tobytes())
        lines.append(f"{number(graph.initializers[name])} {stored}")
    for node in graph:
        inputs = " ".join(map(number, node.inputs))
        lines.append(f"{' '.join(map(number, node.outputs))} = {signature_of(node)} {inputs}")
    return "; ".join([*lines, f"out {' '.join(map(number, graph.outputs))}"])


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
