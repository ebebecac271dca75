"""An ONNX file as a graph of ``torch.fx`` that the passes can edit.

There is a node for each value of the file. An operator that an ATen operator equals is written as that one,
with all of its arguments; every other is a call of an ``Operator``. Initialisers are parameters over the
file's own memory, under their names. A node's ``val`` has the shape that the file says or ONNX infers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import torch
from torch import nn
from torch.fx import Graph, Node

from fxexport import onnx_node
from fxexport.onnx_dialect.broken import BrokenGraph
from fxexport.onnx_dialect.constants import LEVELS, Constants
from fxexport.onnx_dialect.content import Content
from fxexport.onnx_dialect.extents import (
    Extent,
    ExtentOf,
    FakeValues,
    Shape,
    Size,
    inferred,
    shape_of,
    sizes_given,
)
from fxexport.onnx_dialect.operators import Operator, operator
from fxexport.onnx_dialect.reading import READERS
from fxpasses.graph.quiet import quiet
from fxpasses.report import TraceInfo

_INFO = TraceInfo(method="given", mode="fixed")
SPARSE = operator("fxhead", "SparseInitializer")
ABSORBED = operator("fxhead", "Absorbed")
_PRODUCTS = ("Conv", "Gemm", "MatMul")
"""What the names of all operators have that multiply by weights, quantised and fused ones too."""
_TORCH_LOG = "torch._subclasses.fake_tensor"
_SIZE = torch.ops.aten.sym_size.int


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class Unit:
    """What an ONNX node became.

    Attributes:
        index: its place among the file's nodes.
        nodes: the graph's nodes for it, in order.
        own: the one of these that stands for it; others compute its operands, or pick one of its values.
        results: the graph's node of each of its values, by name.
        written: target and arguments of each node as they were opened.
    """

    index: int
    nodes: list[Node] = dataclasses.field(default_factory=list)
    own: Node | None = None
    results: dict[str, Node] = dataclasses.field(default_factory=dict)
    written: dict[Node, tuple[Any, Any, Any]] = dataclasses.field(default_factory=dict)


class OpenOnnx:
    """An ONNX file's graph with its parameters looked up by name; the subject of the passes.

    Args:
        content: the file.
        input_shapes: extents of inputs that it leaves open.
        shapes: of its values, where they are known better than can be inferred.

    Attributes:
        units: what each of the file's nodes became.
        absorbers: for a node of the file that was put together with a later one, that one's unit.
        by_name: the graph's node of each of the file's values.
        settled: values that hold sizes which are known by the inputs that were given, and by these alone.
        sized_by: for another value that holds sizes, the values whose extents these are.
        is_settled: whether sizes are known from inputs that were given, and not from the file.
    """

    lifted: Mapping[str, str] = {}
    info = _INFO

    def __init__(
        self,
        content: Content,
        input_shapes: Sequence[Sequence[int]] = (),
        shapes: Mapping[str, Shape] | None = None,
    ) -> None:
        self.content = content
        self.file = content.proto.graph
        self.opsets = onnx_node.versions_of(content.proto)
        self.graph = Graph()
        self.root = nn.Module()
        self.values = FakeValues()
        self.shapes = inferred(content.proto, input_shapes) if shapes is None else shapes
        self.is_settled = any(self._is_settled(value) for value in self.file.input)
        self._declared = inferred(content.proto) if self.is_settled and shapes is None else self.shapes
        self.constants = Constants(content, self.root)
        self.by_name: dict[str, Node] = {}
        self.units: list[Unit] = []
        self.readers = _readers(self.file)
        self.outputs = [value.name for value in self.file.output]
        self.sizes: dict[str, list[Size]] = {}
        self.settled: set[str] = set()
        self.sized_by: dict[str, set[str]] = {}
        self.absorbers: dict[int, Unit] = {}
        self.pending: dict[str, tuple[int, Node, Node, str]] = {}
        self._taken: dict[str, int] = {}
        functions = content.proto.functions
        self._bodies = {(body.domain, body.name, body.overload): body.node for body in functions}
        self._open()

    def _open(self) -> None:
        for value in self.file.input:
            if value.name not in self.content.initializers:
                node = self.graph.placeholder("input")
                self._keep(node, value.name, self.values.tensor(self.shapes.get(value.name)))
                self.by_name[value.name] = node
        for sparse in self.file.sparse_initializer:  # a value like any other, of which nothing is known
            name = sparse.values.name
            self.by_name[name] = self.graph.call_function(SPARSE)
            self._keep(self.by_name[name], name, None)
        for index in onnx_node.in_order(self.file):
            self.units.append(Unit(index=index))
            NodeOpening(self, self.units[-1], self.file.node[index]).open()
        self.graph.output(tuple(self.value(name) for name in self.outputs))
        self._let_go()
        for unit in self.units:
            unit.written = {node: (node.target, node.args, node.kwargs) for node in unit.nodes}

    def _let_go(self) -> None:
        """Makes nodes that only computed sizes read nothing: who needed those names the extents himself.

        Extents that are numbers for the inputs that were given alone the file goes on computing.
        """
        for unit in reversed(self.units):
            is_read = any(name in self.readers for name in unit.results) and self.settled.isdisjoint(
                unit.results
            )
            if is_read and not any(node.users for node in unit.results.values()):
                for node in unit.nodes:
                    node.args = ()

    def _is_settled(self, value: onnx.ValueInfoProto) -> bool:
        """Whether an extent of an input that the file leaves open was given a number."""
        declared, known = shape_of(value), self.shapes.get(value.name)
        if declared is None or known is None:
            return False
        pairs = zip(declared[1], known[1], strict=True)
        return any(not isinstance(one, int) and isinstance(other, int) for one, other in pairs)

    def knows_by_inputs(self, name: str) -> bool:
        """Whether an extent of a value is a number because inputs were given, and for those alone."""
        return self.is_settled and self.shapes.get(name) != self._declared.get(name)

    def has_native_size(self) -> bool:
        """Whether the extents of inputs are known, but for the batch."""
        read = (node.name for node in self.graph.find_nodes(op="placeholder"))
        known = [self.shapes.get(name) for name in read]
        return all(shape is not None and all(isinstance(e, int) for e in shape[1][1:]) for shape in known)

    def value(self, name: str) -> Node:
        """The graph's node of a value of the file.

        Raises:
            BrokenGraph: nothing gives it.
        """
        name = self.constants.alias(name)
        if name not in self.by_name:
            tensor = self.constants.tensor(name)
            if tensor is None:
                raise BrokenGraph(f"{name!r} is read, and nothing before gives it")
            self.by_name[name] = self._constant(name, tensor)
        return self.by_name[name]

    def sizes_of(self, name: str) -> Sequence[Size] | None:
        """The sizes that a value holds, or None where they are computed otherwise."""
        constant = self.constants.ints(name)
        return self.sizes.get(name) if constant is None else constant

    def calls_affine(self, proto: onnx.NodeProto) -> bool:
        """Whether a graph of the node, or the function of the file that it is, has a layer or a product."""
        pending, is_inside = [proto], False
        while pending:
            node = pending.pop()
            if is_inside and any(kind in node.op_type for kind in _PRODUCTS):
                return True
            is_inside = True
            pending += (inner for graph in onnx_node.graphs_of(node) for inner in graph.node)
            pending += self._bodies.get((node.domain, node.op_type, node.overload), ())
        return False

    def _constant(self, name: str, tensor: torch.Tensor) -> Node:
        first = next(iter(self.graph.nodes), None)
        with self.graph.inserting_before(first) if first is not None else self.graph.inserting_after():
            node = self.graph.get_attr(self.constants.paths[name])
        self._keep(node, name, self.values.like(tensor))
        return node

    def _keep(self, node: Node, name: str, value: Any) -> None:
        node.name = self.unused(name)
        if value is not None:
            node.meta["val"] = value

    def unused(self, name: str) -> str:
        """The name, or one like it that no node has."""
        wanted = name = name or "value"
        while name in self._taken:  # counted on: all nodes of a file may have one name
            name = f"{wanted}_{self._taken[wanted]}"
            self._taken[wanted] += 1
        self._taken[name] = 1
        return name


def _readers(graph: onnx.GraphProto) -> dict[str, list[int]]:
    """The nodes that read each value, subgraphs included."""
    found: dict[str, list[int]] = {}
    for index, node in enumerate(graph.node):
        for name in onnx_node.reads_of(node):
            found.setdefault(name, []).append(index)
    return found


class NodeOpening:
    """One node of the file while it is opened."""

    def __init__(self, opened: OpenOnnx, unit: Unit, proto: onnx.NodeProto) -> None:
        self.opened = opened
        self.unit = unit
        self.proto = proto
        self.attributes = onnx_node.attributes_of(proto, opened.opsets)
        self.opset = opened.opsets.get("", 1)
        self.follow: Operator | None = None

    def broken(self, problem: str) -> BrokenGraph:
        """The error that says what is wrong with the node."""
        return BrokenGraph(f"{self.proto.op_type} {self.proto.name or self.proto.output[0]!r} {problem}")

    def open(self) -> None:
        """Writes the node into the graph."""
        domain, _ = onnx_node.meaning_of(self.proto, self.opened.opsets)
        reader = READERS.get(f"{domain}.{self.proto.op_type}" if domain else self.proto.op_type)
        if not domain and len(self.proto.output) == 1:
            self._note_sizes()
        if self.opened.constants.holds(self.proto):
            self.absorb()
        elif reader is None or not self._is_single() or not reader(self):
            self._call()

    def _note_sizes(self) -> None:
        opened, read = self.opened, self.proto.input
        shape = opened.shapes.get(read[0]) if read else None
        found = sizes_given(self.proto, self.attributes, [opened.sizes_of(name) for name in read], shape)
        if found is None:
            return
        name, is_shape = self.proto.output[0], self.proto.op_type == "Shape"
        opened.sizes[name] = found
        if opened.knows_by_inputs(read[0]) if is_shape else not opened.settled.isdisjoint(read):
            opened.settled.add(name)
        else:
            sources = [opened.sized_by.get(source, set()) for source in read]
            opened.sized_by[name] = {read[0]} if is_shape else set().union(*sources)

    def absorb(self) -> None:
        """Stands for a node of the file that another one, or a parameter, holds already."""
        self.unit.own = self._create(ABSORBED, (), self.proto.name or self.proto.output[0])

    def _call(self) -> None:
        opened, proto = self.opened, self.proto
        read = [opened.value(name) if name else None for name in proto.input]
        inner = [opened.value(name) for name in onnx_node.captured(proto) if self._is_known(name)]
        domain, _ = onnx_node.meaning_of(proto, opened.opsets)
        calls_affine = opened.calls_affine(proto)
        along = None if domain or proto.op_type not in LEVELS else self._along()
        target = operator(domain, proto.op_type, calls_affine=calls_affine, along=along)
        node = self._create(target, (*read, *inner), proto.name or proto.output[0])
        self.unit.own = node
        outputs = [name for name in proto.output if name]
        if len(outputs) == 1:
            self._result(outputs[0], node)
            return
        for place, name in enumerate(proto.output):
            if name:
                self._result(name, self._create(operator(domain, proto.op_type), (node, place), name))

    def _along(self) -> int | None:
        """The axis along which the scale of what quantises differs; None where there is one for all."""
        axis = None if self.shape(1) in ((), (1,)) else self.attribute("axis")
        return -1 if self.attribute("block_size") else axis

    def _is_single(self) -> bool:
        """Whether nothing reads any value but the first."""
        others = {*self.proto.output[1:]} - {""}
        return not any(name in self.opened.readers or name in self.opened.outputs for name in others)

    def _is_known(self, name: str) -> bool:
        return (
            name in self.opened.by_name
            or self.opened.constants.tensor(self.opened.constants.alias(name)) is not None
        )

    def _result(self, name: str, node: Node) -> None:
        if name in self.opened.by_name:
            raise BrokenGraph(f"{name!r} is given twice")
        self.opened.by_name[name] = self.unit.results[name] = node
        value = self.opened.values.tensor(self.opened.shapes.get(name))
        if value is not None:
            node.meta["val"] = value

    def _create(self, target: Any, args: tuple[Any, ...], name: str) -> Node:
        node = self.opened.graph.call_function(target, args)
        node.name = self.opened.unused(name)
        self.unit.nodes.append(node)
        trace = next(
            (item.value for item in self.proto.metadata_props if item.key.endswith("stack_trace")), None
        )
        if trace:
            node.meta["stack_trace"] = trace
        return node

    # --- for the readers

    def attribute(self, name: str) -> Any:
        """An attribute of the node, or its default."""
        return self.attributes.get(name)

    def has(self, place: int) -> bool:
        """Whether the node has an input at a place."""
        return place < len(self.proto.input) and bool(self.proto.input[place])

    def input(self, place: int = 0) -> Node:
        """The node that it reads at a place."""
        return self.opened.value(self.proto.input[place])

    def shape(self, place: int = 0) -> tuple[Extent, ...] | None:
        """The extents of what it reads at a place, or None where the rank is not known."""
        name = self.opened.constants.alias(self.proto.input[place])
        tensor = self.opened.constants.tensor(name)
        if tensor is not None:
            return tuple(tensor.shape)
        known = self.opened.shapes.get(name)
        return None if known is None else known[1]

    def ints(self, name: str, place: int | None = None) -> tuple[int, ...] | None:
        """Integers that are an attribute, or since a later version an input of known numbers; else None."""
        written = self.attribute(name)
        if written is not None:
            return tuple(written) if isinstance(written, Sequence) else (written,)
        if place is None or not self.has(place):
            return None
        found = self.opened.sizes_of(self.proto.input[place])
        numbers = [size for size in found or () if isinstance(size, int)]
        return tuple(numbers) if found is not None and len(numbers) == len(found) else None

    def weight(self, place: int, *, transposed: bool = False) -> Node | None:
        """The parameter at a place, read as ``[O, …]``; None where it is computed.

        A matrix that is stored as ``[K, O]`` is held as its transposed view.
        """
        name = self.opened.constants.alias(self.proto.input[place])
        if not self.opened.constants.is_weight(name) or not self.opened.constants.turn(name, transposed):
            return None
        node, tensor = self.opened.value(name), self.opened.constants.tensor(name)
        assert tensor is not None, "a weight is a constant"
        if node.meta["val"].stride() != tensor.stride():  # it was opened before it was turned
            node.meta["val"] = self.opened.values.like(tensor)
        return node

    def sizes_at(self, place: int) -> list[Any] | None:
        """The sizes that it reads at a place: numbers, and nodes that hold an extent; else None."""
        found = self.opened.sizes_of(self.proto.input[place])
        if found is None:
            return None
        return [
            self.size(self.opened.value(size.value), size.axis) if isinstance(size, ExtentOf) else size
            for size in found
        ]

    def size(self, source: Node, axis: int) -> Any:
        """The extent of a node along an axis: a number, or a node that holds it."""
        value = source.meta.get("val")
        extent = None if value is None else value.shape[axis]
        if isinstance(extent, int):
            return extent
        node = self._create(_SIZE, (source, axis), f"{self.proto.output[0]}_size")
        if extent is not None:
            node.meta["val"] = extent
        return node

    def quantized(self, place: int) -> bool:
        """Whether a node that makes a quantised value floating point gives what it reads at a place."""
        name = self.opened.constants.alias(self.proto.input[place])
        maker = getattr(self.opened.value(name).target, "__name__", "")
        return name in self.opened.constants.quantized or maker == "DequantizeLinear"

    def reader(self, crossing: frozenset[str]) -> onnx.NodeProto | None:
        """The only node that reads its value, seen through operators of some kinds; None for several."""
        name = self.proto.output[0]
        while name not in self.opened.outputs:
            read = [self.opened.file.node[place] for place in self.opened.readers.get(name, [])]
            read = [node for node in read if node.op_type != "Shape"]
            if len(read) != 1 or not onnx_node.is_standard(read[0]):
                return None
            (reader,) = read
            if reader.op_type not in crossing:
                found: onnx.NodeProto = reader
                return found
            name = reader.output[0]
        return None

    def added_bias(self, features: int) -> str | None:
        """The constant that the only reader of its value adds to it, one number a feature; else None."""
        name, opened = self.proto.output[0], self.opened
        readers = opened.readers.get(name, [])
        if len(readers) != 1 or name in opened.outputs:
            return None
        reader = opened.file.node[readers[0]]
        others = [other for other in reader.input if other != name]
        if reader.op_type != "Add" or not onnx_node.is_standard(reader) or len(others) != 1:
            return None
        bias = opened.constants.alias(others[0])
        tensor = opened.constants.tensor(bias) if opened.constants.is_weight(bias) else None
        return bias if tensor is not None and tuple(tensor.shape) == (features,) else None

    def defer(self, bias: str, source: Node, weight: Node) -> None:
        """Leaves the product to the addition that reads it."""
        self.opened.pending[self.proto.output[0]] = (self.unit.index, source, weight, bias)
        self.absorb()

    def deferred(self) -> tuple[Node, Node, Node] | None:
        """What a product before it left to it: an operand, a weight and a bias."""
        name = next((name for name in self.proto.input if name in self.opened.pending), None)
        if name is None:
            return None
        index, source, weight, bias = self.opened.pending.pop(name)
        self.opened.absorbers[index] = self.unit
        return source, weight, self.opened.value(bias)

    def write(self, target: Any, *args: Any, name: str | None = None) -> Node:
        """A node of the graph that is not the file's node itself, but a step towards it."""
        node = self._create(target, args, f"{self.proto.name or self.proto.output[0]}_{name or 'part'}")
        self._compute(node)
        return node

    def give(self, target: Any, *args: Any) -> bool:
        """The node of the graph that gives the file's value, or feeds what is fused with it."""
        if self.follow is not None:
            args, target, self.follow = (self.write(target, *args, name="product"),), self.follow, None
        self.unit.own = node = self._create(target, args, self.proto.name or self.proto.output[0])
        self._result(self.proto.output[0], node)
        if "val" not in node.meta:
            self._compute(node)
        return True

    def _compute(self, node: Node) -> None:
        """The ``val`` of a node from those of its operands, where they have one."""
        read = [source.meta.get("val") for source in node.all_input_nodes]
        if any(value is None for value in read):
            return
        args, values = torch.fx.map_arg(node.args, lambda source: source.meta["val"]), self.opened.values
        try:
            with quiet(_TORCH_LOG), torch.no_grad(), values.mode, values.env.suppress_guards():
                node.meta["val"] = node.target(*args)  # type: ignore[operator]  # a function's target
        except Exception:  # noqa: BLE001  # a graph that cannot run has no shapes; it is read all the same
            return
