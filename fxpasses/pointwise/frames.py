"""Which values of a graph share their axes, so that they can be held in another order together.

The algebra of ``pointwise`` sites. A *frame* joins values by the ops that do not care for the order of axes
(elementwise ops, dropout, residual sums), by the permutes that the author wrote, and by the sites themselves.
All axes of a frame have one numbering, so that an *order* says how any of its values lies in memory; a
permute between two members is then no op but a difference of orders, and cancels where both are held alike.
Each site needs one of two orders: channels first for a convolution, channels last for a Linear.

A vector ``[N, C]`` takes part as well: channels first it is ``[N, C, 1]`` or ``[N, C, 1, 1]``, with ``UNIT``
for the axes of one position.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from torch.fx import Node

from fxpasses.engine.match import Match
from fxpasses.engine.ranks import Ranks
from fxpasses.engine.refusals import has_hooks
from fxpasses.report import Form
from fxpasses.vocabulary.constants import constant_of
from fxpasses.vocabulary.handlers import MAX_RANK
from fxpasses.vocabulary.ops import Elementwise, Flatten, Permute, Unflatten, View
from fxpasses.vocabulary.questions import Wrapped, wrapped
from fxpasses.vocabulary.sizes import is_shape_value, value_of
from fxpasses.vocabulary.vocabulary import Vocabulary

Order: TypeAlias = tuple[int, ...]
Pair: TypeAlias = tuple[Order, Order]

UNIT = -1


@dataclasses.dataclass(slots=True, kw_only=True)
class Frame:
    """Values whose axes have one numbering.

    Attributes:
        pair: the two orders that its sites need or have.
        orders: the order in which the author holds each member, in graph order.
        sites: the order that each site needs.
        crossed: the elementwise ops that can work in either order; those that have a third keep it.
        permuted: what each of the author's permutes permutes.
        apart: the sites whose operand could not join them, and is read as the author holds it.
    """

    pair: Pair
    orders: dict[Node, Order] = dataclasses.field(default_factory=dict)
    sites: dict[Node, Order] = dataclasses.field(default_factory=dict)
    crossed: set[Node] = dataclasses.field(default_factory=set)
    permuted: dict[Node, Node] = dataclasses.field(default_factory=dict)
    apart: set[Node] = dataclasses.field(default_factory=set)

    def values(self) -> Iterator[Node]:
        """The members that are no permutes."""
        return (node for node in self.orders if node not in self.permuted)

    def origin(self, node: Node) -> Node:
        """What a member is a permute of, or itself."""
        while node in self.permuted:
            node = self.permuted[node]
        return node


def between(held: Order, wanted: Order) -> Order:
    """The dimensions by which a permute takes a value from one order to another."""
    return tuple(held.index(axis) for axis in wanted)


def reached(shape: Sequence[int], held: Order, wanted: Order) -> tuple[int, ...]:
    """The shape in which a constant that is broadcast against one order is broadcast against another."""
    padded = (*(1,) * (len(held) - len(shape)), *shape)
    extents = {axis: padded[index] for index, axis in enumerate(held)}
    turned = [1 if axis == UNIT else extents[axis] for axis in wanted]
    while len(turned) > 1 and turned[0] == 1:
        del turned[0]
    return tuple(turned)


def wanted_by(match: Match, here: Order) -> Pair:
    """The order that a site has now, and the one that it needs."""
    rank = len(here)
    if match.site.form is Form.CONV:
        return here, (0, 1) if UNIT in here else (0, *here[2:], 1)
    if rank == 2:
        return here, (0, 1, *(UNIT,) * len(match.site.kernel_size))
    return here, (0, here[-1], *here[1:-1])


class Frames:
    """The frames of one graph, joined node by node in its order.

    Args:
        matches: the sites that change form.
    """

    def __init__(self, ranks: Ranks, vocabulary: Vocabulary, matches: Mapping[Node, Match]) -> None:
        self.ranks = ranks
        self.vocabulary = vocabulary
        self.matches = matches
        self._joined: dict[Node, tuple[Node, Order]] = {}
        self._pairs: dict[Node, frozenset[Order]] = {}
        self._permutes: dict[Node, Node] = {}
        self._crossed: set[Node] = set()
        self._sites: dict[Node, Order] = {}
        self._apart: set[Node] = set()
        self._units: dict[Node, int] = {}

    def run(self) -> list[Frame]:
        """Every frame that has a site."""
        for node, op in self.ranks.ops.items():
            rank = self.ranks.axes[node]
            if rank is None or not 2 <= rank <= MAX_RANK + 2:
                continue
            if node in self._permutes:
                continue
            if node in self.matches:
                self._join_site(node, self.matches[node])
            elif isinstance(op, Permute):
                self._join_permute(node, op, rank)
            elif isinstance(op, Elementwise):
                self._join_elementwise(node, op, rank)
            elif isinstance(op, (Flatten, Unflatten, View)):
                self._join_unit_view(node, op)
        return self._frames()

    def _frames(self) -> list[Frame]:
        found = {
            root: Frame(pair=_sorted(pair)) for root, pair in self._pairs.items() if root not in self._joined
        }
        for node in self.ranks.ops:
            if self.ranks.axes[node] is None:
                continue
            root, order = self._find(node)
            frame = found.get(root)
            if frame is None:
                continue
            frame.orders[node] = order or self._here(node)
            if node in self._crossed and frame.orders[node] in frame.pair:
                frame.crossed.add(node)
            if node in self._apart:
                frame.apart.add(node)
            if node in self._permutes:
                frame.permuted[node] = self._permutes[node]
            if node in self._sites:
                frame.sites[node] = tuple(_at(frame.orders[node], axis) for axis in self._sites[node])
        return list(found.values())

    # --- what joins

    def _here(self, node: Node) -> Order:
        """The axes of a value as its author has them."""
        rank = self.ranks.axes[node] or 0
        units = self._units.get(node, 0)
        return (*range(rank - units), *(UNIT,) * units)

    def _join_elementwise(self, node: Node, op: Elementwise, rank: int) -> None:
        operands = self._operands(node, op, rank)
        units = {self._units.get(source, 0) for source in operands}
        if len(units) != 1:
            return
        if count := units.pop():
            self._units[node] = count
        if self._join(node, dict.fromkeys(operands, self._here(node))):
            self._crossed.add(node)

    def _join_unit_view(self, node: Node, op: Flatten | Unflatten | View) -> None:
        """Joins a vector with a map of one position that is a view of it, and the reverse."""
        units = _units_of_view(node, op, self._units.get(op.source, 0))
        axes = self.ranks.axes[op.source]
        if units is None or axes is None or (units and axes != 2):
            return
        if units:
            self._units[node] = units
        if self._join(node, {op.source: (0, 1, *(UNIT,) * units)}):
            self._permutes[node] = op.source

    def _join_site(self, node: Node, match: Match) -> None:
        if self._units.get(match.op.source):
            self._units[node] = self._units[match.op.source]
        pair = wanted_by(match, self._here(node))
        around = wrapped(node, match.op, self.ranks.ops)
        if around is not None and self._join_wrapped(node, match, around):
            return
        source = match.op.source
        is_same = self.ranks.axes[source] == self.ranks.axes[node]
        if not is_same or not self._join(node, {source: pair[0]}, frozenset(pair)):
            self._pairs[node] = frozenset(pair)
            self._apart.add(node)
        self._sites[node] = pair[1]

    def _join_wrapped(self, node: Node, match: Match, around: Wrapped) -> bool:
        """Joins a decomposed Linear with what it reads; the views around it die with it."""
        here, wanted = wanted_by(match, self._here(around.source))
        if not all(user in self.matches for user in around.merged.users):
            return False
        if not self._join(node, {around.source: here}, frozenset((here, wanted))):
            return False
        for view, source in ((around.merged, around.source), *((split, node) for split in around.split)):
            if view not in self._permutes:
                self._join(view, {source: here})
                self._permutes[view] = source
        self._sites[node] = wanted
        return True

    def _join_permute(self, node: Node, op: Permute, rank: int) -> None:
        order = op.order(rank)
        if order is None or self._units.get(op.source):
            return
        if self.ranks.axes[op.source] == rank and self._join(node, {op.source: order}):
            self._permutes[node] = op.source

    def _operands(self, node: Node, op: Elementwise, rank: int) -> list[Node]:
        """The operands of an elementwise op that have its axes; none where it cannot be crossed."""
        module = self.vocabulary.module(str(node.target)) if node.op == "call_module" else None
        if op.channels or (module is not None and has_hooks(module)):
            return []
        found: list[Node] = []
        for source in op.sources:
            if is_constant(source, rank, self.vocabulary) or self.ranks.axes[source] == 0:
                continue
            if self.ranks.axes[source] != rank:
                return []
            found.append(source)
        return found

    # --- values with their axes in the numbering of a root

    def _find(self, node: Node) -> tuple[Node, Order]:
        """The root of a node, and which of the root's axes each of its own is; () for all as they are."""
        way: list[Node] = []
        root = node
        while root in self._joined:
            way.append(root)
            root = self._joined[root][0]
        order: Order = ()
        for member in reversed(way):  # nearest to the root first
            own = self._joined[member][1]
            order = tuple(_at(order, axis) for axis in own) if order else own
            self._joined[member] = (root, order)
        return root, order

    def _join(self, node: Node, operands: Mapping[Node, Order], pair: frozenset[Order] = frozenset()) -> bool:
        """Joins a node with its operands, each given by which of its axes each axis of the node is.

        Nothing is joined where two operands would lie differently, or need other pairs of orders.
        """
        known: dict[Node, Order] = {}
        pairs = {pair} if pair else set()
        for source, dims in operands.items():
            root, order = self._find(source)
            own = tuple(_at(order, axis) for axis in dims)
            if known.setdefault(root, own) != own:
                return False
            if root in self._pairs:
                pairs.add(frozenset(_seen(wanted, own) for wanted in self._pairs[root]))
        if len(pairs) > 1:
            return False
        (root, own), *others = known.items()
        self._joined[node] = (root, own)
        for other, order in others:
            axes = range(len(order) - order.count(UNIT))
            self._joined[other] = (root, tuple(own[order.index(axis)] for axis in axes))
        for wanted in pairs:
            self._pairs[root] = frozenset(tuple(_at(own, axis) for axis in order) for order in wanted)
        return True


def is_constant(node: Node, rank: int, vocabulary: Vocabulary) -> bool:
    """Whether an operand lies along one axis at most, so that a view of it fits any order."""
    if is_shape_value(node):
        return True
    shape = constant_extents(node, vocabulary)
    return shape is not None and len(shape) <= rank and sum(extent != 1 for extent in shape) <= 1


def constant_extents(node: Node, vocabulary: Vocabulary) -> tuple[int, ...] | None:
    """The shape of a parameter or of a view of one, None for every other value."""
    read = constant_of(node, vocabulary)
    return None if read is None else tuple(read.view.shape)


def _units_of_view(node: Node, op: Flatten | Unflatten | View, units: int) -> int | None:
    """How many axes of one position a view leaves behind a vector, None where it is another view."""
    if isinstance(op, Flatten):
        return 0 if units and op.start == 1 and op.end in (-1, units + 1) else None
    if isinstance(op, Unflatten):
        is_split = op.dim in (1, -1) and set(op.sizes[1:]) == {1}
        return len(op.sizes) - 1 if is_split and not units else None
    before, after = value_of(op.source), value_of(node)
    if before is None or after is None or units + 2 != before.ndim:
        return None
    wide, narrow = (after, before) if before.ndim == 2 else (before, after)
    is_same = narrow.ndim == 2 and str(tuple(wide.shape)) == str((*narrow.shape, *(1,) * (wide.ndim - 2)))
    return after.ndim - 2 if is_same and wide.ndim > 2 else None


def _at(order: Order, axis: int) -> int:
    return order[axis] if axis != UNIT and order else axis


def _seen(wanted: Order, own: Order) -> Order:
    """An order of a root's axes by the axes of a member."""
    return tuple(axis if axis == UNIT else own.index(axis) for axis in wanted)


def _sorted(pair: frozenset[Order]) -> Pair:
    first, second = sorted(pair)
    return first, second
