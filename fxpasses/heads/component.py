"""The only code that edits a graph: carries out what ``cancel`` decided, and can take it back.

One component (a head, a squeeze-excite branch) is edited at a time. New views are written the way the
author wrote those that died, so that ``x.view(x.size(0), -1)`` stays that. Before the edit the component
is written down (``undo``); rewriting it back restores exactly that where nothing was changed meanwhile,
and goes by the algebra where something was.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn
from torch.fx import Graph, Node

from fxpasses.engine import undo
from fxpasses.engine.edit import (
    Edit,
    as_rewrites,
    erase_unread,
    redirect,
    restore,
    saved_moves,
)
from fxpasses.engine.fake_values import put, refresh
from fxpasses.engine.match import Match
from fxpasses.engine.reshape import reshape, swap_batch_norm
from fxpasses.graph import provenance
from fxpasses.heads.analysis import Analysis
from fxpasses.heads.cancel import Moves, component, decide, is_wanted, view_source
from fxpasses.heads.layout import Layout
from fxpasses.heads.region import PooledValue, Region, constant_operands
from fxpasses.plan import WeightPlan
from fxpasses.report import Form
from fxpasses.vocabulary import aten
from fxpasses.vocabulary.ops import Elementwise, Flatten, Reduce, View
from fxpasses.vocabulary.questions import needs_strides
from fxpasses.vocabulary.sizes import is_shape_value, reads_only_batch, size_of, with_sizes
from fxpasses.vocabulary.vocabulary import Vocabulary
from fxpasses.vocabulary.writer import Dialect, Writer, dialect_of
from fxpasses.weights.move import WeightOrder


def apply(
    graph: Graph,
    root: nn.Module,
    analysis: Analysis,
    to: Form,
    records: Sequence[undo.Record],
    nodes: undo.Nodes,
) -> Edit:
    """Rewrites every match of the other form in ``graph`` and ``root``, in place.

    ``analysis`` has to be that of exactly this graph; ``nodes`` are kept true.

    Returns:
        The rewrites, the weight plan, and the records for the way back.
    """
    matches = {match.node: match for match in analysis.matches if match.site.form is not to}
    pending = dict(matches)
    known = undo.by_sites(records)
    edits: list[_ComponentEdit] = []
    while pending:
        members = component(analysis.region, next(iter(pending)))
        chosen = [pending.pop(node) for node in sorted(members & pending.keys())]
        edit = _ComponentEdit(analysis, members, chosen, to)
        edit.record = undo.find(known, edit.names, nodes, to)
        edits.append(edit)
        edit.prepare(nodes)
        matches |= edit.matches
    reshaped = reshape(root, analysis.uses, matches.values(), to)
    restore(graph, root, [edit.record for edit in edits if edit.record is not None], nodes)
    new = [edit for edit in edits if edit.record is None]
    redirect(dict(change for edit in new for change in edit.respell()))
    made = [record for edit in new if (record := edit.finish()) is not None]
    for edit in edits:
        if edit.record is not None:
            restored = {nodes[spec.name] for spec in edit.record.before}
            kept_values = {node for node in edit.values if nodes.get(node.name) is node}
            edit.refresh(restored | kept_values, edited=restored)
    names = {name for edit in edits for name in edit.names}
    return Edit(
        rewrites=as_rewrites(matches.values(), to, reshaped.copied),
        plan=WeightPlan(to=to, moves=saved_moves(root, reshaped.moves)),
        records=(*(entry for entry in records if not _is_replaced(entry, names)), *made),
    )


def _is_replaced(record: undo.Record, names: set[str]) -> bool:
    """Whether a record of the same two forms speaks of sites that are edited again."""
    return {record.origin, record.to} == {Form.LINEAR, Form.CONV} and not names.isdisjoint(record.sites)


class _ComponentEdit:
    """The edit of one component."""

    def __init__(self, analysis: Analysis, members: frozenset[Node], matches: list[Match], to: Form) -> None:
        self.graph = matches[0].node.graph
        self.root = analysis.vocabulary.root
        self.to = to
        self.names = [match.site.node for match in matches]
        self.matches = {match.node: match for match in matches}
        self.vocabulary = analysis.vocabulary
        self.values = {node: analysis.region.values[node] for node in sorted(members)}
        self.region = Region(values=self.values)
        self.wanted: dict[Node, Node] = {}
        self.originals: dict[Node, Node] = {}
        self.spares: list[Node] = []
        self.reused: list[Node] = []
        self.batch = next((value.layout.batch for value in self.values.values() if value.layout), None)
        self.writer = Writer(self.graph, dialect_of(next(iter(self.matches))), self.batch)
        self.moves: Moves | None = None
        self.transposes: list[Node] = []
        self.known = self._known_values()
        self.before: undo.Before | None = None
        self.record: undo.Record | None = None

    def prepare(self, nodes: undo.Nodes) -> None:
        """Decides what moves and writes the component down; edits nothing."""
        if self.record is not None:
            self.matches = {node: _recorded(match, self.record) for node, match in self.matches.items()}
            return
        self.moves = decide(self.region, self.vocabulary, frozenset(self.matches), self.to)
        self.transposes = [node for match in self.matches.values() for node in match.transposes()]
        own = {*with_sizes(self.values), *self.transposes}
        pools = dict.fromkeys(value.pool.name for value in self.values.values())
        self.before = undo.write_down(self.root, own, self.matches, pools, read=self.values, graph=nodes)

    def respell(self) -> Iterator[tuple[Node, tuple[Node, list[Node]]]]:
        """Gives the sites their form, and says what has to be read instead of what."""
        assert self.moves is not None
        self.spares = [node for node in self.values if node in self.moves.dead and self._is_spare(node)]
        self._respell_sites()
        readers = {node: self._staying_readers(node) for node in self.values if node in self.moves.moved}
        for node in self.values:
            if node in self.moves.bypassed:
                yield node, (self._want(node, None), [*node.users])
        for node, staying in readers.items():
            if staying:
                yield node, (self._original(node), staying)

    def finish(self) -> undo.Record | None:
        """Feeds what moved and erases what nobody reads any more, and gives what takes it all back."""
        assert self.moves is not None
        assert self.before is not None
        for node in self.values:
            if node in self.moves.moved:
                self._feed(node)
        erased = self._bury(self.before.own)
        edited = {*self.moves.moved, *self.reused, *self.writer.written} - erased
        self.refresh(edited, edited=edited)
        origin = Form.LINEAR if self.to is Form.CONV else Form.CONV
        return self.before.record(self.writer.written, origin, self.to, erased=erased)

    def _known_values(self) -> dict[Node, Any]:
        """The ``val`` that a site will have where the view that gave it this form goes away."""
        return {
            node: user.meta["val"]
            for node in self.matches
            for user in node.users
            if "val" in user.meta and self._makes_wanted(user, node)
        }

    def _makes_wanted(self, view: Node, site: Node) -> bool:
        value = self.values.get(view)
        return (
            value is not None and view_source(value, self.region) is site and is_wanted(value.layout, self.to)
        )

    def refresh(self, nodes: Iterable[Node], edited: set[Node]) -> None:
        """Makes the ``val`` of ``nodes`` true again, where the graph is an ATen graph."""
        if self.writer.dialect is Dialect.TORCH:
            return
        changed: set[Node] = set()
        for node in sorted(nodes):
            if node not in edited and changed.isdisjoint(node.all_input_nodes):
                continue
            if node in self.known:
                put(node, self.known[node])
                changed.add(node)
                continue
            try:
                is_changed = refresh(node, self.vocabulary.classify)
            except (RuntimeError, ValueError):
                if not needs_strides(node):
                    raise
                refresh(self.writer.copied(node), self.vocabulary.classify)
                is_changed = refresh(node, self.vocabulary.classify)
            if is_changed:
                changed.add(node)

    # --- the sites themselves

    def _respell_sites(self) -> None:
        assert self.moves is not None
        for node, value in self.values.items():  # in graph order: what is written gets its name by it
            if node not in self.moves.moved:
                continue
            if node in self.matches and node.op == "call_function":
                match = self.matches[node]
                self.writer.site(node, match.op, match.move, self.to)
            elif node in self.matches:
                continue
            elif isinstance(value.op, Reduce):
                self._turn(node, value.op)
            else:
                take_rank(value, self.values, self.vocabulary, self.writer, self._rank(value))

    def _rank(self, value: PooledValue) -> int:
        """Spatial axes of a value in the form that the sites get."""
        return value.layout.rank if self.to is Form.CONV and value.layout is not None else 0

    def _turn(self, node: Node, op: Reduce) -> None:
        """A reduction with its ``keepdim`` turned, wherever the author wrote it."""
        keepdim = self.to is Form.CONV
        args, kwargs = list(node.args), dict(node.kwargs)
        before = self.values.get(op.source)
        if before is not None and before.layout is not None:  # its operand keeps its axes now, too
            axes = before.layout.axes
            dims = tuple(atom + 2 for dim in op.dims for atom in axes[dim] if isinstance(atom, int))
            if len(args) > 1:
                args[1] = dims
            else:
                kwargs["dim"] = dims
        if len(args) > 2:
            args[2] = keepdim
        elif keepdim:
            kwargs["keepdim"] = True
        else:
            kwargs.pop("keepdim", None)
        node.args, node.kwargs = tuple(args), kwargs

    # --- edges

    def _feed(self, node: Node) -> None:
        """Makes a moved node read the wanted form of its operands."""
        for source in node.all_input_nodes:
            if source in self.values:
                node.replace_input_with(source, self._want(source, self.matches.get(node)))

    def _want(self, node: Node, reader: Match | None) -> Node:
        """The node that holds a value in the wanted form; adds a view where it is not free."""
        assert self.moves is not None
        while True:
            value = self.values[node]
            if node in self.moves.moved or is_wanted(value.layout, self.to):
                if node not in self.moves.bypassed:
                    return node
            source = view_source(value, self.region)
            if source is None or node not in self.moves.free:
                break
            node = source
        if node not in self.wanted:
            self.wanted[node] = self._convert(node, reader)
        return self.wanted[node]

    def _convert(self, node: Node, reader: Match | None) -> Node:
        """A new view of an unmoved value in the wanted form."""
        if self.to is Form.LINEAR:
            return self._flatten_after(node, self.values[node].layout)
        write = self.writer
        assert reader is not None, "only a site reads a value that is not free"
        channels, kernel = reader.channels, reader.site.kernel_size
        if reader.order is WeightOrder.CHANNELS_LAST and any(extent != 1 for extent in kernel):
            split = write.unflatten(node, (*kernel, channels))
            return write.permute(split, (0, len(kernel) + 1, *range(1, len(kernel) + 1)))
        return write.unflatten(node, (channels, *kernel))

    def _staying_readers(self, node: Node) -> list[Node]:
        """The readers of a moved value that need it in the layout that they know."""
        assert self.moves is not None
        moved, dead = self.moves.moved, self.moves.dead  # as one set they would be copied for each value
        return [
            user
            for user in node.users
            if user not in moved
            and user not in dead
            and not aten.is_statistic(user)
            and not reads_only_batch(user)
        ]

    def _original(self, node: Node) -> Node:
        """A moved value in its layout before the rewrite, as a view of the moved one."""
        if node not in self.originals:
            view = self.originals[node] = self._restored_view(node, self.values[node].layout)
            if "val" in node.meta:
                self.known[view] = node.meta["val"]
        return self.originals[node]

    def _restored_view(self, node: Node, layout: Layout | None) -> Node:
        assert layout is not None
        if self.to is Form.CONV:
            if layout.order is WeightOrder.CHANNELS_LAST:
                order = (0, *range(2, layout.rank + 2), 1)
                node = self.writer.permute(node, order)
            return self._flatten_after(node, layout)
        channels = layout.channels
        extents = layout.extents if layout.is_map else (1,) * (len(layout.axes) - 2)
        sizes = [channels or -1, *(extent or -1 for extent in extents)]
        return self.writer.unflatten(node, sizes)

    # --- views

    def _is_spare(self, node: Node) -> bool:
        """Whether a dead view flattens a map in one step, so that its spelling can be used again."""
        op = self.values[node].op
        if isinstance(op, Flatten):
            return op.start == 1 and op.end == -1
        if not isinstance(op, View) or len(op.sizes) != 2 or node.op == "call_module":
            return False
        return _is_batch(op.sizes[0]) or (self.batch is not None and op.sizes[0] == self.batch)

    def _flatten_after(self, node: Node, layout: Layout | None) -> Node:
        """A flatten of ``node``, spelled like one that died where there is one."""
        for spare in self.spares:
            spelled = self._spelled_like(spare, node, layout)
            if spelled is not None:
                self.spares.remove(spare)
                self.reused.append(spare)
                node.append(spare)
                provenance.follow(spare, node)
                spare.args, kwargs = spelled
                if kwargs != spare.kwargs:
                    spare.kwargs = kwargs
                return spare
        return self.writer.flatten(node, layout.features if layout is not None else None)

    def _spelled_like(self, spare: Node, node: Node, layout: Layout | None) -> Any:
        """Arguments of a dead flatten for another operand, or None where they do not fit there."""
        op = self.values[spare].op
        kwargs = dict(spare.kwargs)
        name = next((name for name in ("input", "self") if name in kwargs), None)
        if name is not None:
            kwargs[name] = node
        args = spare.args if name is not None else (node, *spare.args[1:])
        if isinstance(op, Flatten):
            return args, kwargs
        assert isinstance(op, View)
        if kwargs or name is not None or not _is_before(op.sizes[0], node):
            return None
        features = layout.features if layout is not None else None
        sizes = (op.sizes[0], -1 if op.sizes[1] == -1 else features)
        if sizes[1] is None or (sizes == (-1, -1)):
            return None
        first = spare.args[1]
        if isinstance(first, (tuple, list)):
            return (node, list(sizes) if isinstance(first, list) else sizes), {}
        return (node, *sizes), {}

    def _bury(self, touched: Sequence[Node]) -> set[Node]:
        """Erases dead views and the sizes that only they read, and gives the erased nodes."""
        assert self.moves is not None
        again = {*self.originals.values(), *self.wanted.values()}
        dead = {*self.moves.dead, *self.transposes}

        def is_dead(node: Node) -> bool:
            return (node in dead or is_shape_value(node)) and node not in again and node.op != "placeholder"

        return erase_unread(self.graph, touched, is_dead)


def take_rank(
    value: PooledValue,
    values: Mapping[Node, PooledValue],
    vocabulary: Vocabulary,
    writer: Writer,
    rank: int,
) -> None:
    """Lets an elementwise op work on values of ``rank`` spatial axes, 0 for ``[N, C]``.

    A batch norm becomes that of the rank. Constants, which have one number for each channel or one for all,
    are laid along the channels.
    """
    node, op = value.node, value.op
    if not isinstance(op, Elementwise):
        return
    if op.module_rank is not None:
        swap_batch_norm(vocabulary.root, str(node.target), rank)
        return
    for source, shape in ({} if op.channels else constant_operands(value, values, vocabulary)).items():
        extents = [extent for extent in shape if extent != 1]
        wanted = (*extents, *(1,) * rank) if extents else (1,) * min(len(shape), 1)
        if shape != wanted and (extents or len(shape) > 1):
            node.replace_input_with(source, writer.reshape(source, [extent or 1 for extent in wanted]))


def _recorded(match: Match, record: undo.Record) -> Match:
    """The match with the kernel that it had before the recorded edit, and the order of its weights."""
    name = match.node.name
    site = dataclasses.replace(match.site, kernel_size=tuple(record.kernels[name]))
    channels = site.in_features // math.prod(site.kernel_size)
    return dataclasses.replace(match, site=site, channels=channels, order=WeightOrder(record.orders[name]))


def _is_batch(size: Any) -> bool:
    if isinstance(size, Node):
        owner = size_of(size)
        return owner is not None and owner[1] == 0
    return bool(size == -1)


def _is_before(size: Any, node: Node) -> bool:
    """Whether a size is computed before ``node``, so that a view after ``node`` may use it."""
    return not isinstance(size, Node) or size < node
