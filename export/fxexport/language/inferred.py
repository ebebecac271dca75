"""What ONNX's own rules say of the results of a node that the language does not interpret: types and extents.

The node is asked about alone, with what its operands are as graphs of the language see them: no shape that a
file declares is believed, and an extent is an integer, that of an operand's axis, or unknown.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from fxexport.language.constants import exact_array
from fxexport.language.extents import Extent
from fxexport.language.graph import NotRead
from fxexport.language.term import SHORT, Array, Value
from fxexport.onnx_inference import infer_shapes

Kind: TypeAlias = tuple[str, tuple[Extent | None, ...] | None]
"""A type's name, and extents with None for unknown ones; None where the rank is unknown."""
UNKNOWN: Kind = ("unknown", None)


def inferred(node: NodeProto, operands: Mapping[str, Value], versions: Mapping[str, int]) -> Sequence[Kind]:
    """The kind of each result, ``UNKNOWN`` where nothing follows.

    Args:
        node: an operator of ONNX's own, without graphs among its attributes.
        operands: what it reads, by name.
        versions: of the domains.

    Source:
        The inference functions of ``onnx.defs``.
    """
    unknown = [UNKNOWN] * len(node.output)
    free: dict[Extent, str] = {}
    stored = {name: array for name, value in operands.items() if (array := _short(value)) is not None}
    given = [
        _declared(name, value, free)
        for name, value in operands.items()
        if name not in stored and value.known_layout is not None and value.dtype != UNKNOWN[0]
    ]
    graph = helper.make_graph(
        [node],
        "node",
        [item for item in given if item is not None],
        [helper.make_empty_tensor_value_info(name) for name in node.output if name],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    try:
        found = infer_shapes(helper.make_model(graph, opset_imports=opsets), propagates=False).graph.output
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return unknown
    known = {item.name: item for item in found}
    names = {name: extent for extent, name in free.items()}
    return [_kind(known[name], names) if name in known else UNKNOWN for name in node.output]


@functools.cache
def type_name(code: int) -> str:
    """The element type's name: ``float32``.

    Raises:
        NotRead: there is no such type.
    """
    if code == TensorProto.STRING:
        return "string"
    if code not in TensorProto.DataType.values():
        raise NotRead(f"a value is of the type {code}, which ONNX has not")
    names: dict[str, str] = {"FLOAT": "float32", "DOUBLE": "float64"}
    name = str(TensorProto.DataType.Name(code))
    return names.get(name, name.lower())


def _short(value: Value) -> Array | None:
    """The elements of a stored vector that may say a shape."""
    if value.known_layout is None or value.rank > 1 or value.term.array is None:
        return None
    array = exact_array(value)
    return array if array is not None and array.size <= SHORT and array.dtype.kind in "iu" else None


def _declared(name: str, value: Value, free: dict[Extent, str]) -> ValueInfoProto | None:
    """A value as an input of a graph; ``free`` names the extents that are no integers."""
    code = next((code for code in TensorProto.DataType.values() if type_name(code) == value.dtype), None)
    if code is None:
        return None
    dims = [
        extent if isinstance(extent, int) else free.setdefault(extent, f"extent{len(free)}")
        for extent in value.shape
    ]
    return helper.make_tensor_value_info(name, code, dims)


def _kind(item: ValueInfoProto, names: Mapping[str, Extent]) -> Kind:
    kind = item.type.tensor_type
    if item.type.WhichOneof("value") != "tensor_type" or not kind.elem_type:
        return UNKNOWN
    return type_name(kind.elem_type), tuple(_extents(kind, names)) if kind.HasField("shape") else None


def _extents(kind: onnx.TypeProto.Tensor, names: Mapping[str, Extent]) -> Iterator[Extent | None]:
    for dim in kind.shape.dim:
        is_number = dim.HasField("dim_value") and dim.dim_value >= 0
        yield dim.dim_value if is_number else names.get(dim.dim_param)
