"""Writes a component down before and after an edit, so that the way back restores it exactly.

The algebra alone cannot: ``pool → flatten → dropout → linear`` and ``pool → dropout → flatten → linear`` have
one convolution form. A record is plain data (it survives ``copy.deepcopy`` and pickling of the
GraphModule without this package) and it is used only while the edited nodes are still exactly as the
edit left them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.fx import GraphModule, Node, map_arg

from fxpasses.engine.match import Match
from fxpasses.engine.reshape import conv_extras
from fxpasses.graph import provenance
from fxpasses.private_names import ConvNd, OpOverload
from fxpasses.report import Form
from fxpasses.vocabulary import aten
from fxpasses.vocabulary.writer import named_functions

ATTRIBUTE = "_fxhead_undo"
"""The attribute of a GraphModule that has the records of its edits; every copy has them there."""
_PLAIN = frozenset({int, float, bool, str, type(None)})
_FUNCTIONS = named_functions()
_FUNCTION_NAMES = {function: name for name, function in _FUNCTIONS.items()}


class Nodes(dict[str, Node]):
    """A graph's nodes by name, and what each reads: every edit asks, and an output may read thousands."""

    def __init__(self, nodes: Iterable[Node] = ()) -> None:
        super().__init__((node.name, node) for node in nodes)
        self._inputs: dict[Node, tuple[Any, Any, tuple[str, ...]]] = {}
        self._places: dict[Node, tuple[tuple[str, ...], dict[str, list[int]]]] = {}

    def inputs(self, node: Node) -> tuple[str, ...]:
        """The names of the nodes among a node's arguments, in order, repeats included."""
        args, kwargs, names = self._inputs.get(node, (None, None, ()))
        if args is not node.args or kwargs is not node.kwargs:
            names = _inputs(node)
            self._inputs[node] = (node.args, node.kwargs, names)
        return names

    def places(self, reader: Node, names: Collection[str]) -> dict[int, str]:
        """Which of a reader's inputs are among nodes, by position."""
        inputs = self.inputs(reader)
        seen, known = self._places.get(reader, (None, {}))
        if seen is not inputs:
            known = {}
            for at, name in enumerate(inputs):
                known.setdefault(name, []).append(at)
            self._places[reader] = (inputs, known)
        asked = names if len(names) < len(known) else known
        return {at: name for name in asked if name in names for at in known.get(name, ())}


class Snapshot(NamedTuple):
    """A node as it is, by reference: what an edit may touch is more than it changes, and writing is slow.

    Arguments are immutable, and an edit puts new metadata in the place of the old.
    """

    name: str
    op: str
    target: Any
    args: Any
    kwargs: Any
    previous: str
    meta: dict[str, Any]

    @classmethod
    def of(cls, node: Node) -> Snapshot:
        """The node as it is now."""
        before = node.prev
        previous = "" if before.op == "root" else before.name
        return cls(node.name, node.op, node.target, node.args, node.kwargs, previous, {**node.meta})

    def is_same(self, other: Snapshot) -> bool:
        """Whether a node does the same in both; its place does not count."""
        return self[1:5] == other[1:5]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One node, written down.

    Attributes:
        target: its target; a function by its name in the table above, or None where it is not there.
        args: encoded positional arguments and keyword arguments, or None where they do not encode.
        inputs: names of the nodes among its arguments, in order, repeats included.
        previous: the node before it, "" at the start.
        is_moved: whether the edit moved it to another place.
    """

    name: str
    op: str
    target: str | None
    args: Any
    inputs: tuple[str, ...]
    previous: str
    is_moved: bool = False
    origin: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, snapshot: Snapshot, *, is_moved: bool = False) -> Spec:
        """A node as it was when the snapshot was taken."""
        is_function = snapshot.op == "call_function"
        arguments = (snapshot.args, snapshot.kwargs)
        return cls(
            name=snapshot.name,
            op=snapshot.op,
            target=_name(snapshot.target) if is_function else str(snapshot.target),
            args=_encode(arguments),
            inputs=_names_in(arguments),
            previous=snapshot.previous,
            is_moved=is_moved,
            origin=provenance.written(snapshot.meta),
        )

    @property
    def is_whole(self) -> bool:
        """Whether the node could be made again from this alone."""
        return self.target is not None and self.args is not None

    def resolved_target(self) -> Any:
        """The target as fx takes it."""
        return _function(self.target or "") if self.op == "call_function" else self.target

    def is_like(self, node: Node) -> bool:
        """Whether a node is still as written down; its place does not count."""
        target = _name(node.target) if node.op == "call_function" else str(node.target)
        if (self.op, self.target, self.inputs) != (node.op, target, _inputs(node)):
            return False
        return bool(self.args == _encode((node.args, node.kwargs)))

    def write_to(self, node: Node, nodes: Mapping[str, Node]) -> None:
        """Gives a node its target and arguments back."""
        if self.is_whole:
            node.op, node.target = self.op, self.resolved_target()
            node.args, node.kwargs = _decode(self.args, nodes)
            return
        _set_inputs(node, self.inputs, nodes)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A node that only read the component: what it reads now instead, by position among its inputs.

    Several components can have one reader (two heads, one output), so each keeps to its own inputs.
    """

    name: str
    position: int
    before: str
    after: str

    def is_as_left(self, nodes: Nodes) -> bool:
        """Whether the node still reads what the edit made it read."""
        inputs = nodes.inputs(nodes[self.name]) if self.name in nodes else ()
        return self.position < len(inputs) and inputs[self.position] == self.after


def restore_readers(readers: Iterable[Reader], nodes: Nodes) -> None:
    """Makes nodes read what they read before; each is edited once, however many of its inputs change."""
    inputs: dict[str, list[str]] = {}
    for reader in readers:
        if reader.name not in inputs:
            inputs[reader.name] = list(nodes.inputs(nodes[reader.name]))
        inputs[reader.name][reader.position] = reader.before
    for name, names in inputs.items():
        _set_inputs(nodes[name], names, nodes)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One edit, before and after.

    Attributes:
        sites: names of the sites' nodes.
        before: the nodes that the edit changed or erased, as they were.
        after: the nodes that the edit changed or inserted, as it left them.
        inserted: names of the nodes that it inserted, in order.
        readers: what other nodes read instead of the component's.
        orders: the order in which each site's linear form reads its kernel, by node name.
        kernels: the kernel size of each site's convolution form, by node name.
        extents: what the edit knew of each pool's extents, by node name.
        conv_extras: settings of convolutions that became Linears, by path.
        batch_norms: rank of the batch norms that it replaced, as it was, by path.
        maps: how many maps became outputs beside the model's own.
        native: spatial extents of the input at which windows have one position; empty where unknown.
        is_pointwise: whether it is of pointwise sites, or of what had to change with them.
    """

    origin: Form
    to: Form
    sites: tuple[str, ...]
    before: tuple[Spec, ...]
    after: tuple[Spec, ...]
    inserted: tuple[str, ...]
    readers: tuple[Reader, ...]
    orders: dict[str, str]
    kernels: dict[str, list[int]]
    extents: dict[str, list[int]]
    conv_extras: dict[str, dict[str, Any]]
    batch_norms: dict[str, int]
    maps: int = 0
    native: tuple[int, ...] = ()
    is_pointwise: bool = False

    def to_data(self) -> dict[str, Any]:
        """Plain data, to keep on a GraphModule."""
        return _plain(self) | {
            "origin": str(self.origin),
            "to": str(self.to),
            "before": [_plain(spec) for spec in self.before],
            "after": [_plain(spec) for spec in self.after],
            "readers": [_plain(reader) for reader in self.readers],
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Record:
        """The record that ``to_data`` wrote."""
        to = Form(data["to"])
        origin = Form(data.get("origin", Form.CONV if to is Form.LINEAR else Form.LINEAR))
        own = {
            "sites": tuple(data["sites"]),
            "before": tuple(Spec(**spec) for spec in data["before"]),
            "after": tuple(Spec(**spec) for spec in data["after"]),
            "inserted": tuple(data["inserted"]),
            "readers": tuple(Reader(**reader) for reader in data["readers"]),
            "native": tuple(data.get("native", ())),
        }
        return cls(**{**data, **own, "origin": origin, "to": to})


def _plain(entry: Spec | Reader | Record) -> dict[str, Any]:
    """The attributes by name; ``dataclasses.asdict`` would copy what is plain and immutable already."""
    return {name: getattr(entry, name) for name in entry.__slots__}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """A component before its edit.

    Attributes:
        root: the tree that has its modules.
        own: its nodes, and the sizes around them, in graph order.
        outside: the nodes that read them, in graph order.
        nodes: its own by name.
        readers: by node outside, which of its inputs are nodes of the component, by position.
        batch_norms: rank of every batch norm of the component, by path.
        graph: what was looked at before of the nodes around.
    """

    root: nn.Module
    own: tuple[Node, ...]
    outside: tuple[Node, ...]
    nodes: dict[str, Snapshot]
    readers: dict[str, dict[int, str]]
    orders: dict[str, str]
    kernels: dict[str, list[int]]
    extents: dict[str, list[int]]
    conv_extras: dict[str, dict[str, Any]]
    batch_norms: dict[str, int]
    graph: Nodes

    def record(
        self,
        new: Iterable[Node],
        origin: Form,
        to: Form,
        *,
        erased: Container[Node] = (),
        moved: Container[str] = (),
    ) -> Record | None:
        """The edit written down, or None where it could not be taken back from this alone.

        Args:
            new: the nodes that it inserted.
            origin: the form before it.
            to: the form since.
            erased: those of the nodes that are no longer in the graph.
            moved: names of those that stand elsewhere now.
        """
        inserted = tuple(node.name for node in sorted(new))
        now = {node.name: Snapshot.of(node) for node in self.own if node not in erased}
        now |= {node.name: Snapshot.of(node) for node in new}
        changed: dict[str, Spec] = {}
        for name, old in self.nodes.items():
            after = now.get(name)
            is_moved = after is not None and (name in moved or _is_out_of_place(old, after, self.nodes, now))
            if after is None or is_moved or not after.is_same(old) or name in self.orders:
                changed[name] = Spec.of(old, is_moved=is_moved)
        left = {name: Spec.of(node) for name, node in now.items() if name in changed or name in inserted}
        is_whole = all(
            spec.is_whole or _only_inputs_changed(spec, left.get(name)) for name, spec in changed.items()
        )
        if not is_whole:
            return None
        return Record(
            origin=origin,
            to=to,
            sites=tuple(self.orders),
            before=tuple(changed.values()),
            after=tuple(left.values()),
            inserted=inserted,
            readers=tuple(self._changed_readers()),
            orders=self.orders,
            kernels=self.kernels,
            extents=self.extents,
            conv_extras=self.conv_extras,
            batch_norms={
                path: rank
                for path, rank in self.batch_norms.items()
                if _rank(self.root.get_submodule(path)) != rank
            },
        )

    def _changed_readers(self) -> Iterator[Reader]:
        for node in self.outside:
            inputs = self.graph.inputs(node)
            for position, was in self.readers[node.name].items():
                if was != inputs[position]:
                    yield Reader(name=node.name, position=position, before=was, after=inputs[position])


def write_down(
    root: nn.Module,
    nodes: Iterable[Node],
    matches: Mapping[Node, Match],
    pools: Iterable[str] = (),
    *,
    read: Iterable[Node] | None = None,
    graph: Nodes | None = None,
) -> Before:
    """The nodes that an edit may touch, as they are now.

    Args:
        root: the tree that has their modules.
        nodes: those that it may change.
        matches: the sites among them.
        pools: names of the pools among them.
        read: those of them that others read; None for all.
        graph: what was looked at before of the nodes around.
    """
    graph = Nodes() if graph is None else graph
    own = sorted(nodes)
    outside = sorted({user for node in (own if read is None else read) for user in node.users} - {*own})
    extras: dict[str, dict[str, Any]] = {}
    norms: dict[str, int] = {}
    for node in own:
        if node.op != "call_module":
            continue
        module = root.get_submodule(str(node.target))
        if node in matches and isinstance(module, ConvNd):
            extras[str(node.target)] = conv_extras(module)
        elif type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            norms[str(node.target)] = _rank(module)
    kernels = {match.site.kernel_size for match in matches.values() if match.reads_pool}
    snapshots = {node.name: Snapshot.of(node) for node in own}
    return Before(
        root=root,
        own=tuple(own),
        outside=tuple(outside),
        nodes=snapshots,
        readers={reader.name: graph.places(reader, snapshots.keys()) for reader in outside},
        orders={node.name: str(match.order) for node, match in matches.items()},
        kernels={node.name: list(match.site.kernel_size) for node, match in matches.items()},
        extents={name: list(kernel) for name in pools for kernel in kernels if len(kernels) == 1},
        conv_extras=extras,
        batch_norms=norms,
        graph=graph,
    )


def _rank(module: nn.Module) -> int:
    return int(type(module).__name__[-2])


def known_extents(records: Iterable[Record], nodes: Nodes) -> dict[str, tuple[int, ...]]:
    """Extents of pools that an earlier rewrite of this graph knew, where it still stands."""
    return {
        name: tuple(extents)
        for entry in records
        if stands(entry, nodes)
        for name, extents in entry.extents.items()
    }


def by_sites(records: Iterable[Record]) -> dict[frozenset[str], list[Record]]:
    """The records by the sites that they speak of."""
    found: dict[frozenset[str], list[Record]] = {}
    for entry in records:
        found.setdefault(frozenset(entry.sites), []).append(entry)
    return found


def find(
    records: Mapping[frozenset[str], Sequence[Record]], sites: Iterable[str], nodes: Nodes, to: Form
) -> Record | None:
    """The record of the edit that made exactly these sites of ``to`` and still stands, or None."""
    candidates = [entry for entry in records.get(frozenset(sites), ()) if entry.origin is to]
    return next((entry for entry in candidates if stands(entry, nodes)), None)


def store(module: GraphModule, records: Iterable[Record]) -> None:
    """Keeps records on a GraphModule, where deepcopy and pickling carry them along."""
    data = [entry.to_data() for entry in records]
    module.meta[ATTRIBUTE] = data
    setattr(module, ATTRIBUTE, data)


def load(module: nn.Module) -> tuple[Record, ...]:
    """The records kept on a GraphModule; what any other module has under these names is its own."""
    if not isinstance(module, GraphModule):
        return ()
    data = module.meta.get(ATTRIBUTE) or getattr(module, ATTRIBUTE, None) or ()
    return tuple(Record.from_data(entry) for entry in data)


def stands(entry: Record, nodes: Nodes) -> bool:
    """Whether a graph is still as an edit left it, so that the edit can be taken back."""
    after = {spec.name: spec for spec in entry.after}
    if not all(name in nodes and spec.is_like(nodes[name]) for name, spec in after.items()):
        return False
    if not all(reader.is_as_left(nodes) for reader in entry.readers):
        return False
    erased = {spec.name for spec in entry.before if spec.name not in after}
    needed = {name for spec in entry.before for name in (*spec.inputs, spec.previous) if name}
    if any(name in nodes for name in erased) or not all(name in nodes or name in erased for name in needed):
        return False
    known = {*after, *(reader.name for reader in entry.readers)}
    return all(user.name in known for name in entry.inserted for user in nodes[name].users)


def _is_out_of_place(
    old: Snapshot, new: Snapshot, kept: Mapping[str, Snapshot], now: Mapping[str, Snapshot]
) -> bool:
    """Whether a node itself moved, and not merely its neighbour came, went or moved."""
    if new.previous == old.previous:
        return False
    previous = new.previous
    while previous in now and previous not in kept:
        previous = now[previous].previous
    wanted = old.previous
    while wanted in kept and wanted not in now:
        wanted = kept[wanted].previous
    return previous != wanted


def _only_inputs_changed(old: Spec, new: Spec | None) -> bool:
    return (
        new is not None
        and (new.op, new.target) == (old.op, old.target)
        and len(new.inputs) == len(old.inputs)
    )


def _name(target: Any) -> str | None:
    """The name of a function that a record can keep; an ATen overload by its own."""
    if isinstance(target, OpOverload):
        return str(target) if aten.name_of(target) else None
    return _FUNCTION_NAMES.get(target)


def _function(name: str) -> Any:
    if not name.startswith("aten."):
        return _FUNCTIONS[name]
    _, packet, overload = name.split(".")
    return getattr(getattr(torch.ops.aten, packet), overload)


def _set_inputs(node: Node, inputs: Iterable[str], nodes: Mapping[str, Node]) -> None:
    if _flat_inputs((node.args, node.kwargs)) is not None:
        node.args = (tuple([nodes[name] for name in inputs]),)
        return
    names = iter(inputs)
    node.args = map_arg(node.args, lambda _: nodes[next(names)])
    node.kwargs = map_arg(node.kwargs, lambda _: nodes[next(names)])


def _inputs(node: Node) -> tuple[str, ...]:
    return _names_in((node.args, node.kwargs))


def _names_in(arguments: Any) -> tuple[str, ...]:
    sources = _flat_inputs(arguments)
    if sources is not None:
        return tuple([source.name for source in sources])
    names: list[str] = []

    def visit(source: Node) -> Node:
        names.append(source.name)
        return source

    map_arg(arguments, visit)
    return tuple(names)


def _flat_inputs(arguments: Any) -> tuple[Node, ...] | None:
    """The inputs of an output that is a tuple of nodes and may read thousands; None for any other node."""
    args, kwargs = arguments
    sources = args[0] if len(args) == 1 and not kwargs else None
    return sources if type(sources) is tuple and {*map(type, sources)} == {Node} else None


def _encode(value: Any) -> Any:
    """Arguments as plain data, or None where they hold anything but nodes, numbers and containers."""
    if type(value) in _PLAIN:
        return {"value": value}
    if isinstance(value, Node):
        return {"node": value.name}
    parts: Any
    if isinstance(value, (tuple, list)):
        if hasattr(value, "_fields"):
            return None
        parts = [_encode(part) for part in value]
        return None if None in parts else {"tuple" if isinstance(value, tuple) else "list": parts}
    if isinstance(value, dict):
        parts = {name: _encode(part) for name, part in value.items()}
        return None if None in parts.values() else {"dict": parts}
    if value is ...:
        return {"ellipsis": True}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, slice):
        parts = [_encode(part) for part in (value.start, value.stop, value.step)]
        return None if None in parts else {"slice": parts}
    return None


def _decode(data: Any, nodes: Mapping[str, Node]) -> Any:
    ((kind, content),) = data.items()
    if kind == "node":
        return nodes[content]
    if kind == "ellipsis":
        return ...
    if kind == "value":
        return content
    if kind == "dtype":
        return getattr(torch, content)
    if kind == "slice":
        return slice(*(_decode(part, nodes) for part in content))
    if kind == "dict":
        return {name: _decode(part, nodes) for name, part in content.items()}
    parts = [_decode(part, nodes) for part in content]
    return tuple(parts) if kind == "tuple" else parts
