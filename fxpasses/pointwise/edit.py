"""The engine's half for ``pointwise`` sites: values held in another order of their axes.

One frame at a time. Sites and elementwise ops read the order that they were given, every other reader the
author's, and what is read in an order in which it is not held gets a permute, one for all its readers. An
author's permute stays where it still gives what is read, and is erased where nobody reads it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from torch import nn
from torch.fx import Graph, Node

from fxpasses.engine import undo
from fxpasses.engine.edit import Edit, as_rewrites, erase_unread, restore, saved_moves
from fxpasses.engine.fake_values import recompute
from fxpasses.engine.match import Match
from fxpasses.engine.reshape import conv_extras, reshape
from fxpasses.heads.analysis import Analysis
from fxpasses.plan import WeightPlan
from fxpasses.pointwise.frames import (
    UNIT,
    Frame,
    Frames,
    Order,
    between,
    constant_extents,
    is_constant,
    reached,
    wanted_by,
)
from fxpasses.pointwise.placement import is_indifferent, place, reader_order
from fxpasses.pointwise.respell import flatten_norms, respell_views
from fxpasses.report import Form
from fxpasses.vocabulary.sizes import is_shape_value, value_of
from fxpasses.vocabulary.vocabulary import Vocabulary
from fxpasses.vocabulary.writer import Dialect, Writer, dialect_of


def apply_everywhere(
    graph: Graph,
    root: nn.Module,
    analysis: Analysis,
    to: Form,
    records: Sequence[undo.Record],
    nodes: undo.Nodes,
) -> Edit:
    """Rewrites every pointwise match of the other form, in place; see ``rewrite.apply``."""
    matches = {match.node: match for match in analysis.matches if match.site.form is not to}
    extras = {
        str(node.target): conv_extras(match.op.module)
        for node, match in matches.items()
        if match.op.module is not None and match.site.form is Form.CONV
    }
    reshaped = reshape(root, analysis.uses, matches.values(), to)
    kept, changed = _take_back(graph, root, records, nodes, matches, to)
    left = {node: match for node, match in matches.items() if node.name not in changed.sites}
    ranks = analysis.ranks
    assert ranks is not None, "pointwise sites are found by their ranks"
    if left and changed.sites:  # the graph is another one by now
        ranks = ranks.after(graph, analysis.vocabulary, changed.nodes)
    made: list[undo.Record] = []
    edited = set(changed.nodes)
    if left and to is Form.CONV:
        flattened = flatten_norms(analysis)
        edited |= flattened.edited
        made.extend([] if flattened.record is None else [flattened.record])
    for frame in Frames(ranks, analysis.vocabulary, left).run() if left else ():
        edit = _FrameEdit(analysis.vocabulary, frame, left, to)
        record = edit.run(extras)
        edited |= edit.edited
        made.extend([] if record is None else [record])
    if left:
        respelled = respell_views(analysis.vocabulary, edited, left, to)
        edited |= respelled.edited
        made.extend([] if respelled.record is None else [respelled.record])
    if edited:
        recompute(edited)
    names = {node.name for node in left}
    return Edit(
        rewrites=as_rewrites(matches.values(), to, reshaped.copied),
        plan=WeightPlan(to=to, moves=saved_moves(root, reshaped.moves)),
        records=(
            *(entry for entry in kept if names.isdisjoint(entry.sites)),
            *(dataclasses.replace(entry, is_pointwise=True) for entry in made),
        ),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _TakenBack:
    """Names of the sites and the nodes that a record restored."""

    sites: set[str]
    nodes: set[Node]


def _take_back(
    graph: Graph,
    root: nn.Module,
    records: Sequence[undo.Record],
    nodes: undo.Nodes,
    matches: Mapping[Node, Match],
    to: Form,
) -> tuple[list[undo.Record], _TakenBack]:
    """Restores every edit of these sites that still stands, the last one first."""
    kept, back = list(records), _TakenBack(set(), set())
    names = {node.name for node in matches}
    pointwise = [entry for entry in records if entry.is_pointwise]
    ours = [entry for entry in pointwise if entry.origin is to and names.issuperset(entry.sites)]
    is_all = all(entry in ours or not names & {*entry.sites} for entry in pointwise)
    for entry in reversed(ours):
        if not (entry.sites or is_all) or not undo.stands(entry, nodes):
            continue
        restore(graph, root, [entry], nodes)
        kept.remove(entry)
        back.sites.update(entry.sites)
        back.nodes.update(nodes[spec.name] for spec in entry.before)
        back.nodes.update(nodes[reader.name] for reader in entry.readers)
    return kept, back


class _FrameEdit:
    """The edit of one frame."""

    def __init__(self, vocabulary: Vocabulary, frame: Frame, matches: Mapping[Node, Match], to: Form) -> None:
        self.graph = next(iter(frame.sites)).graph
        self.root = vocabulary.root
        self.vocabulary = vocabulary
        self.frame = frame
        self.matches = {node: matches[node] for node in frame.sites}
        self.to = to
        self.held = place(frame, vocabulary)
        self.writer = Writer(self.graph, dialect_of(next(iter(frame.sites))))
        self.permutes: dict[tuple[Node, Order], Node] = {}
        self.given: dict[Node, list[Node]] = {}
        for node in frame.permuted:
            self.given.setdefault(frame.origin(node), []).append(node)
        parts = {node for match in self.matches.values() for node in match.transposes()}
        self.parts = {*parts, *frame.permuted, *sizes_of(frame.permuted)}
        self.edited: set[Node] = set()

    def run(self, extras: Mapping[str, dict[str, object]]) -> undo.Record | None:
        """Carries the placement out, and gives what takes it back."""
        frame = self.frame
        dead = {node for node in self.parts if node.users}
        before = undo.write_down(self.root, {*frame.orders, *self.parts}, self.matches)
        paths = [str(node.target) for node in frame.sites if node.op == "call_module"]
        before = dataclasses.replace(
            before, conv_extras={path: extras[path] for path in paths if path in extras}
        )
        for node, match in self.matches.items():
            if node.op == "call_function":
                op = dataclasses.replace(match.op, source=_operand(match))
                self.writer.site(node, op, match.move, self.to)
        for node in frame.orders:
            for reader in list(node.users):
                self._feed(reader, node)
        for node in sorted(frame.apart):
            self._feed_apart(node)
        for node in sorted(frame.crossed):
            if self.held[node] != frame.orders[node]:
                self._turn_constants(node)
        if self.writer.dialect is Dialect.CORE and self.to is Form.LINEAR:
            self._wrap_products()
        # the author's permutes, and what else lost its readers
        erased = erase_unread(self.graph, before.own, dead.__contains__)
        self.edited = ({*frame.sites, *self.edited, *self.writer.written}) - erased
        origin = Form.LINEAR if self.to is Form.CONV else Form.CONV
        return before.record(self.writer.written, origin, self.to, erased=erased)

    def _feed(self, reader: Node, member: Node) -> None:
        """Makes a reader read a member in the order that it needs."""
        frame = self.frame
        if frame.permuted.get(reader) is member:
            return
        origin = frame.origin(member)
        if is_indifferent(reader, member, frame):
            if self.held[origin] != frame.orders[origin]:
                reader.replace_input_with(member, origin)
            return
        wanted = reader_order(reader, member, frame) or self.held[reader]
        source = self._get(origin, wanted, reader)
        if self.held.get(reader, wanted) != frame.orders.get(reader, wanted) or source is not member:
            self.edited.add(reader)
        if source is not member:
            reader.replace_input_with(member, source)

    def _get(self, value: Node, wanted: Order, reader: Node) -> Node:
        """The node that holds a value in an order; a new permute where there is none."""
        held = self.held[value]
        if held == wanted:
            return value
        if held == self.frame.orders[value]:
            for node in self.given.get(value, ()):
                if self.frame.orders[node] == wanted and node < reader:
                    return node
        key = (value, wanted)
        if key not in self.permutes:
            self.permutes[key] = self._permute(value, held, wanted)
        return self.permutes[key]

    def _permute(self, node: Node, held: Order, wanted: Order) -> Node:
        if UNIT in held:
            return self.writer.flatten(node, None)
        if UNIT in wanted:
            return self.writer.unflatten(node, (-1, *(1,) * wanted.count(UNIT)))
        return self.writer.permute(node, between(held, wanted))

    def _feed_apart(self, node: Node) -> None:
        """Turns the operand of a site that has no frame with it."""
        match = self.matches[node]
        order = self.frame.orders[node]
        here = tuple(UNIT if order[axis] == UNIT else axis for axis in range(len(order)))
        here, wanted = wanted_by(match, here)
        source = _operand(match)
        node.replace_input_with(source, self._permute(source, here, wanted))

    def _turn_constants(self, node: Node) -> None:
        """Gives an op that moved its constant operands in the shape that now broadcasts alike."""
        order, rank = self.frame.orders[node], len(self.frame.orders[node])
        for source in node.all_input_nodes:
            known = constant_extents(source, self.vocabulary)
            if known is None or not is_constant(source, rank, self.vocabulary):
                continue
            shape = reached(known, order, self.held[node])
            if math.prod(shape) != 1 and shape != known:
                node.replace_input_with(source, self.writer.reshape(source, shape))

    def _wrap_products(self) -> None:
        """Gives matrix products of a decomposed graph matrices."""
        for node, match in self.matches.items():
            if len(self.held[node]) == 2:
                continue
            value = value_of(match.op.source)
            assert value is not None, "a decomposed graph tells its shapes"
            here, wanted = wanted_by(match, tuple(range(value.ndim)))
            shape = [value.shape[axis] for axis in between(here, wanted)]
            self.writer.wrap(node, _operand(match), shape, match.site.out_features)


def sizes_of(views: Iterable[Node]) -> set[Node]:
    """The sizes that views are made with."""
    found: set[Node] = set()
    pending = list(views)
    while pending:
        for source in pending.pop().all_input_nodes:
            if is_shape_value(source) and source.op != "placeholder" and source not in found:
                found.add(source)
                pending.append(source)
    return found


def _operand(match: Match) -> Node:
    """What a site reads now, after other edits too."""
    weights = (match.op.weight_node, match.op.bias_node, *match.transposes())
    return next(source for source in match.node.all_input_nodes if source not in weights)
