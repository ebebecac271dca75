"""One ONNX node with its attributes bound and its defaults filled in, from the schema of its own version."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import onnx
from onnx import helper

RUNTIME = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""
_STANDARD = ("", "ai.onnx")


def attributes(node: onnx.NodeProto, opsets: Mapping[str, int]) -> dict[str, Any]:
    """The attributes of a node by name; those left out have the default of the operator's version, or None.

    A node of an operator without a schema has those that are written.
    """
    domain, op_type = "" if node.domain in _STANDARD else node.domain, node.op_type
    if domain == RUNTIME and op_type.startswith("Fused"):  # the operator it begins with, and an activation
        domain, op_type = "", op_type.removeprefix("Fused")
    known = dict(_defaults(op_type, domain, opsets.get(domain, 1)))
    known |= {
        item.name: helper.get_attribute_value(item) for item in node.attribute if not item.ref_attr_name
    }
    return known


@functools.cache
def _defaults(op_type: str, domain: str, version: int) -> tuple[tuple[str, Any], ...]:
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return ()
    found = []
    for name, attribute in schema.attributes.items():
        default = attribute.default_value
        is_set = default.type != onnx.AttributeProto.UNDEFINED
        found.append((name, helper.get_attribute_value(default) if is_set else None))
    return tuple(found)


def opsets_of(model: onnx.ModelProto) -> dict[str, int]:
    """The version of each domain that a model is written in, the standard one as ``""``."""
    return {"" if entry.domain in _STANDARD else entry.domain: entry.version for entry in model.opset_import}


def is_standard(node: onnx.NodeProto) -> bool:
    """Whether a node is of ONNX's own operators."""
    return node.domain in _STANDARD


def captured(node: onnx.NodeProto) -> list[str]:
    """Names that the subgraphs of a node read and do not define themselves, in order."""
    found: dict[str, None] = {}
    for item in node.attribute:
        for graph in ([item.g] if item.HasField("g") else []) + [*item.graphs]:
            found |= dict.fromkeys(_free(graph))
    return [*found]


def reads(node: onnx.NodeProto) -> list[str]:
    """Names that a node reads, those in its subgraphs included."""
    return [*node.input, *captured(node)]


def _free(graph: onnx.GraphProto) -> list[str]:
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {name for node in graph.node for name in node.output}
    read = [name for node in graph.node for name in (*node.input, *captured(node))]
    return [name for name in (*read, *(value.name for value in graph.output)) if name and name not in own]


def rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Makes a node and its subgraphs read other values, by the names of those that they read now."""
    node.input[:] = [names.get(name, name) for name in node.input]
    for item in node.attribute:
        for graph in ([item.g] if item.HasField("g") else []) + [*item.graphs]:
            free = {name: names[name] for name in _free(graph) if name in names}
            for inner in graph.node if free else ():
                rename(inner, free)
            for value in graph.output if free else ():
                value.name = free.get(value.name, value.name)
