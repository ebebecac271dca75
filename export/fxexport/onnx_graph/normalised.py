"""Spellings that ONNX has two of, as one: the default domain by its name, and axes that are left open."""

from __future__ import annotations

import onnx

from fxexport.onnx_node import domain_of, reads_of, replace
from fxexport.untrusted.inline import every_node

_DEFAULT = "ai.onnx"


def as_default_domain(model: onnx.ModelProto) -> None:
    """Writes the default domain as the empty one everywhere in ``model``."""
    for container in (model, *model.functions):
        if any(entry.domain == _DEFAULT for entry in container.opset_import):
            # of a domain that is declared twice the last version counts, as it does in ONNX Runtime
            versions = {domain_of(entry.domain): entry.version for entry in container.opset_import}
            entries = (onnx.helper.make_opsetid(*entry) for entry in versions.items())
            replace(container.opset_import, entries)
    for node in every_node([*model.graph.node, *(node for item in model.functions for node in item.node)]):
        if node.domain == _DEFAULT:
            node.domain = ""


def with_free_batch(model: onnx.ModelProto) -> None:
    """Leaves every extent of ``model`` open that is declared as -1 or as 0, as older exporters write it."""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_value") and dim.dim_value <= 0:
                dim.dim_param = "batch" if axis == 0 else f"{value.name}_{axis}"


def drop_unread(graph: onnx.GraphProto) -> None:
    """Takes out initialisers that nothing reads: a session drops them before it gets their values.

    With them go inputs of their names: without its values each would be asked for.
    """
    read = {name for node in graph.node for name in reads_of(node)} | {item.name for item in graph.output}
    unread = {tensor.name for tensor in graph.initializer} - read
    for field in (graph.initializer, graph.input) if unread else ():
        replace(field, [item for item in field if item.name not in unread])
