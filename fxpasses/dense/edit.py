"""Moves a pool below the head that it commutes with, and back above it.

One pool at a time. Where several values leave the head (two logits heads, features that are returned
as well) each of them gets a pool of its own; the node that was there is used again for the first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from torch.fx import Node

from fxpasses.dense.find import CommutingHead, Dense, head_of, readers_of
from fxpasses.engine import undo
from fxpasses.engine.edit import erase_unread, redirect
from fxpasses.engine.fake_values import recompute
from fxpasses.engine.match import Match
from fxpasses.errors import InternalError
from fxpasses.heads.analysis import Analysis
from fxpasses.heads.cancel import has_own_module
from fxpasses.heads.component import take_rank
from fxpasses.report import Form
from fxpasses.vocabulary.ops import POOLS, VIEWS, Elementwise, Reduce, Unsqueeze
from fxpasses.vocabulary.sizes import reads_only_batch
from fxpasses.vocabulary.writer import Writer, dialect_of
from fxpasses.weights.move import WeightOrder


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sunk:
    """What a move did.

    Attributes:
        record: how it can be taken back, or None.
        maps: the values before the pools that are the logits' maps.
    """

    record: undo.Record | None
    maps: tuple[Node, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Lift:
    """Ops on the flat logits that go above the view which flattens them."""

    above: Node
    view: Node
    ops: tuple[Node, ...]


def sink(analysis: Analysis, start: Node, matches: Mapping[Node, Match]) -> Sunk:
    """Moves the pools from ``start`` on below the sites ``matches`` and the affine ops around them."""
    return _Sinking(analysis, start, matches).run()


class _Sinking:
    def __init__(self, analysis: Analysis, start: Node, matches: Mapping[Node, Match]) -> None:
        self.graph = start.graph
        self.root = analysis.vocabulary.root
        self.analysis = analysis
        self.values = analysis.region.values
        self.head: CommutingHead = head_of(start, analysis, frozenset(matches))
        self.sites = {node: match for node, match in matches.items() if node in self.head.crossed}
        first = analysis.vocabulary.classify(self.head.pools[0])
        assert isinstance(first, (*POOLS, Unsqueeze))
        self.source = first.source
        self.idle: list[Node] = []
        self.crossed = self._crossed()
        self.lifts = [lift for node in self.crossed if (lift := self._lift(node)) is not None]
        self.new: list[Node] = []

    def run(self) -> Sunk:
        pools = self.head.pools
        lifted = [node for lift in self.lifts for node in (lift.view, *lift.ops)]
        own = {*pools, *self.crossed, *self.idle, *lifted}
        before = undo.write_down(self.root, own, self.sites, [node.name for node in pools])
        erased = self._pass_by_idle_views()
        for lift in self.lifts:
            self._carry_out(lift)
        maps = self._move()
        recompute({*own, *self.new} - erased)
        moved = {node.name for node in (*pools, *(lift.view for lift in self.lifts))}
        record = before.record(self.new, Form.CONV, Form.DENSE, erased=erased, moved=moved)
        return Sunk(record=record, maps=maps)

    def _crossed(self) -> list[Node]:
        """What goes above the pool: the way to the sites, and the affine ops that follow them."""
        chosen: set[Node] = set()
        for node in reversed(self.head.crossed):
            if node in self.sites or any(user in chosen for user in node.users):
                chosen.add(node)
        self.idle = sorted(node for node in chosen if isinstance(self.head.crossed[node].op, VIEWS))
        chosen.difference_update(self.idle)
        read = [view for view in self.idle if not chosen.isdisjoint(view.users)]
        layouts = [self.head.crossed[view].layout for view in read]
        if not chosen or not all(layout is not None and layout.is_map for layout in layouts):
            raise InternalError(f"views between a pool and its convolution: {self.idle}")
        for node, value in self.head.crossed.items():
            pooled = [source for source in node.all_input_nodes if source in self.values]
            pooled = [self._awake(source) for source in pooled]
            follows = any(source in chosen for source in pooled)
            if follows and not isinstance(value.op, VIEWS) and self.head.pools[-1] not in pooled:
                chosen.update([node] if all(source in chosen for source in pooled) else [])
        return [node for node in self.head.crossed if node in chosen]

    def _awake(self, node: Node) -> Node:
        """What an idle view is a view of: a map of one position, taken whole."""
        while node in self.idle:
            node = node.all_input_nodes[0]
        return node

    def _pass_by_idle_views(self) -> set[Node]:
        """Lets what goes above the pool read no idle view, and gives those that nobody else reads: erased."""
        inside = set(self.crossed)
        redirect(
            {view: (self._awake(view), [user for user in view.users if user in inside]) for view in self.idle}
        )
        return erase_unread(self.graph, self.idle, lambda view: True)

    def _lift(self, node: Node) -> _Lift | None:
        """The ops after the view that alone reads a crossed value, where they are affine as well."""
        view = _only_reader(node)
        if view is None or view not in self.head.crossed:
            return None
        value = self.head.crossed[view]
        is_flat = value.layout is not None and value.layout.order is WeightOrder.CHANNELS_FIRST
        if not isinstance(value.op, VIEWS) or not is_flat:
            return None
        ops: list[Node] = []
        last = view
        while (reader := _only_reader(last)) is not None and self._can_rise(reader, last):
            ops.append(reader)
            last = reader
        return _Lift(above=node, view=view, ops=tuple(ops)) if ops else None

    def _can_rise(self, node: Node, source: Node) -> bool:
        value = self.head.crossed.get(node)
        if value is None or not isinstance(value.op, Elementwise):
            return False
        if [other for other in node.all_input_nodes if other in self.values] != [source]:
            return False
        return has_own_module(value, self.analysis.vocabulary)

    def _carry_out(self, lift: _Lift) -> None:
        first, last = lift.ops[0], lift.ops[-1]
        for user in list(last.users):
            user.replace_input_with(last, lift.view)
        first.replace_input_with(lift.view, lift.above)
        lift.view.replace_input_with(lift.above, last)
        last.append(lift.view)
        layout = self.values[lift.above].layout
        assert layout is not None, "only values with a layout are crossed"
        writer = Writer(self.graph, dialect_of(next(iter(self.sites))))
        for node in lift.ops:
            take_rank(self.head.crossed[node], self.values, self.analysis.vocabulary, writer, layout.rank)
        self.new.extend(writer.written)
        self.crossed.extend(lift.ops)

    def _move(self) -> tuple[Node, ...]:
        pools, inside = self.head.pools, set(self.crossed)
        for user in list(pools[-1].users):
            if user in inside or reads_only_batch(user):
                user.replace_input_with(pools[-1], self.source)
        leaving = {
            node: [user for user in node.users if user not in inside and not reads_only_batch(user)]
            for node in sorted(inside)
        }
        exits = [node for node, readers in leaving.items() if readers]
        is_free = not pools[-1].users
        changes: dict[Node, tuple[Node, list[Node]]] = {}
        for node in reversed(exits):  # the pools themselves go last, so that the others are copies of them
            last = self._again(node) if is_free and node is exits[0] else self._copied(node)
            changes[node] = (last, leaving[node])
        redirect(changes)
        return self._maps(exits)

    def _again(self, node: Node) -> Node:
        """The pools themselves after ``node``; gives the last."""
        self.head.pools[0].replace_input_with(self.source, node)
        for pool in self.head.pools:
            node.append(pool)
            node = pool
        return node

    def _copied(self, node: Node) -> Node:
        """Copies of the pools after ``node``; gives the last."""
        copies = {self.source: node}
        for pool in self.head.pools:
            with self.graph.inserting_after(node):
                node = self.graph.node_copy(pool, lambda other: copies.get(other, other))
            copies[pool] = node
            self.new.append(node)
        return node

    def _maps(self, exits: Sequence[Node]) -> tuple[Node, ...]:
        """The values that hold logits: a site is above each, and none below."""
        inside = sorted(self.crossed)
        fed: set[Node] = set()
        for node in inside:
            if node in self.sites or any(source in fed for source in node.all_input_nodes):
                fed.add(node)
        feeds: set[Node] = set()
        for node in reversed(inside):
            if any(user in feeds or user in self.sites for user in node.users):
                feeds.add(node)
        return tuple(node for node in exits if node in fed and node not in feeds)


def rise(head: Dense, analysis: Analysis) -> undo.Record | None:
    """Moves the pool of a dense head above its first site, and gives what takes that back."""
    top, bottom, pool = head.crossed[0], head.crossed[-1], head.pool
    value = analysis.region.values[pool]
    source = head.matches[0].op.source
    matches = {match.node: match for match in head.matches}
    before = undo.write_down(analysis.vocabulary.root, {*head.crossed, pool}, matches, [pool.name])
    reading = list(pool.users)
    pool.replace_input_with(bottom, source)
    top.prepend(pool)
    top.replace_input_with(source, pool)
    result, writer = bottom, Writer(pool.graph, dialect_of(head.matches[0].node))
    if isinstance(value.op, Reduce) and not value.op.keepdim:
        _keep_axes(pool)
        recompute([pool, *head.crossed])
        result = writer.flatten(bottom, head.matches[-1].site.out_features)
    for user in reading:
        user.replace_input_with(pool, result)
    recompute([pool, *head.crossed, *writer.written])
    return before.record(writer.written, Form.DENSE, Form.CONV)


def _keep_axes(pool: Node) -> None:
    args = list(pool.args)
    if len(args) > 2:
        args[2] = True
        pool.args = tuple(args)
    else:
        pool.kwargs = {**pool.kwargs, "keepdim": True}


def _only_reader(node: Node) -> Node | None:
    readers = readers_of(node)
    return readers[0] if len(readers) == 1 else None
