"""ONNX functions written out where they are called, if what comes of it has a bound."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import onnx
import onnx.inliner

from fxexport.untrusted.limits import MAX_COUNT, MAX_DIMENSIONS, MAX_FAN, MAX_INLINED_NODES
from fxexport.untrusted.refused import Refused

_Key = tuple[str, str, str]
_RUN = ("ai.onnx", "com.microsoft")
"""How domains begin that a runtime has operators of."""
_LONG = ("Constant", "Shape")
"""Operators whose attributes are values, or ends that may lie beyond all."""
_LEAST = {"axis": -MAX_DIMENSIONS, "batch_dims": 0}


def inlined(proto: onnx.ModelProto, known: Collection[str] = ()) -> onnx.ModelProto:
    """The model without its functions in other domains than ``known``, in which a runtime has operators.

    There, and in ONNX's own domains, a runtime runs its operator, whatever the function says. What a function
    of another opset holds may mean something else in the model. Such functions are left.

    Raises:
        Refused: the functions call themselves, or become more nodes than the limit: thirty functions that
            each call the next one twice are a billion.
    """
    require_bounded(proto)
    versions = {item.domain: item.version for item in proto.opset_import}
    called = [
        (item.domain, item.name)
        for item in proto.functions
        if not (item.domain in ("", *known) or item.domain.startswith("ai.onnx"))
        and all(versions.get(own.domain, own.version) == own.version for own in item.opset_import)
    ]
    return onnx.inliner.inline_selected_functions(_with_defaults(proto), called) if called else proto


def _with_defaults(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the attributes that calls leave to their functions, whose defaults the inliner drops."""
    defaults = {
        (item.domain, item.name, item.overload): item.attribute_proto
        for item in proto.functions
        if item.attribute_proto
    }
    if not defaults:
        return proto
    written = onnx.ModelProto()
    written.CopyFrom(proto)
    bodies = (node for function in written.functions for node in function.node)
    for node in every_node([*written.graph.node, *bodies]):
        given = {item.name for item in node.attribute}
        own = defaults.get((node.domain, node.op_type, node.overload), ())
        node.attribute.extend(item for item in own if item.name not in given)
    return written


def require_bounded(proto: onnx.ModelProto) -> None:
    """Returns where the model has a bound once its functions are written out, as shape inference does.

    Raises:
        Refused: it has none.
    """
    _require_text(proto)
    _require_narrow(proto)
    require_places(proto)
    _require_distributions(proto)
    _require_bounded(proto.graph.node, {_key(function): function.node for function in proto.functions})


def _require_text(proto: onnx.ModelProto) -> None:
    """Returns where every name is text: protobuf gives bytes for those that are no UTF-8."""
    bodies = [node for function in proto.functions for node in function.node]
    for node in every_node([*proto.graph.node, *bodies]):
        names = (node.op_type, node.domain, node.name, *node.input, *node.output)
        if any(isinstance(name, bytes) for name in (*names, *(item.name for item in node.attribute))):
            raise Refused("has a name that is no UTF-8")


def _require_narrow(proto: onnx.ModelProto) -> None:
    """Returns where no operator has many operands or results, and the graph neither."""
    bodies = [node for function in proto.functions for node in function.node]
    most = max(
        len(proto.graph.input) - len(proto.graph.initializer),  # which older files declare, too
        len(proto.graph.output),
        *(max(len(node.input), len(node.output)) for node in every_node([*proto.graph.node, *bodies])),
        *(max(len(function.input), len(function.output)) for function in proto.functions),
    )
    if most > MAX_FAN:
        raise Refused(f"has {most:,} inputs or outputs in one place, more than the limit of {MAX_FAN:,}")


def require_places(proto: onnx.ModelProto) -> None:
    """Returns where every axis can be one: ONNX's inference writes to memory by them without a look.

    LayerNormalization of axis 2**31 and GatherND of -9 batch axes end the process. A runtime takes the lower
    half of what it counts by: 2**36 heads are none, by which it divides.
    """
    nodes = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    given = [item for node in every_node(nodes) for item in node.attribute]
    given += [item for function in proto.functions for item in function.attribute_proto]
    least = dict(_LEAST)
    for _ in range(1 + len(proto.functions)):  # an argument of a function may be handed on as an axis
        for item in given:
            if item.ref_attr_name and item.name in least:
                least[item.ref_attr_name] = max(
                    least[item.name], least.get(item.ref_attr_name, -MAX_DIMENSIONS)
                )
    for item in given:
        if not least.get(item.name, item.i) <= item.i <= (MAX_DIMENSIONS if item.name in least else item.i):
            raise Refused(f"has an attribute {item.name} of {item.i}, and no tensor has such an axis")
    for node in every_node(nodes):
        largest = max((abs(item.i) for item in node.attribute), default=0)
        is_run = not node.domain or node.domain.startswith(_RUN)
        if is_run and largest > MAX_COUNT and node.op_type not in _LONG:
            raise Refused(f"has an attribute of {largest:,} in {node.op_type!r}, and nothing has so many")


def _require_distributions(proto: onnx.ModelProto) -> None:
    """Returns where random numbers can be drawn as asked: ONNX Runtime ends the process where not."""
    bodies = [node for function in proto.functions for node in function.node]
    for node in every_node([*proto.graph.node, *bodies]):
        if not node.op_type.startswith("Random"):
            continue
        given = {"low": 0.0, "high": 1.0, "scale": 1.0}
        is_told = any(item.ref_attr_name and item.name in given for item in node.attribute)  # by any call
        given |= {item.name: item.f for item in node.attribute}
        if is_told or not (given["scale"] > 0 and given["low"] <= given["high"]):
            raise Refused(f"draws from no distribution in {node.name or node.op_type!r}")


def _key(named: onnx.FunctionProto | onnx.NodeProto) -> _Key:
    name = named.op_type if isinstance(named, onnx.NodeProto) else named.name
    return (named.domain, name, named.overload)


def _require_bounded(nodes: Iterable[onnx.NodeProto], bodies: dict[_Key, Iterable[onnx.NodeProto]]) -> None:
    main: _Key = ("", "", "")
    calls = {key: [_key(node) for node in every_node(body)] for key, body in bodies.items()}
    calls[main] = [_key(node) for node in every_node(nodes)]
    sizes: dict[_Key, int] = {}  # 0 while a function is being counted
    pending = [main]
    while pending:
        key = pending[-1]
        if sizes.get(key):
            pending.pop()
        elif key not in sizes:
            sizes[key] = 0
            inner = {called for called in calls[key] if called in bodies}
            if any(sizes.get(called) == 0 for called in inner):
                raise Refused("has a function that calls itself")
            pending += [called for called in inner if called not in sizes]
        else:
            sizes[key] = 1 + sum(sizes.get(called, 1) for called in calls[key])
            if sizes[key] > MAX_INLINED_NODES:
                raise Refused(f"has, or becomes, more nodes than the limit of {MAX_INLINED_NODES:,}")
            pending.pop()


def every_node(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes, and those of the graphs in their attributes, in no order."""
    pending = list(nodes)
    while pending:
        node = pending.pop()
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                pending += graph.node
