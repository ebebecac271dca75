"""What one ONNX node says: its attributes with the defaults of its version, and the names that it reads.

Every reader of files asks here: the closed language, the dialect of the passes, and what derives from them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from fxexport.untrusted.inline import every_node

RUNTIME = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""
_SHARED = {"QuantizeLinear": 21, "DequantizeLinear": 21}
"""Operators of it that mean what ONNX's of the same name do, in this version; it takes more types earlier."""


class BrokenAttribute(ValueError):
    """An attribute of a node says nothing."""


def domain_of(name: str) -> str:
    """A domain as schemas spell it: the standard one is empty."""
    return "" if name == "ai.onnx" else name


def meaning_of(node: onnx.NodeProto, versions: Mapping[str, int]) -> tuple[str, int | None]:
    """The domain in which a node has its schema, and the version; None where the file declares none."""
    domain = domain_of(node.domain)
    if domain == RUNTIME and node.op_type in _SHARED:
        return "", _SHARED[node.op_type]
    return domain, versions.get(domain)


def versions_of(model: onnx.ModelProto) -> dict[str, int]:
    """The version of each domain that a model is written in."""
    return {domain_of(entry.domain): entry.version for entry in model.opset_import}


@functools.cache
def schema_of(op_type: str, version: int, domain: str) -> onnx.defs.OpSchema | None:
    """The operator's schema at a version of its domain, or None where it is not ONNX's."""
    if not domain and version > onnx.defs.onnx_opset_version():
        return None
    try:
        return onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor names a file that has its values."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def array_of(tensor: onnx.TensorProto) -> NDArray[Any]:
    """A tensor's values; no file is opened for it, whatever it names.

    Raises:
        ValueError: they lie in a file.
    """
    if is_external(tensor):
        raise ValueError(f"the values of {tensor.name!r} lie in another file")
    if tensor.data_type == onnx.TensorProto.BOOL and tensor.int32_data:
        # runtimes take every other number than 0 for true, onnx looks at its lowest byte alone
        return np.array(tensor.int32_data, bool).reshape(tuple(tensor.dims))
    return numpy_helper.to_array(tensor)


def value_of(attribute: onnx.AttributeProto) -> Any:
    """An attribute's value, texts as ``str``; tensors, graphs and types as their messages.

    Raises:
        BrokenAttribute: it is of no type.
    """
    if attribute.type == onnx.AttributeProto.UNDEFINED:
        raise BrokenAttribute(f"the attribute {attribute.name!r} is of no type")
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="surrogateescape")
    if attribute.type == onnx.AttributeProto.STRINGS:
        return [item.decode("utf-8", errors="surrogateescape") for item in value]
    return value


@functools.cache
def defaults_of(op_type: str, version: int, domain: str) -> Mapping[str, Any]:
    """What the attributes that may be left out are then, by name; None where the schema gives no value."""
    schema = schema_of(op_type, version, domain)
    attributes = {} if schema is None else schema.attributes
    found: dict[str, Any] = {}
    for name, attribute in attributes.items():
        if attribute.default_value.type != onnx.AttributeProto.UNDEFINED:
            found[name] = value_of(attribute.default_value)
        elif not attribute.required:
            found[name] = None
    return found


def attributes_of(node: onnx.NodeProto, versions: Mapping[str, int]) -> dict[str, Any]:
    """The attributes of a node by name, those left out with their defaults.

    A node of an operator without a schema has those that are written.
    """
    (domain, version), op_type = meaning_of(node, versions), node.op_type
    if domain and shaped_as(node) is not None:
        domain, version, op_type = "", versions.get(""), str(shaped_as(node))
    written = {item.name: value_of(item) for item in node.attribute if not item.ref_attr_name}
    return {**defaults_of(op_type, version or 1, domain), **written}


def definition_of(
    node: onnx.NodeProto, version: int, types: Sequence[onnx.TypeProto]
) -> onnx.FunctionProto | None:
    """What ONNX defines a node's operator to be, with its attributes in their places; None where it does not.

    Args:
        node: a node of ONNX's own domain.
        version: the version of that domain.
        types: what is known of its operands; nothing of one that is left out.
    """
    schema: Any = schema_of(node.op_type, version, "")  # whose stubs lack what is asked here
    versions = () if schema is None else schema.all_function_opset_versions
    if not versions or not schema.min_input <= len(types) <= schema.max_input:
        return None
    known, own = schema.attributes, {item.name: item for item in node.attribute}
    is_known = all(name in known and item.type == int(known[name].type) for name, item in own.items())
    if not is_known or any(item.required and name not in own for name, item in known.items()):
        return None
    wanted = max((item for item in versions if item <= version), default=min(versions))
    if wanted in schema.function_opset_versions:
        written = schema.get_function_with_opset_version(wanted)
    else:
        build = schema.get_context_dependent_function_with_opset_version
        written = build(wanted, node.SerializeToString(), [item.SerializeToString() for item in types])
    body = onnx.FunctionProto()
    body.ParseFromString(written)
    if not body.opset_import:
        body.opset_import.add(domain="", version=wanted)
    own = {name: item.default_value for name, item in known.items()} | own
    given = {name for name, item in zip(body.input, types, strict=False) if item.WhichOneof("value")}
    lacking = {*body.input} - given
    for part in every_node(body.node):
        part.input[:] = ["" if name in lacking else name for name in part.input]
        for item in (*part.attribute,):
            if item.ref_attr_name:
                part.attribute.remove(item)
                found = own.get(item.ref_attr_name)
                if found is not None and found.type != onnx.AttributeProto.UNDEFINED:
                    part.attribute.append(found)
                    part.attribute[-1].name = item.name
    return body


_FUSED = ("FusedConv", "FusedGemm")
_PREPARING = {"Binarizer": "Identity", "Imputer": "Identity", "Normalizer": "Cast", "Scaler": "Cast"}
"""Operators of ``ai.onnx.ml`` on numbers or rows, which have no rule for shapes; two of them give floats."""
_ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "Clip": ("min", "max"),
    "Elu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "LeakyRelu": ("alpha",),
    "Relu": (),
    "Sigmoid": (),
    "Softplus": (),
    "Tanh": (),
}
"""Those that a convolution or product may end with, and what their numbers are called, in their order."""


def shaped_as(node: onnx.NodeProto) -> str | None:
    """The operator of ONNX's that has the shapes and attributes of a node; None where none is known.

    One that is fused begins with it, and ends with an activation.
    """
    domain, _ = meaning_of(node, {})
    if domain == RUNTIME and node.op_type in _FUSED:
        return node.op_type.removeprefix("Fused")
    if domain == "ai.onnx.ml":
        return _PREPARING.get(node.op_type)
    return None if domain else node.op_type


def activation_of(node: onnx.NodeProto) -> tuple[str, Mapping[str, float]] | None:
    """The activation that is fused with a node, with its numbers by name, if that is all that is."""
    given = {item.name: value_of(item) for item in node.attribute}
    name = str(given.get("activation", ""))
    is_fused = node.op_type in _FUSED and domain_of(node.domain) == RUNTIME
    if not is_fused or name not in _ACTIVATIONS or any(node.input[3:]):
        return None
    wanted = _ACTIVATIONS[name]
    if node.op_type == "FusedConv":
        numbers, told = given.get("activation_params", []), ["activation_params"]
    else:
        told = [f"activation_{key}" for key in wanted]
        numbers = [given.get(key) for key in told]
    is_all = {key for key in given if key.startswith("activation_")} <= {*told}
    if not is_all or [type(number) for number in numbers] != [float] * len(wanted):
        return None
    return name, dict(zip(wanted, numbers, strict=True))


def inputs_of(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """What a graph has to be given: its inputs without those that are stored in it."""
    stored = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in stored]


def replace(field: Any, messages: Iterable[Any]) -> None:
    """Gives a repeated field other messages."""
    copies = [*messages]
    del field[:]
    field.extend(copies)


def graphs_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs among a node's attributes."""
    for item in node.attribute:
        yield from [item.g] if item.HasField("g") else []
        yield from item.graphs


def held_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that a model holds, but for the initialisers of its own graph."""
    sparse = [*model.graph.sparse_initializer]
    for node in every_node([*model.graph.node, *(node for item in model.functions for node in item.node)]):
        for item in node.attribute:
            yield from (item.t, *item.tensors)
            sparse += [item.sparse_tensor, *item.sparse_tensors]
        for graph in graphs_of(node):
            yield from graph.initializer
            sparse += graph.sparse_initializer
    yield from (tensor for item in sparse for tensor in (item.values, item.indices))


def captured(node: onnx.NodeProto) -> list[str]:
    """Names that the graphs of a node read and do not define themselves, in order, each once."""
    return [*dict.fromkeys(name for graph in graphs_of(node) for name in free_names(graph))]


def free_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Names that a graph reads and does not define, in order."""
    own = {item.name for item in (*graph.input, *graph.initializer)}
    own |= {item.values.name for item in graph.sparse_initializer}
    own |= {name for node in graph.node for name in node.output}
    read = (name for node in graph.node for name in reads_of(node))
    yield from (name for name in (*read, *(item.name for item in graph.output)) if name and name not in own)


def reads_of(node: onnx.NodeProto) -> list[str]:
    """Names that a node reads, those in its graphs included."""
    return [*node.input, *captured(node)]


def in_order(graph: onnx.GraphProto) -> list[int]:
    """The places of a graph's nodes, each behind those that it reads; ONNX Runtime takes any order.

    Nodes that stand so keep their order, and those that read themselves theirs.
    """
    makers = {name: place for place, node in enumerate(graph.node) for name in node.output}
    order: list[int] = []
    done: set[int] = set()
    entered: set[int] = set()
    for start in range(len(graph.node)):
        pending = [start]
        while pending:
            place = pending[-1]
            read = [] if place in entered else reads_of(graph.node[place])
            entered.add(place)
            missing = [makers[name] for name in read if name in makers and makers[name] not in done]
            if missing:
                pending += missing[::-1]
                continue
            pending.pop()
            if place not in done:
                done.add(place)
                order.append(place)
    return order


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Puts each of a graph's nodes behind those that it reads."""
    order = in_order(graph)
    if order != sorted(order):
        nodes = [graph.node[place] for place in order]
        replace(graph.node, [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes])


def is_standard(node: onnx.NodeProto) -> bool:
    """Whether a node is of ONNX's own operators, or means the same as one."""
    return not meaning_of(node, {})[0]


def rename_reads(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Makes a node and its graphs read other values, by the names of those that they read now."""
    node.input[:] = [names.get(name, name) for name in node.input]
    for graph in graphs_of(node):
        free = {name: names[name] for name in free_names(graph) if name in names}
        for inner in graph.node if free else ():
            rename_reads(inner, free)
        for value in graph.output if free else ():
            value.name = free.get(value.name, value.name)
