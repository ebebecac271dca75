"""A minimum cut: which of two labels each value of a graph gets, where disagreeing readers cost something."""

from __future__ import annotations

import collections

_ENDLESS = 1 << 60


class Cut:
    """Points between a first and a second side; arcs say what it costs to separate them."""

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
