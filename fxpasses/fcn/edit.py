"""Lets a head in the convolution form look at every window of a larger map."""

from __future__ import annotations

from collections.abc import Mapping

from torch.fx import Node

from fxpasses.engine import undo
from fxpasses.engine.edit import erase_unread
from fxpasses.engine.fake_values import recompute
from fxpasses.engine.match import Match
from fxpasses.engine.reshape import swap_batch_norm
from fxpasses.fcn.find import PoolWindow, is_view
from fxpasses.heads.analysis import Analysis
from fxpasses.report import Form
from fxpasses.vocabulary.ops import POOLS, Elementwise, FeatureNorm, Role, Unsqueeze
from fxpasses.vocabulary.sizes import is_shape_value, with_sizes
from fxpasses.vocabulary.writer import Writer, dialect_of


def open_windows(
    analysis: Analysis, start: Node, window: PoolWindow, matches: Mapping[Node, Match]
) -> undo.Record | None:
    """Takes the pool of one head to windows and its flatten away; gives what takes that back."""
    return _Opening(analysis, start, window, matches).run()


class _Opening:
    def __init__(
        self, analysis: Analysis, start: Node, window: PoolWindow, matches: Mapping[Node, Match]
    ) -> None:
        self.graph = start.graph
        self.root = analysis.vocabulary.root
        self.values = {node: v for node, v in analysis.region.values.items() if v.pool is start}
        self.window = window
        self.matches = matches
        self.rank = len(window.cell)
        self.writer = Writer(self.graph, dialect_of(next(iter(matches))))
        first = analysis.vocabulary.classify(window.pools[0])
        assert isinstance(first, (*POOLS, Unsqueeze))
        self.source = first.source
        self.maps: dict[Node, Node] = {}
        self.last: set[Node] = set()
        self.turned: dict[Node, Node] = {}

    def run(self) -> undo.Record | None:
        own = {*with_sizes(self.values), *self.window.pools, *self.matches}
        names = [node.name for node in self.window.pools]
        before = undo.write_down(self.root, own, self.matches, names)
        self._pool()
        for node in self.values:
            if node not in self.window.pools:
                self._take(node)
        new = set(self.writer.written)
        for node in self.values:
            for user in list(node.users):
                if user not in self.values and user not in new and not is_shape_value(user):
                    user.replace_input_with(node, self._first(self.maps[node]))
        erased = erase_unread(self.graph, before.own, self._is_dead)
        recompute({*self.values, *self.writer.written} - erased)
        origin = next(iter(self.matches.values())).site.form
        return before.record(self.writer.written, origin, Form.FCN, erased=erased)

    def _pool(self) -> None:
        """The average over every window in the place of the pools; nothing for cells of one position."""
        cell, pools = self.window.cell, self.window.pools
        is_needed = set(cell) != {1}
        new = self.writer.windows(pools[-1], self.source, cell) if is_needed else self.source
        self.maps |= dict.fromkeys(pools, new)
        for node, match in self.matches.items():
            kernel = match.site.kernel_size
            spread = tuple(step if extent > 1 else 1 for step, extent in zip(cell, kernel, strict=True))
            if set(spread) == {1}:
                continue
            if match.op.module is not None:
                self.root.get_submodule(str(node.target)).__dict__["dilation"] = spread
            else:
                self.writer.dilate(node, spread)

    def _take(self, node: Node) -> None:
        """A value computed on the map."""
        op = self.values[node].op
        pooled = [source for source in node.all_input_nodes if source in self.values]
        if is_view(self.values[node], self.values):
            self.maps[node] = self.maps[pooled[0]]
            return
        keeps_order = isinstance(op, Elementwise) and not op.channels
        wants_last = isinstance(op, FeatureNorm) and op.role is not Role.DROPOUT
        is_last = wants_last or (keeps_order and all(self.maps[source] in self.last for source in pooled))
        for source in pooled:
            value = self.maps[source]
            node.replace_input_with(source, self._last(value) if is_last else self._first(value))
        if isinstance(op, Elementwise) and op.module_rank not in (None, self.rank):
            swap_batch_norm(self.root, str(node.target), self.rank)
        self.maps[node] = node
        if is_last:
            self.last.add(node)

    def _first(self, node: Node) -> Node:
        """A map as ``[N, C, *k]``."""
        return self._turned(node, (0, self.rank + 1, *range(1, self.rank + 1))) if node in self.last else node

    def _last(self, node: Node) -> Node:
        """A map as ``[N, *k, C]``."""
        return node if node in self.last else self._turned(node, (0, *range(2, self.rank + 2), 1))

    def _turned(self, node: Node, order: tuple[int, ...]) -> Node:
        if node not in self.turned:
            self.turned[node] = self.writer.permute(node, order)
        return self.turned[node]

    def _is_dead(self, node: Node) -> bool:
        """Whether a node goes where nobody reads it: a pool, a view, or a size that only they read."""
        is_view_of_map = node in self.values and is_view(self.values[node], self.values)
        return is_view_of_map or node in self.window.pools or is_shape_value(node)
