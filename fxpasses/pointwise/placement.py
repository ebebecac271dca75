"""Decides in which order each value of a frame is held, so that there are as few permutes as can be.

Sites need an order, opaque ops read and write the author's, and everything in between is free; every value
costs one permute for each other order in which anyone reads it. That is a minimum cut between the two
orders. Where several placements have equally many permutes, fewest values leave the author's order.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator

from torch.fx import Node

from fxpasses.pointwise.frames import Frame, Order, is_constant
from fxpasses.vocabulary.sizes import is_shape_value, reads_only_batch
from fxpasses.vocabulary.vocabulary import Vocabulary

_ENDLESS = 1 << 60


def place(frame: Frame, vocabulary: Vocabulary) -> dict[Node, Order]:
    """The order in which each value of the frame is held."""
    cut = Cut()
    points = {node: cut.point() for node in (*frame.sites, *frame.crossed)}
    sides = {frame.pair[0]: cut.FIRST, frame.pair[1]: cut.SECOND}
    permute = 3 * len(points) + 1
    for node, order in frame.sites.items():
        cut.force(points[node], sides[order])
    for node in frame.crossed:
        cut.prefer(points[node], sides[frame.orders[node]], 1 + _constants(node, frame, vocabulary))
    for node in frame.values():
        readers = [
            points[reader] if order is None else sides[order]
            for reader, order in _demands(node, frame)
            if order is None or order in sides
        ]
        if node in points:
            cut.charge(points[node], readers, permute)
        elif frame.orders[node] in sides:
            cut.charge(sides[frame.orders[node]], readers, permute)
        else:
            cut.charge(cut.FIRST, readers, permute)
            cut.charge(cut.SECOND, readers, permute)
    first = cut.first_side()
    held = {node: frame.pair[0 if point in first else 1] for node, point in points.items()}
    return {node: held.get(node, frame.orders[node]) for node in frame.values()}


def reader_order(reader: Node, member: Node, frame: Frame) -> Order | None:
    """The order in which a reader needs a member, None where it follows its own."""
    if (reader in frame.sites and reader not in frame.apart) or reader in frame.crossed:
        return None
    return frame.orders[member]


def is_indifferent(reader: Node, member: Node, frame: Frame) -> bool:
    """Whether a reader reads the batch size alone, which is the first axis in every order here."""
    first = frame.orders[member][0]
    return (
        is_shape_value(reader) and reads_only_batch(reader) and all(order[0] == first for order in frame.pair)
    )


def _demands(node: Node, frame: Frame) -> Iterator[tuple[Node, Order | None]]:
    """What reads a value, by way of permutes too, and the order that it needs."""
    pending = [node]
    while pending:
        member = pending.pop()
        for reader in member.users:
            if reader in frame.permuted and frame.permuted[reader] is member:
                pending.append(reader)
            elif not is_indifferent(reader, member, frame):
                yield reader, reader_order(reader, member, frame)


def _constants(node: Node, frame: Frame, vocabulary: Vocabulary) -> int:
    """Whether an op has a constant operand, of which another order needs a view."""
    rank = len(frame.orders[node])
    return any(is_constant(source, rank, vocabulary) for source in node.all_input_nodes)


class Cut:
    """A minimum cut: points between a first and a second side; arcs say what it costs to separate them."""

    FIRST, SECOND = 0, 1

    def __init__(self) -> None:
        self._room: collections.Counter[tuple[int, int]] = collections.Counter()
        self._count = 2

    def point(self) -> int:
        """A new point."""
        self._count += 1
        return self._count - 1

    def force(self, point: int, side: int) -> None:
        """Puts a point on a side."""
        self.prefer(point, side, _ENDLESS)

    def prefer(self, point: int, side: int, cost: int) -> None:
        """Makes the other side cost something."""
        self._room[(self.FIRST, point) if side == self.FIRST else (point, self.SECOND)] += cost

    def charge(self, value: int, readers: list[int], cost: int) -> None:
        """``cost`` where any reader is on another side than ``value``, once however many they are."""
        if not readers:
            return
        forwards, backwards = self.point(), self.point()
        self._room[value, forwards] += cost
        self._room[backwards, value] += cost
        for reader in readers:
            self._room[forwards, reader] += _ENDLESS
            self._room[reader, backwards] += _ENDLESS

    def first_side(self) -> set[int]:
        """The points on the first side of a cut that costs least; of several cuts, the fewest points."""
        import networkx  # it comes with torch, which does not import it until it needs it

        graph = networkx.DiGraph()
        graph.add_nodes_from((self.FIRST, self.SECOND))
        # every arc turned round: networkx gives the fewest points to the side that the flow goes to
        graph.add_weighted_edges_from(
            ((head, tail, room) for (tail, head), room in self._room.items()), weight="capacity"
        )
        _, (_, first) = networkx.minimum_cut(
            graph, self.SECOND, self.FIRST, flow_func=networkx.algorithms.flow.boykov_kolmogorov
        )
        return set(first)
