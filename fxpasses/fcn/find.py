"""Which heads can look at every window of a larger map, one step at a time; reads, never edits.

At the native size the head sees one window, the whole map. With ``H`` the native extent of the map and
``k`` that of the pooled grid, ``H = m·k``: the cells of a window are averages over ``m`` positions, so that
``pool_k(window) = avgpool_m(map)`` at every ``m``-th position, and the convolution that reads the grid is
dilated by ``m``. ``m = 1`` needs no pool at all, ``k = 1`` no dilation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

from torch.fx import Node

from fxpasses.dense.commute import kind_problem
from fxpasses.dense.find import Choice, own_problem, pools_from
from fxpasses.engine import refusals
from fxpasses.engine.match import Match
from fxpasses.heads.analysis import Analysis
from fxpasses.heads.cancel import has_own_module, is_scalar, takes_points
from fxpasses.heads.region import PooledValue, constant_shape
from fxpasses.miss_codes import MissCode
from fxpasses.report import Form, Problem
from fxpasses.vocabulary import aten
from fxpasses.vocabulary.ops import (
    BATCH,
    CHANNELS,
    POOLS,
    VIEWS,
    AdaptivePool,
    Affine,
    Elementwise,
    FeatureNorm,
    Reduce,
    Role,
    Unsqueeze,
    WindowPool,
)
from fxpasses.vocabulary.sizes import is_shape_value


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PoolWindow:
    """What one pool becomes.

    Attributes:
        pools: the nodes that pool, in order.
        cell: extent of the average over every window; all 1 where no pool is needed.
    """

    pools: tuple[Node, ...]
    cell: tuple[int, ...]


def choose(
    analysis: Analysis, extents: Callable[[Node], tuple[int, ...] | None]
) -> tuple[Choice, dict[str, PoolWindow]]:
    """The sites that can work on windows, the misses of the others, and what each pool becomes.

    ``extents`` gives the spatial extents of a value at the native size, or None where they are not known.
    """
    return _Chooser(analysis, extents).run()


class _Chooser:
    def __init__(self, analysis: Analysis, extents: Callable[[Node], tuple[int, ...] | None]) -> None:
        self.analysis = analysis
        self.values = analysis.region.values
        self.extents = extents
        self.missed = {miss.node: miss for miss in reversed(analysis.misses)}
        self.heads: dict[Node, list[Match]] = {}
        self.refused: dict[Node, Problem] = {}

    def run(self) -> tuple[Choice, dict[str, PoolWindow]]:
        for match in self.analysis.matches:
            if match.site.form is Form.FCN:
                continue
            start = pool_of(match, self.analysis)
            if start is None:
                self.refused[match.node] = _not_a_map(match.node, "gives its map out")
                continue
            self.heads.setdefault(start, []).append(match)
        windows: dict[str, PoolWindow] = {}
        for start, matches in self.heads.items():
            window = self._window(start)
            problems = [window] if isinstance(window, Problem) else [*self._problems(start, matches)]
            if problems:
                self.refused |= {match.node: problems[0] for match in matches}
            elif isinstance(window, PoolWindow):
                windows[start.name] = window
        self._refuse_tied(windows)
        named = {match.node: match for match in self.analysis.matches}
        chosen = tuple(
            match for node, match in named.items()
            if node not in self.refused and match.site.form is not Form.FCN
        )  # fmt: skip
        misses = tuple(m.missed(self.refused[node]) for node, m in named.items() if node in self.refused)
        return Choice(matches=chosen, misses=misses), windows

    # --- the pool

    def _window(self, start: Node) -> PoolWindow | Problem:
        found = pools_from(start, self.analysis)
        pools = tuple(node for node in found if not self._only_flattens(node))
        problem = next(filter(None, (kind_problem(node, self.values) for node in pools)), None)
        if problem is not None:
            return problem
        first = self.analysis.vocabulary.classify(pools[0])
        assert isinstance(first, (*POOLS, Unsqueeze))
        native = self.extents(first.source)
        layout = self.values[pools[-1]].layout
        if native is None or layout is None or layout.rank != len(native):
            return Problem(
                MissCode.NATIVE_SIZE,
                "the size that the model was made for is not known, so its window is not either",
                "pass example_inputs (--input-shape) of that size",
            )
        grid = tuple(extent or whole for extent, whole in zip(layout.extents, native, strict=True))
        op = self.values[start].op
        is_cut = any(whole % extent for whole, extent in zip(native, grid, strict=True))
        is_cut |= isinstance(op, WindowPool) and not op.covers and op.kernel != native
        is_cut |= len(pools) > 1 and isinstance(op, AdaptivePool) and pools[0] is start
        if is_cut:
            text = ["x".join(map(str, extents)) for extents in (native, grid)]
            return Problem(
                MissCode.WINDOW,
                f"the cells of its {text[1]} grid on a {text[0]} map are not alike",
                "give an input size whose map is a multiple of the grid",
            )
        cell = tuple(whole // extent for whole, extent in zip(native, grid, strict=True))
        return PoolWindow(pools=pools, cell=cell)

    def _only_flattens(self, node: Node) -> bool:
        """Whether a mean takes only the axes away that the pool before it left."""
        value = self.values.get(node)
        return value is not None and isinstance(value.op, Reduce) and is_view(value, self.values)

    # --- what follows it

    def _problems(self, start: Node, matches: list[Match]) -> Iterator[Problem]:
        sites = {match.node for match in matches}
        yield from filter(None, map(own_problem, matches))
        for value in self.analysis.region.of_pool(start):
            problem = self._value_problem(value, sites) or self._reader_problem(value.node, start)
            if problem is not None:
                yield problem

    def _value_problem(self, value: PooledValue, sites: set[Node]) -> Problem | None:
        node, op = value.node, value.op
        if isinstance(op, Affine):
            missed = self.missed.get(node.name)
            if node in sites or missed is None:
                return None if node in sites else _not_a_map(node, "is no site")
            return Problem(missed.code, f"{missed.name!r} keeps its form: {missed.reason}", missed.fix)
        if (altered := refusals.altered_problem(node, self.analysis.vocabulary)) is not None:
            return altered
        if value.layout is None:
            return _not_a_map(node, "has axes that cannot be followed")
        if is_view(value, self.values):
            return None
        if isinstance(op, POOLS):
            is_own = node in pools_from(value.pool, self.analysis)
            return None if is_own else _not_a_map(node, "pools again")
        if isinstance(op, FeatureNorm) and op.role is not Role.DROPOUT:
            is_last = op.is_last and value.layout.axes[-1] == (CHANNELS,)
            return None if is_last else _not_a_map(node, "works along other axes than the channels")
        if isinstance(op, FeatureNorm):
            return None if value.layout.is_map else _not_a_map(node, "drops whole features of a vector")
        if not isinstance(op, Elementwise) or op.mixes:
            return _not_a_map(node, "looks at all positions")
        others = [source for source in op.sources if source not in self.values]
        if not op.channels and not all(
            is_scalar(constant_shape(source, self.analysis.vocabulary)) for source in others
        ):
            return _not_a_map(node, "combines it with a vector")
        if any(self.values[source].pool is not value.pool for source in op.sources if source in self.values):
            return _not_a_map(node, "combines it with values of another pool")
        if not has_own_module(value, self.analysis.vocabulary):
            return _not_a_map(node, "is a batch norm that is called twice or has hooks")
        return None

    def _reader_problem(self, node: Node, start: Node) -> Problem | None:
        for user in node.users:
            layout = self.values[node].layout
            if user.op == "output" and layout is not None and layout.axes[:1] != ((BATCH,),):
                return _not_a_map(node, "gives the batch out in another place than the first")
            if user.op == "output" or is_shape_value(user) or aten.is_statistic(user):
                continue
            if user not in self.values or self.values[user].pool is not start:
                return _not_a_map(user, "joins it with other values")
        return None

    def _refuse_tied(self, windows: dict[str, PoolWindow]) -> None:
        """Linears whose weight another use needs as it is; their whole head stays as it is."""
        while True:
            wanted = {
                match.node: match
                for matches in self.heads.values()
                for match in matches
                if match.node not in self.refused and match.site.form is Form.LINEAR
            }
            refused = refusals.sharing_problems(wanted, self.analysis.vocabulary.root, self.analysis.uses)
            if not refused:
                return
            for node, problem in refused.items():
                start = self.values[node].pool
                self.refused |= {other.node: problem for other in self.heads[start]}
                windows.pop(start.name, None)


def is_view(value: PooledValue, values: Mapping[Node, PooledValue]) -> bool:
    """Whether a value has the numbers that it reads; a mean over a map of one position has."""
    op = value.op
    if not isinstance(op, Reduce):
        return isinstance(op, VIEWS)
    read = values.get(op.source)
    return op.average and read is not None and takes_points(op, read.layout)


def pool_of(match: Match, analysis: Analysis) -> Node | None:
    """The pool that a site reads, or that reads a dense site; None where a map of that one is an output."""
    values = analysis.region.values
    if match.node in values:
        return values[match.node].pool
    node = match.node
    while node not in values:
        readers = [user for user in node.users if not is_shape_value(user)]
        if len(readers) != 1:
            return None
        node = readers[0]
    return node


def _not_a_map(node: Node, what: str) -> Problem:
    return Problem(
        MissCode.NOT_A_MAP,
        f"{node.name!r} {what}, which has no meaning for a map of scores",
        "take it out of the head, or try the dense form, 'dense'",
    )
