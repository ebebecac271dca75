"""ONNX graphs as terms: every node bound by its operator's own schema at the file's version."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections import ChainMap
from collections.abc import Hashable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from fxexport.language.call import Call
from fxexport.language.constant_tensor import onnx_value, sparse_value, type_name
from fxexport.language.constants import exact_array
from fxexport.language.extents import Extent, symbol
from fxexport.language.foreign import foreign
from fxexport.language.graph import Graph, GraphInput, NotRead
from fxexport.language.onnx_operators import OPERATORS
from fxexport.language.runtime_operators import OPERATORS as RUNTIMES
from fxexport.language.runtime_operators import RuntimeOperator
from fxexport.language.term import Array, Origin, Terms, Uninterpreted, Value, digest, numpy_type
from fxexport.onnx_node import (
    RUNTIME,
    activation_of,
    attributes_of,
    captured,
    defaults_of,
    definition_of,
    domain_of,
    graphs_of,
    held_tensors,
    in_order,
    is_standard,
    meaning_of,
    reads_of,
    schema_of,
    shaped_as,
    value_of,
    versions_of,
)
from fxexport.providers import runtime_domains
from fxexport.untrusted.inline import every_node, inlined
from fxexport.untrusted.refused import Refused

SCOPE = "a file is what its operators mean in the versions that it declares"
_PLAIN = {
    getattr(AttributeProto, name)
    for name in ("INT", "INTS", "FLOAT", "FLOATS", "STRING", "STRINGS", "TENSOR", "SPARSE_TENSOR")
}
"""Kinds of attributes that are values; the others are graphs and types."""
_Kind: TypeAlias = tuple[str, tuple[Extent | None, ...] | None]
_UNKNOWN: _Kind = ("unknown", None)
_LIKE_FIRST = frozenset({"CumSum", "Identity", "LRN", "ScatterElements", "ScatterND", "Trilu"})
_POOLS = frozenset({"AveragePool", "LpPool", "MaxPool"})
_VIEWS = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
"""What leaves the bits that it reads in their order."""
_INTEGER_KERNELS = frozenset({"QLinearConv", "QLinearGlobalAveragePool"})
_OF_RANK = frozenset({"ConvTranspose", "DFT", "Pad", "Resize", "Upsample"})
_ARITHMETIC = frozenset({"Add", "Div", "Max", "Mean", "Min", "Mul", "Sub", "Sum"})
_RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
_ASKED = frozenset({"IsInf", "IsNaN"})


def graph_of_onnx(model: ModelProto, weights: Mapping[str, Array] | None = None) -> Graph:
    """The model as a graph.

    Args:
        model: what a file holds.
        weights: values of initialisers that lie outside of it, by name.

    Raises:
        NotRead: it cannot be read, or an input is no tensor.
    """
    kept = _written_out(model)
    for tensor in held_tensors(kept):
        if tensor.data_location == TensorProto.EXTERNAL:
            raise NotRead(f"the data of {tensor.name} lie outside of the model that was given")
    stored = {tensor.name for tensor in kept.graph.initializer}
    stored |= {tensor.values.name for tensor in kept.graph.sparse_initializer}
    inputs = [item for item in kept.graph.input if item.name not in stored]
    names = [item.name for item in inputs]

    def read(terms: Terms, values: Sequence[Value]) -> list[Value]:
        return _Reader(terms, kept, dict(zip(names, values, strict=True))).outputs(weights or {})

    return Graph(
        inputs=tuple(_graph_input(item) for item in inputs),
        outputs=tuple(item.name for item in kept.graph.output),
        scope=(SCOPE,),
        read=read,
    )


def _written_out(model: ModelProto) -> ModelProto:
    """The model with its functions as what they hold, but where a runtime may run something else.

    Raises:
        NotRead: they have no bound.
    """
    known = runtime_domains() if model.functions else None
    if known is None:
        return model
    try:
        return inlined(model, known)
    except Refused as error:
        raise NotRead(f"its functions cannot be written out ({error})") from error


def _graph_input(item: onnx.ValueInfoProto) -> GraphInput:
    kind = item.type.tensor_type
    if item.type.WhichOneof("value") != "tensor_type" or not kind.HasField("shape"):
        raise NotRead(f"input {item.name} is no tensor of known rank")
    dims = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim)
    same = tuple(
        f"{axis} {dim.dim_param}" if dim.dim_param else None for axis, dim in enumerate(kind.shape.dim)
    )
    return GraphInput(
        name=item.name,
        dtype=type_name(kind.elem_type),
        dims=dims,
        least=tuple(1 if dim is None else dim for dim in dims),
        most=dims,
        same=same,
    )


class _Reader:
    """One walk over a file's nodes."""

    def __init__(self, terms: Terms, model: ModelProto, env: MutableMapping[str, Value]) -> None:
        self._terms = terms
        self._model = model
        self._env = env
        self._twins: dict[str, str] = {}
        self._versions = versions_of(model)
        self._functions = {(domain_of(item.domain), item.name) for item in model.functions}

    def outputs(self, weights: Mapping[str, Array]) -> list[Value]:
        graph = self._model.graph
        self._walk(graph, graph.node, weights)
        self._terms.origin = None
        return [self._value(item.name) for item in graph.output]

    def _walk(self, graph: GraphProto, nodes: Iterable[NodeProto], weights: Mapping[str, Array]) -> None:
        for tensor in graph.initializer:
            self._terms.origin = Origin(operator="initializer", node=tensor.name)
            self._bind(tensor.name, onnx_value(self._terms, tensor, weights.get(tensor.name)))
        for sparse in graph.sparse_initializer:
            self._terms.origin = Origin(operator="initializer", node=sparse.values.name)
            self._bind(sparse.values.name, sparse_value(self._terms, sparse))
        for node in nodes:
            branch = self._taken(node)
            if branch is not None:
                self._walk(branch, [branch.node[place] for place in in_order(branch)], {})
                for name, item in zip(node.output, branch.output, strict=False):
                    if name:
                        self._bind(name, self._value(item.name))
                continue
            either = self._of_either(node)
            if either is not None:
                for name, value in zip(node.output, either, strict=True):
                    if name:
                        self._bind(name, value)
                continue
            twin = self._twin(node)
            self._note(node, twin)
            self._twins |= {
                name: f"{twin}.{place}" if place else twin for place, name in enumerate(node.output)
            }
            for part in _unfused(node):
                for name, value in zip(part.output, self._results(part), strict=True):
                    if name:
                        self._bind(name, value)

    def _note(self, node: NodeProto, twin: str) -> None:
        """Notes where the terms that follow come from."""
        self._terms.origin = Origin(
            operator=_label(node), node=node.name or next(iter(node.output), ""), twin=twin
        )

    def _taken(self, node: NodeProto) -> GraphProto | None:
        """The graph that an ``If`` runs whose condition is known; None of another node."""
        branches = self._branches(node)
        condition = exact_array(self._value(node.input[0])) if branches else None
        if condition is None or condition.dtype != np.bool_ or condition.size != 1:
            return None
        return branches.get("then_branch" if condition.all() else "else_branch")

    def _branches(self, node: NodeProto) -> dict[str, GraphProto]:
        """The graphs of an ``If`` that give as much as it does; none of another node."""
        is_if = node.op_type == "If" and is_standard(node) and ("", "If") not in self._functions
        if not is_if or len(node.input) != 1:
            return {}
        return {
            item.name: item.g
            for item in node.attribute
            if item.HasField("g") and len(item.g.output) == len(node.output)
        }

    def _of_either(self, node: NodeProto) -> list[Value] | None:
        """What both branches of an ``If`` give; None where that differs, and of another node."""
        branches = self._branches(node)
        if {*branches} != {"then_branch", "else_branch"} or self._value(node.input[0]).dtype != "bool":
            return None
        found: list[list[Value]] = []
        used = set(self._terms.used)
        try:
            for graph in branches.values():
                inner = _Reader(self._terms, self._model, ChainMap({}, self._env))
                inner._twins.update(self._twins)
                inner._walk(graph, [graph.node[place] for place in in_order(graph)], {})
                found.append([inner._value(item.name) for item in graph.output])
        except NotRead:
            found = []
        if not found or found[0] != found[1]:
            self._terms.used = used
            return None
        self._terms.use("equal-branches")
        return found[0]

    def _twin(self, node: NodeProto) -> str:
        """What two nodes have in common that compute the same bits, however what they read is viewed."""
        read = [
            self._twins.get(name) or str(self._value(name).term.serial) for name in reads_of(node) if name
        ]
        if read and node.op_type in _VIEWS and is_standard(node):
            return read[0]
        attributes = sorted(item.SerializeToString(deterministic=True) for item in node.attribute)
        return digest(meaning_of(node, self._versions), node.op_type, attributes, read)

    def _bind(self, name: str, value: Value) -> None:
        if name in self._env:
            raise NotRead(f"the name {name} stands for two values")
        self._env[name] = value

    def _value(self, name: str) -> Value:
        if name not in self._env:
            raise NotRead(f"nothing gives {name} before it is read")
        return self._env[name]

    def _results(self, node: NodeProto) -> list[Value]:
        domain, version = meaning_of(node, self._versions)
        is_function = (domain_of(node.domain), node.op_type) in self._functions
        schema = None if version is None or is_function else schema_of(node.op_type, version, domain)
        handler = None if schema is None or domain else OPERATORS.get((node.op_type, schema.since_version))
        own = RUNTIMES.get(node.op_type) if domain == RUNTIME and version == 1 and not is_function else None
        with contextlib.suppress(Uninterpreted):
            if schema is not None and handler is not None:
                return self._interpreted(node, version, schema, handler)
            if own is not None:
                return self._of_runtime(node, own)
            if schema is not None and handler is None and not domain:
                return self._defined(node, version, schema)
        return self._foreign(node, version, schema, is_function=is_function)

    def _interpreted(self, node: NodeProto, version: int | None, schema: Any, handler: Any) -> list[Value]:
        self._require_of(schema, node)
        arguments = {**attributes_of(node, self._versions), **self._operands(node, schema)}
        defaults = {
            **defaults_of(node.op_type, version or 1, ""),
            **{item.name: None for item in schema.inputs},
        }
        return self._called(node, handler, arguments, defaults)

    def _defined(self, node: NodeProto, version: int | None, schema: Any) -> list[Value]:
        """What ONNX itself makes of an operator, of others that are read like any.

        In half precision kernels round once what a definition rounds at each step.
        """
        self._require_of(schema, node)
        given = [self._value(name) if name else None for name in node.input]
        is_half = any(value is not None and value.dtype in ("float16", "bfloat16") for value in given)
        body = None if is_half else definition_of(node, version or 1, [*map(_type_of, given)])
        if body is None or len(body.output) < len(node.output):
            raise Uninterpreted("no definition")
        read = zip(body.input, given, strict=False)
        inner = _Definition(self._terms, body, {name: value for name, value in read if value is not None})
        try:
            return inner.outputs({})[: len(node.output)]
        except NotRead as error:
            raise Uninterpreted("a definition that is not read") from error

    def _require_of(self, schema: Any, node: NodeProto) -> None:
        for item in node.attribute:
            if item.name not in schema.attributes or item.ref_attr_name or item.type not in _PLAIN:
                raise Uninterpreted(f"attribute {item.name}")

    def _of_runtime(self, node: NodeProto, own: RuntimeOperator) -> list[Value]:
        written = {item.name: value_of(item) for item in node.attribute if item.type in _PLAIN}
        if len(written) != len(node.attribute) or not set(written) <= set(own.defaults):
            raise Uninterpreted("another attribute")
        if len(node.input) > len(own.inputs):
            raise Uninterpreted("operands without a name")
        given = [self._value(name) if name else None for name in node.input]
        operands = dict.fromkeys(own.inputs) | dict(zip(own.inputs, given, strict=False))
        defaults = {**own.defaults, **dict.fromkeys(own.inputs)}
        return self._called(node, own.handler, {**own.defaults, **written, **operands}, defaults)

    def _called(
        self, node: NodeProto, handler: Any, arguments: dict[str, Any], defaults: dict[str, Any]
    ) -> list[Value]:
        call = Call(self._terms, arguments, defaults, [None] * len(node.output))
        found = handler(call)
        call.require_read()
        values = list(found) if isinstance(found, tuple | list) else [found]
        wanted = len(node.output)
        while wanted and not node.output[wanted - 1]:
            wanted -= 1
        read = zip(values, node.output, strict=False)
        if len(values) < wanted or any(value is None and name for value, name in read):
            raise Uninterpreted("a result that has no term")
        return values[:wanted] + [values[0]] * (len(node.output) - wanted)

    def _operands(self, node: NodeProto, schema: Any) -> dict[str, Any]:
        given = [self._value(name) if name else None for name in node.input]
        found: dict[str, Any] = {}
        for place, formal in enumerate(schema.inputs):
            if formal.option == onnx.defs.OpSchema.FormalParameterOption.Variadic:
                found[formal.name] = given[place:]
                return found
            found[formal.name] = given[place] if place < len(given) else None
        if len(given) > len(schema.inputs):
            raise Uninterpreted("operands without a name")
        return found

    def _foreign(
        self, node: NodeProto, version: int | None, schema: Any, *, is_function: bool
    ) -> list[Value]:
        domain = domain_of(node.domain)
        operands: list[Value | None] = [self._value(name) if name else None for name in node.input]
        outside = sorted(captured(node))
        operands.extend(self._value(name) for name in outside)
        attributes = sorted(item.SerializeToString(deterministic=True) for item in node.attribute)
        since = version if schema is None else schema.since_version
        name = (domain, node.op_type, node.overload)
        key: tuple[Hashable, ...] = ("onnx", *name, since, *attributes, tuple(outside))
        has_body = is_function or bool(outside) or any(item.g.node or item.graphs for item in node.attribute)
        if has_body or schema is None:
            key += (self._bodies(),)
        kinds: list[_Kind] = [_UNKNOWN] * len(node.output)
        if kinds and (domain == RUNTIME if schema is None else shaped_as(node) is not None):
            kinds[0] = _kind(node, operands)
        inner_nodes = (inner for graph in graphs_of(node) for inner in graph.node)
        within = {inner.op_type for inner in every_node(inner_nodes)}
        if is_function or has_body:
            within |= {inner.op_type for item in self._model.functions for inner in item.node}
        is_random = schema is not None and not domain and _is_random(schema)
        may_be = is_random or any(map(_draws, within))
        if is_random and self._terms.origin is not None:
            self._terms.origin = dataclasses.replace(self._terms.origin, is_random=True)
        return foreign(self._terms, key, operands, kinds, is_random=may_be)

    def _bodies(self) -> str:
        """The file's functions and versions, which say what a body means."""
        bodies = sorted(item.SerializeToString(deterministic=True) for item in self._model.functions)
        return digest(sorted(self._versions.items()), bodies)


class _Definition(_Reader):
    """One walk over what ONNX makes of an operator; it is read as a whole, and told as that operator."""

    def __init__(self, terms: Terms, body: FunctionProto, env: dict[str, Value]) -> None:
        outputs = [onnx.ValueInfoProto(name=name) for name in body.output]
        graph = GraphProto(node=body.node, output=outputs)
        super().__init__(terms, ModelProto(graph=graph, opset_import=body.opset_import), env)

    def _note(self, node: NodeProto, twin: str) -> None:
        """It stays where the operator is."""

    def _foreign(self, node: NodeProto, *_: object, **__: object) -> list[Value]:
        raise Uninterpreted(f"{node.op_type} in a definition")


def _type_of(value: Value | None) -> onnx.TypeProto:
    """The type of an operand, with those of its extents that are known; none of one that is left out."""
    if value is None:
        return onnx.TypeProto()
    try:
        kind = onnx.helper.np_dtype_to_tensor_dtype(numpy_type(value.dtype))
    except ValueError as error:
        raise Uninterpreted(f"type {value.dtype}") from error
    known = None if value.known_layout is None else value.shape
    shape = None if known is None else [item if isinstance(item, int) else None for item in known]
    return onnx.helper.make_tensor_type_proto(kind, shape)


def _unfused(node: NodeProto) -> list[NodeProto]:
    """A node and the activation that is fused with it, each as a node of ONNX's."""
    found = activation_of(node)
    if found is None:
        return [node]
    activation: str = found[0]
    numbers: Mapping[str, Any] = found[1]
    first = NodeProto()
    first.CopyFrom(node)
    first.domain, first.op_type, first.output[0] = (
        "",
        str(shaped_as(node)),
        f"{node.output[0]} before {activation}",
    )
    del first.attribute[:]
    first.attribute.extend(item for item in node.attribute if not item.name.startswith("activation"))
    if activation != "Clip":
        return [first, onnx.helper.make_node(activation, first.output, node.output, **numbers)]
    bounds = [
        onnx.helper.make_node("Constant", [], [f"{name} of {node.output[0]}"], value_float=number)
        for name, number in numbers.items()
    ]
    read = [first.output[0], *(bound.output[0] for bound in bounds)]
    return [first, *bounds, onnx.helper.make_node(activation, read, node.output)]


def _kind(node: NodeProto, operands: Sequence[Value | None]) -> _Kind:
    """What is known of the first result of a node without a rule, whatever its attributes say.

    ONNX's own inference is not asked: it believes attributes that runtimes do not.
    """
    if not operands or operands[0] is None or operands[0].known_layout is None:
        return _UNKNOWN
    operator = shaped_as(node) or node.op_type
    first, second = operands[0], operands[1] if len(operands) > 1 else None
    if operator in _LIKE_FIRST:
        return first.dtype, first.shape
    if operator == "Cast" and node.op_type != operator:
        return "float32", first.shape
    if operator in _ASKED:
        return "bool", first.shape
    if operator in _POOLS and first.rank > 2:
        return first.dtype, (*first.shape[:2], *[None] * (first.rank - 2))
    if operator == "Conv" and second is not None and second.known_layout is not None and first.rank > 2:
        return first.dtype, (first.shape[0], second.shape[0], *[None] * (first.rank - 2))
    if operator == "Reshape" and second is not None and second.contents is not None:
        # what is written as 0 or -1 is some extent, and so is what is computed
        given = (extent if isinstance(extent, int) and extent > 0 else None for extent in second.contents)
        return first.dtype, tuple(given)
    if operator in _RECURRENT and first.rank == 3:
        return _of_recurrent(node, operands)
    if operator in _INTEGER_KERNELS and len(operands) > 4:
        return _of_integers(node, operands)
    if operator in _ARITHMETIC:
        return _of_arithmetic(operands)
    if operator == "GridSample" and second is not None and second.known_layout is not None:
        return first.dtype, (*first.shape[:2], *second.shape[1:-1])
    return (first.dtype, (None,) * first.rank) if operator in _OF_RANK else _UNKNOWN


def _of_arithmetic(operands: Sequence[Value | None]) -> _Kind:
    """Of open extents that nothing shows to be equal it has one, which only they determine."""
    known = [value for value in operands if value is not None and value.known_layout is not None]
    if len(known) < len(operands):
        return _UNKNOWN
    columns = itertools.zip_longest(*(reversed(value.shape) for value in known), fillvalue=1)
    extents = [sorted({extent for extent in column if extent != 1}, key=str) for column in columns]
    dims = [
        symbol(" or ".join(map(str, found))) if found[1:] else found[0] if found else 1 for found in extents
    ]
    return known[0].dtype, tuple(reversed(dims))


def _of_recurrent(node: NodeProto, operands: Sequence[Value | None]) -> _Kind:
    """``[T, D, N, H]``, from ``[T, N, I]`` and the weights ``[D, G·H, H]`` of the state."""
    first, state = operands[0], operands[2] if len(operands) > 2 else None
    is_batch_first = any(item.name == "layout" and item.i for item in node.attribute)
    if first is None or state is None or state.known_layout is None or state.rank != 3 or is_batch_first:
        return _UNKNOWN
    return first.dtype, (first.shape[0], state.shape[0], first.shape[1], state.shape[2])


def _of_integers(node: NodeProto, operands: Sequence[Value | None]) -> _Kind:
    """What is known of the result of an operator that reads each value with its scale and zero point."""
    first, zero, weight = operands[0], operands[7 if len(operands) > 7 else 4], operands[3]
    if first is None or zero is None or first.rank < 3:
        return _UNKNOWN
    if node.op_type == "QLinearConv" and weight is not None and weight.known_layout is not None:
        return zero.dtype, (first.shape[0], weight.shape[0], *[None] * (first.rank - 2))
    if node.op_type == "QLinearGlobalAveragePool" and not any(item.i for item in node.attribute):
        return zero.dtype, (*first.shape[:2], *[1] * (first.rank - 2))
    return _UNKNOWN


def _label(node: NodeProto) -> str:
    return f"{node.domain}::{node.op_type}" if domain_of(node.domain) else node.op_type


_Determinism = onnx.defs.OpSchema.NodeDeterminism


def _is_random(schema: onnx.defs.OpSchema) -> bool:
    """Whether the operator draws random numbers: it takes a seed. Others may not repeat for their bodies."""
    is_repeated = schema.node_determinism is _Determinism.Deterministic  # type: ignore[attr-defined]
    return not is_repeated and "seed" in schema.attributes


@functools.cache
def _draws(operator: str) -> bool:
    """Whether the operator of this name may draw random numbers, by its newest schema."""
    return onnx.defs.has(operator) and _is_random(onnx.defs.get_schema(operator))
