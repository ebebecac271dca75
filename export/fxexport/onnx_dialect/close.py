"""The edited graph written back: only what differs from the file as it was opened.

Nodes that did not change are the file's own bytes in their place. A node that reads another value keeps its
message but for that name; one that became another operator keeps its name and documentation; new ones get
names that nothing in the file has. What only the old form needed goes: views, the sizes that they were given,
their constants. The file's outputs keep their names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import onnx
import torch
from torch.fx import Node

from fxexport import onnx_node
from fxexport.onnx_dialect.extents import onnx_type, shape_of
from fxexport.onnx_dialect.open import ABSORBED, SPARSE, OpenOnnx, Unit
from fxexport.onnx_dialect.operators import is_along
from fxexport.onnx_dialect.other_sizes import CHANNELS_FIRST, held_by
from fxexport.onnx_dialect.pieces import Piece
from fxexport.onnx_dialect.record import KEY
from fxexport.onnx_dialect.weights import Layouts
from fxexport.onnx_dialect.writer import SOFTMAXES, NodeWriter, rank_of
from fxpasses.plan import WeightPlan
from fxpasses.private_names import pytree
from fxpasses.report import Form

_CLONE = torch.ops.aten.clone.default
_SIZE = torch.ops.aten.sym_size.int
_RESHAPE = torch.ops.aten.reshape.default


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """A rewritten file.

    Attributes:
        copied: bytes of weights that had to be written in another order, by the weight's name.
        held_by: what holds it at the height and width of the old file, where it could be free of them.
    """

    pieces: list[Piece]
    copied: dict[str, int]
    held_by: str | None
    names: Mapping[Node, str]


def close(opened: OpenOnnx, plan: WeightPlan, to: Form, renamed: Mapping[str, str]) -> Closed:
    """The file of the edited graph, whose weights moved as ``plan`` says.

    A head before its pool, or on every window, takes inputs of other heights and widths; so does the file
    then, if all that stands before it can.

    ``renamed`` has the new names of other files that hold weights, by the old ones.
    """
    return _Closing(opened, plan, renamed).run(to)


class _Closing:
    def __init__(self, opened: OpenOnnx, plan: WeightPlan, renamed: Mapping[str, str]) -> None:
        self.opened = opened
        self.opens: list[onnx.ValueInfoProto] = []
        self.map_axes = CHANNELS_FIRST
        self.renamed = renamed
        self.file = opened.file
        self.content = opened.content
        self.end = next(iter(reversed(opened.graph.nodes)))
        self.alive = set(opened.graph.nodes)
        self.units = {node: unit for unit in opened.units for node in unit.nodes}
        self.taken = _names_in(self.file)
        self.names: dict[Node, str] = {}
        self.kinds: dict[Node, int] = {}
        self.layouts = Layouts(opened, plan)
        self.writer = NodeWriter(
            opset=opened.opsets.get("", 1),
            names=self.name,
            unused=self.unused,
            is_turned=self.layouts.is_turned,
            extents=opened.values.names,
        )

    def run(self, to: Form) -> Closed:
        quantized = self.opened.constants.quantized
        self.names = {
            node: quantized[name].value if name in quantized else name
            for name, node in self.opened.by_name.items()
            if node in self.alive
        }
        identities = self._name_outputs()
        nodes = [proto for node in self.opened.graph.nodes for proto in self._protos(node)]
        edited = onnx.ModelProto()
        edited.CopyFrom(self.content.proto)
        onnx_node.replace(edited.graph.node, self._needed(_behind_constants([*nodes, *identities])))
        self._place_constants(edited.graph)
        self.layouts.write(edited)
        for entry in (entry for tensor in edited.graph.initializer for entry in tensor.external_data):
            if entry.key == "location":
                entry.value = self.renamed.get(entry.value, entry.value)
        held = self._open_sizes(edited, to) if to in (Form.DENSE, Form.FCN) else None
        self._declare(edited.graph)
        onnx_node.replace(edited.metadata_props, [e for e in edited.metadata_props if e.key != KEY])
        return Closed(
            pieces=self.content.pieces(edited), copied=self.layouts.copied, held_by=held, names=self.names
        )

    # --- names

    def unused(self, name: str) -> str:
        """The name, or one like it that nothing in the file has; it is taken then."""
        wanted, count = name, 1
        while name in self.taken:
            name, count = f"{wanted}_{count}", count + 1
        self.taken.add(name)
        return name

    def name(self, node: Node) -> str:
        """The file's name of a node's value."""
        node = self._seen_through(node)
        if node not in self.names:
            self.names[node] = self.unused(f"{node.name}_output_0")
        return self.names[node]

    def _seen_through(self, node: Node) -> Node:
        """What a copy that an edit wrote copies; the file needs none."""
        while node.target is _CLONE and node not in self.units:
            (node,) = node.all_input_nodes
        return node

    def _name_outputs(self) -> list[onnx.NodeProto]:
        """Gives the outputs of the graph their names back, by new nodes where a value cannot have them."""
        results: Any = self.end.args[0]
        made = []
        for wanted, result in zip(self.opened.outputs, results, strict=True):
            node = self._seen_through(result)
            if self.opened.by_name[self.opened.constants.alias(wanted)] is node:
                continue
            if node.op == "call_function" and self.names.get(node) not in self.opened.outputs:
                holder = next((other for other, name in self.names.items() if name == wanted), None)
                if holder is not None:
                    del self.names[holder]
                self.names[node] = wanted
            else:
                made.append(
                    onnx.helper.make_node("Identity", [self.name(node)], [wanted], self.unused(wanted))
                )
        return made

    # --- nodes

    def _protos(self, node: Node) -> Iterator[onnx.NodeProto]:
        """What stands in the file for a node of the graph, at its place."""
        if node.op != "call_function" or self._seen_through(node) is not node:
            return
        unit = self.units.get(node)
        swaps = None if unit is None else self._swaps(self.opened.absorbers.get(unit.index, unit))
        if unit is not None and swaps is not None:
            if node is unit.own:
                yield self._kept(unit.index, swaps)
        elif node.target not in (_SIZE, ABSORBED, SPARSE):
            yield from self.writer.write(node, None if unit is None else self._like(unit, node))

    def _swaps(self, unit: Unit) -> dict[Node, Node] | None:
        """What a unit reads now, by what it read; None where it became something else."""
        swaps: dict[Node, Node] = {}
        is_settled = not self.opened.settled.isdisjoint(self.file.node[unit.index].input)
        if unit.own is not None and unit.own.target is _RESHAPE and self._is_sized_otherwise(unit):
            return None
        for node in unit.nodes:
            if node not in self.alive:
                return None
            target, args, kwargs = unit.written[node]
            own = {} if is_settled and target is _SIZE and args[1] == 0 else swaps  # a batch, as a zero
            if node.target is not target or not _is_alike((args, kwargs), (node.args, node.kwargs), own):
                return None
            if any(self.layouts.is_moved(source) for source in node.all_input_nodes):
                return None
            if node.target in SOFTMAXES and not self._is_along(node):
                return None
        changed = {old: new for old, new in swaps.items() if old is not new}
        # what stands between two steps of one node has no place in it: a pool before what is fused
        return changed if changed.keys().isdisjoint(unit.nodes) else None

    def _is_sized_otherwise(self, unit: Unit) -> bool:
        """Whether a view reads extents of a value that is gone, or has others along its axes by now.

        The graph has those that are known as numbers, so that nothing in it reads the value for them.
        """
        read = self.file.node[unit.index].input[1:]
        for name in (source for size in read for source in self.opened.sized_by.get(size, ())):
            node, known = self.opened.by_name.get(name), self.opened.shapes.get(name)
            now = None if node is None or node not in self.alive else node.meta.get("val")
            extents = [] if now is None else self.opened.values.extents(now)
            before = () if known is None else known[1]
            if len(extents) != len(before) or any(
                isinstance(one, int) and one != other for one, other in zip(before, extents, strict=True)
            ):
                return True
        return False

    def _is_along(self, softmax: Node) -> bool:
        """Whether the file's own softmax is still one along its axis."""
        axis: Any = softmax.args[1]
        return is_along(axis, rank_of(softmax) or 0, self.writer.opset)

    def _kept(self, index: int, swaps: Mapping[Node, Node]) -> onnx.NodeProto:
        """A node of the file as it is, but for the names of values that it reads or gives."""
        proto: onnx.NodeProto = self.file.node[index]
        renamed: dict[str, str] = {}
        for name in onnx_node.reads_of(proto):
            node = self.opened.by_name.get(self.opened.constants.alias(name))
            if node is None or (node.op == "get_attr" and node not in swaps):
                continue
            now = self.name(swaps.get(node, node)) if swaps.get(node, node) in self.alive else name
            if now != name:
                renamed[name] = now
        results = [self._result(name) for name in proto.output]
        if not renamed and results == [*proto.output]:
            return proto
        copy = onnx.NodeProto()
        copy.CopyFrom(proto)
        onnx_node.rename_reads(copy, renamed)
        copy.output[:] = results
        return copy

    def _result(self, name: str) -> str:
        """What a value is called now; another name where an output of the graph took this one back."""
        node = self.opened.by_name.get(name)
        if node is None or node not in self.alive or node.op != "call_function":
            return name
        return self.name(node)

    def _like(self, unit: Unit, node: Node) -> onnx.NodeProto | None:
        """The file's node whose name a rewritten node keeps."""
        if node is not unit.own and node.target is unit.written.get(node, (None,))[0]:
            return None
        absorbed = [index for index, other in self.opened.absorbers.items() if other is unit]
        like: onnx.NodeProto = self.file.node[(*absorbed, unit.index)[0]]
        return like

    def _needed(self, nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """The nodes without those that only what is gone now read."""
        before, read = _read(self.file.node, self.file), {value.name for value in self.file.output}
        kept = []
        for node in reversed(nodes):
            if not read.isdisjoint(node.output) or before.isdisjoint(node.output):
                kept.append(node)
                read.update(onnx_node.reads_of(node))
        return kept[::-1]

    # --- what is beside the nodes

    def _place_constants(self, graph: onnx.GraphProto) -> None:
        """Initialisers without those that only what is gone now read, and those of the new form."""
        before, read = _read(self.file.node, self.file), _read(graph.node, graph)
        stays = ({*before} - read).isdisjoint
        inputs = {value.name for value in graph.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in inputs or stays({tensor.name})]
        onnx_node.replace(graph.initializer, [*kept, *self.writer.constants])

    def _open_sizes(self, edited: onnx.ModelProto, to: Form) -> str | None:
        """Leaves heights and widths of inputs open where the graph does; else says what does not."""
        read = [value for value in edited.graph.input if value.name not in self.content.initializers]
        maps = [value for value in read if len((shape_of(value) or (0, ()))[1]) > 2]
        fixed = [value for value in maps if all(isinstance(e, int) for e in shape_of(value)[1][2:])]  # type: ignore[index]
        if self.opened.is_settled or not fixed or len(fixed) < len(maps):
            return None
        names = [value.name for value in fixed]
        self.map_axes, reason = held_by(edited, names, keeps_outputs=to is Form.DENSE)
        self.opens = [] if reason is not None else fixed
        return reason

    def _declare(self, graph: onnx.GraphProto) -> None:
        """Follows in declarations what has another shape now, or is gone."""
        for value in (*graph.input, *graph.value_info):
            dims = self.layouts.dims.get(self.opened.constants.alias(value.name))
            if dims is not None:
                _set_extents(value, dims)
        for value in self.opens:
            map_ = value.type.tensor_type.shape.dim[self.map_axes]
            for dim, name in zip(reversed(map_), ("width", "height", "depth"), strict=False):
                dim.dim_param = name
        self.kinds = self._kinds()
        results: Any = self.end.args[0]
        for value, result in zip(graph.output, results, strict=True):
            self._follow(value, result)
        nodes = {name: node for node, name in self.names.items()}
        kept = [value for value in graph.value_info if self._is_declared(value, nodes)]
        new = [*self._new_declarations(graph, nodes)] if graph.value_info else []
        onnx_node.replace(graph.value_info, [*kept, *new])

    def _is_declared(self, value: onnx.ValueInfoProto, nodes: Mapping[str, Node]) -> bool:
        """Whether a declaration stays, as it is or with the shape that the value has now."""
        before, now = self.opened.by_name.get(value.name), nodes.get(value.name)
        is_constant = before is None or before.op != "call_function"
        return is_constant or (now is not None and self._follow(value, now))

    def _follow(self, value: onnx.ValueInfoProto, node: Node) -> bool:
        """Declares the shape that a node has, where it is known, and is another one."""
        known, now = shape_of(value), self._extents(node)
        if now is not None and known is not None and not self._agree(known[1], now):
            _set_extents(value, now)
        if self.kinds[node] and value.type.HasField("tensor_type"):
            value.type.tensor_type.elem_type = self.kinds[node]
        return now is not None

    def _kinds(self) -> dict[Node, int]:
        """The ONNX type of every value, 0 where it is not known.

        What gave the type that it read gives the one that it reads now; all else, such as what quantises,
        gives what it gave.
        """
        before = {node: self.opened.shapes.get(name, (0,))[0] for name, node in self.opened.by_name.items()}
        written = {node: args for unit in self.opened.units for node, (_, args, _) in unit.written.items()}
        now: dict[Node, int] = {}
        for node in self.opened.graph.nodes:
            was = next((item for item in written.get(node, ()) if isinstance(item, Node)), node)
            now[node] = before.get(node, 0)
            if (
                node.target is torch.ops.aten.to.dtype and node.args
            ):  # it may compute a size that nobody reads
                now[node] = onnx_type(node.args[1])
            elif node.all_input_nodes and (node not in before or before.get(was) == now[node]):
                now[node] = now[node.all_input_nodes[0]]
        return now

    def _new_declarations(
        self, graph: onnx.GraphProto, nodes: Mapping[str, Node]
    ) -> Iterator[onnx.ValueInfoProto]:
        declared = {value.name for value in (*graph.value_info, *graph.output)} | {*self.opened.by_name}
        for name in (name for node in graph.node for name in node.output if name not in declared):
            value = nodes[name].meta.get("val") if name in nodes else None
            if value is not None:
                info = onnx.ValueInfoProto(name=name)
                info.type.tensor_type.elem_type = self.kinds[nodes[name]] or onnx_type(value.dtype)
                _set_extents(info, self._extents(nodes[name]) or [])
                yield info

    def _extents(self, node: Node) -> list[Any] | None:
        """The extents of a value as they can be declared: heights and widths only where they are fixed."""
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            return None
        extents = self.opened.values.extents(value)
        count = len(self._map_of(extents)) if self.opens or self.opened.is_settled else 0
        return [*extents[: len(extents) - count], *[None] * count]

    def _map_of(self, extents: Sequence[Any]) -> Sequence[Any]:
        """The extents that may be those of a map."""
        return extents[self.map_axes.start :] if len(extents) > CHANNELS_FIRST.start else ()

    def _agree(self, declared: Sequence[Any], extents: Sequence[Any]) -> bool:
        """Whether a declaration can stay."""
        is_stale = bool(self.opens) and any(isinstance(extent, int) for extent in self._map_of(declared))
        return (
            len(declared) == len(extents)
            and not is_stale
            and all(
                one == other or not (isinstance(one, int) and isinstance(other, int))
                for one, other in zip(declared, extents, strict=True)
            )
        )


def _set_extents(value: onnx.ValueInfoProto, extents: Iterable[Any]) -> None:
    shape = value.type.tensor_type.shape
    del shape.dim[:]
    value.type.tensor_type.shape.SetInParent()
    for extent in extents:
        dim = shape.dim.add()
        if isinstance(extent, int):
            dim.dim_value = extent
        elif extent is not None:
            dim.dim_param = extent


def _is_alike(before: Any, after: Any, swaps: dict[Node, Node]) -> bool:
    """Whether arguments are the same but for the nodes among them, which are noted."""
    (ours, shape), (theirs, other) = map(pytree.tree_flatten, (before, after))
    return shape == other and all(
        swaps.setdefault(one, now) is now
        if isinstance(one, Node) and isinstance(now, Node)
        else type(one) is type(now) and bool(one == now or (one != one and now != now))  # NaN is as it was
        for one, now in zip(ours, theirs, strict=True)
    )


def _behind_constants(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Views of constants behind the nodes that give these: the graph has its constants first."""
    places = {name: place for place, node in enumerate(nodes) for name in node.output}
    order: list[tuple[int, int]] = []
    for place, node in enumerate(nodes):
        read = [places[name] for name in onnx_node.reads_of(node) if name in places]
        order.append((max([place, *(order[other][0] if other < place else other for other in read)]), place))
    return [
        nodes[place] for _, place in sorted(order, key=lambda item: (item[0], item[0] != item[1], item[1]))
    ]


def _read(nodes: Iterable[onnx.NodeProto], graph: onnx.GraphProto) -> set[str]:
    """Names that nodes or the graph's outputs read."""
    found = {value.name for value in graph.output}
    for node in nodes:
        found.update(onnx_node.reads_of(node))
    return found


def _names_in(graph: onnx.GraphProto) -> set[str]:
    """Every name in a graph and its subgraphs."""
    found = {value.name for value in (*graph.input, *graph.output, *graph.value_info)}
    found |= {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        found |= {node.name, *node.input, *node.output}
        for inner in onnx_node.graphs_of(node):
            found |= _names_in(inner)
    return found
