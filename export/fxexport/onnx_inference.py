"""ONNX's inference of shapes, with a limit: it writes down every number of what it takes for a shape.

A vector of 2**45 numbers, which a hundred bytes describe, is one to it as soon as something adds or casts it;
and nothing in Python sees the memory that it takes, or ends it.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx.shape_inference import InferenceError

from fxexport.onnx_node import domain_of, schema_of, shaped_as, versions_of
from fxexport.untrusted.inline import every_node, require_places
from fxexport.untrusted.limits import MAX_INFERENCE_BYTES
from fxexport.untrusted.refused import Refused
from fxpasses.errors import first_line

if sys.platform != "win32":
    import resource

_COPIES = 8
"""Of the model, as it is written for the library, read there, and given back."""


def infer_shapes(model: onnx.ModelProto, *, strict_mode: bool = False) -> onnx.ModelProto:
    """A copy of the model with the shapes that follow, data propagation included.

    Of what an operator that is not ONNX's gives, ONNX infers nothing, nor of what is made of it; there the
    weight of a convolution tells the rank and the channels of what it reads.

    Raises:
        InferenceError: the shapes contradict each other, or it takes more memory than the limit.
    """
    try:
        require_places(model)
    except Refused as error:
        raise InferenceError(str(error)) from error
    known = _as_standard(model)
    versions = versions_of(known)
    bodies = [node for item in known.functions for node in item.node]
    for node in every_node([*known.graph.node, *bodies]):
        _require_sound(node, versions)
    try:
        with _in_memory(MAX_INFERENCE_BYTES + _COPIES * model.ByteSize()):
            found = onnx.shape_inference.infer_shapes(known, strict_mode=strict_mode, data_prop=True)
            if _add_what_convolutions_read(found.graph):
                found = onnx.shape_inference.infer_shapes(found, strict_mode=strict_mode, data_prop=True)
    except MemoryError as error:
        raise InferenceError("its shapes take more memory to infer than the limit") from error
    except InferenceError:
        raise
    except Exception as error:  # its rules look at places that a file need not have, and C++ raises anything
        raise InferenceError(first_line(error)) from error
    if known is not model:
        for node, own in zip(found.graph.node, model.graph.node, strict=True):
            if (node.domain, node.op_type) != (own.domain, own.op_type):
                node.CopyFrom(own)
    return found


def _add_what_convolutions_read(graph: onnx.GraphProto) -> bool:
    """Declares what is of unknown shape as ``[N, C, *n]`` where a weight ``[O, C / groups, *k]`` tells so.

    Whether anything is.
    """
    values = {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}
    types = {name: value.type.tensor_type for name, value in values.items()}
    weights = {
        name: (kind.elem_type, [dim.dim_value for dim in kind.shape.dim]) for name, kind in types.items()
    }
    weights |= {tensor.name: (tensor.data_type, [*tensor.dims]) for tensor in graph.initializer}
    is_any = False
    for node in graph.node:
        if node.op_type != "Conv" or domain_of(node.domain) or node.input[1] not in weights:
            continue
        name, (kind, dims) = node.input[0], weights[node.input[1]]
        if len(dims) < 3 or (name in types and (types[name].HasField("shape") or not kind)):
            continue
        groups = next((item.i for item in node.attribute if item.name == "group"), 1)
        channels = dims[1] * groups if 0 < dims[1] * groups < 2**31 else None
        shape = [channels if axis == 1 else None for axis in range(len(dims))]
        told = onnx.helper.make_tensor_value_info(name, kind, shape)
        known = values.get(name)
        if known is None:
            known = values[name] = graph.value_info.add()
        known.CopyFrom(told)
        types[name] = known.type.tensor_type
        is_any = True
    return is_any


def _as_standard(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with operators of other domains as ONNX's own that give the same shapes; or itself."""
    names = [shaped_as(node) for node in model.graph.node]
    if names == [node.op_type if not domain_of(node.domain) else None for node in model.graph.node]:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node, name in zip(copy.graph.node, names, strict=True):
        if name == "Cast" and node.op_type != name:
            node.attribute.append(onnx.helper.make_attribute("to", onnx.TensorProto.FLOAT))
        if name is not None:
            node.domain, node.op_type = "", name
    return copy


def _require_sound(node: onnx.NodeProto, versions: Mapping[str, int]) -> None:
    """Returns where ONNX's rules can be asked about a node: they trust it, and are compiled code.

    An operand or attribute that is missing is read all the same, and so is one of another type, or a number
    of outputs beyond those that there are; an equation that is none is read for ever.

    Raises:
        InferenceError: they cannot.
    """
    domain = domain_of(node.domain)
    schema = schema_of(node.op_type, versions.get(domain, 1), domain)
    formals = () if schema is None else schema.inputs
    for place, formal in enumerate(formals):
        is_needed = formal.option == onnx.defs.OpSchema.FormalParameterOption.Single
        if is_needed and not (place < len(node.input) and node.input[place]):
            raise InferenceError(f"{node.op_type} {node.name!r} lacks its operand {formal.name!r}")
    known: Mapping[str, Any] = {} if schema is None else schema.attributes  # whose stubs lack numbers
    given = {item.name: item.type for item in node.attribute}
    for name, defined in known.items():
        if given[name] != int(defined.type) if name in given else defined.required:
            raise InferenceError(f"{node.op_type} {node.name!r} has no attribute {name!r} as it is defined")
    for item in node.attribute:
        is_count = node.op_type == "Split" and item.name == "num_outputs"
        if is_count and (item.ref_attr_name or item.i != len(node.output)):
            raise InferenceError(f"Split {node.name!r} has another number of outputs than it says")
        is_equation = node.op_type == "Einsum" and item.name == "equation"
        if is_equation and (item.ref_attr_name or not _EQUATION.fullmatch(item.s)):
            raise InferenceError(f"Einsum {node.name!r} has no equation")


_TERM = rb"[A-Za-z ]*(?:\.\.\.)?[A-Za-z ]*"
_EQUATION = re.compile(rb"%b(?:,%b)*(?:->%b)?" % (_TERM, _TERM, _TERM))


@contextlib.contextmanager
def _in_memory(most: int) -> Iterator[None]:
    """Within it the process gets so many bytes of addresses more, where the system can say so (Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[0])
    except OSError:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = pages * resource.getpagesize() + most
    if soft == resource.RLIM_INFINITY or wanted < soft:
        resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
