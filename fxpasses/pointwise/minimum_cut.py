"""A minimum cut: which of two labels each value of a graph gets, where disagreeing readers cost something.

Source: Dinic, *Algorithm for solution of a problem of maximum flow in networks with power estimation* (1970).
"""

from __future__ import annotations

_ENDLESS = 1 << 60


class Cut:
    """Points between a first and a second side; arcs say what it costs to separate them."""

    FIRST, SECOND = 0, 1

    def __init__(self) -> None:
        self._arcs: list[list[int]] = [[], []]  # outgoing arcs of each point, by number
        self._heads: list[int] = []
        self._room: list[int] = []

    def point(self) -> int:
        """A new point."""
        self._arcs.append([])
        return len(self._arcs) - 1

    def force(self, point: int, side: int) -> None:
        """Puts a point on a side."""
        if side == self.FIRST:
            self._arc(self.FIRST, point, _ENDLESS)
        else:
            self._arc(point, self.SECOND, _ENDLESS)

    def prefer(self, point: int, side: int, cost: int) -> None:
        """Makes the other side cost something."""
        if side == self.FIRST:
            self._arc(self.FIRST, point, cost)
        else:
            self._arc(point, self.SECOND, cost)

    def charge(self, value: int, readers: list[int], cost: int) -> None:
        """``cost`` where any reader is on another side than ``value``, once however many they are."""
        if not readers:
            return
        forwards, backwards = self.point(), self.point()
        self._arc(value, forwards, cost)
        self._arc(backwards, value, cost)
        for reader in readers:
            self._arc(forwards, reader, _ENDLESS)
            self._arc(reader, backwards, _ENDLESS)

    def first_side(self) -> set[int]:
        """The points on the first side of a cut that costs least."""
        while True:
            levels = self._levels()
            if levels[self.SECOND] < 0:
                return {point for point, level in enumerate(levels) if level >= 0}
            tried = [0] * len(self._arcs)
            while self._push(levels, tried):
                pass

    def _arc(self, tail: int, head: int, room: int) -> None:
        for point, other, size in ((tail, head, room), (head, tail, 0)):
            self._arcs[point].append(len(self._heads))
            self._heads.append(other)
            self._room.append(size)

    def _levels(self) -> list[int]:
        """How many arcs with room each point is away from the first side, -1 where it cannot be reached."""
        levels = [-1] * len(self._arcs)
        levels[self.FIRST] = 0
        pending = [self.FIRST]
        for point in pending:
            for arc in self._arcs[point]:
                head = self._heads[arc]
                if self._room[arc] and levels[head] < 0:
                    levels[head] = levels[point] + 1
                    pending.append(head)
        return levels

    def _push(self, levels: list[int], tried: list[int]) -> bool:
        """Sends as much as fits along one shortest way to the second side; whether there was one."""
        way: list[int] = []
        point = self.FIRST
        while point != self.SECOND:
            arc = self._next(point, levels, tried)
            if arc is not None:
                way.append(arc)
                point = self._heads[arc]
            elif way:
                point = self._heads[way.pop() ^ 1]
                tried[point] += 1
            else:
                return False
        amount = min(self._room[arc] for arc in way)
        for arc in way:
            self._room[arc] -= amount
            self._room[arc ^ 1] += amount
        return True

    def _next(self, point: int, levels: list[int], tried: list[int]) -> int | None:
        arcs = self._arcs[point]
        for index in range(tried[point], len(arcs)):
            arc = arcs[index]
            if self._room[arc] and levels[self._heads[arc]] == levels[point] + 1:
                tried[point] = index
                return arc
        tried[point] = len(arcs)
        return None
