"""Which heads can stand before their pool, and which do already; reads, never edits."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping

from torch.fx import Node

from fxpasses.dense import commute
from fxpasses.engine import refusals
from fxpasses.engine.match import Match, matched
from fxpasses.engine.uses import Uses
from fxpasses.graph.tree import is_uninitialized
from fxpasses.heads.analysis import Analysis
from fxpasses.heads.cancel import decide
from fxpasses.heads.headless import LastAffine
from fxpasses.heads.layout import map_layout
from fxpasses.heads.region import PooledValue
from fxpasses.miss_codes import MissCode
from fxpasses.report import Form, Miss, Problem, Scope
from fxpasses.vocabulary.ops import POOLS, Affine, Elementwise, Reduce, Role, Squeeze, Unsqueeze
from fxpasses.vocabulary.sizes import is_shape_value, reads_only_batch


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The sites that a rewrite takes to a form, and why it leaves the others."""

    matches: tuple[Match, ...]
    misses: tuple[Miss, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CommutingHead:
    """A pool and the pooled values below it that it commutes with.

    Attributes:
        pools: the nodes that pool, in order; ``x.mean(3).mean(2)`` is two.
        crossed: values that are pointwise affine functions of the pooled one, in graph order, views of
            them included.
    """

    pools: tuple[Node, ...]
    crossed: dict[Node, PooledValue]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """A head that stands before its pool.

    Attributes:
        crossed: the nodes from the first site down to the pool.
    """

    matches: tuple[Match, ...]
    crossed: tuple[Node, ...]
    pool: Node


def head_of(start: Node, analysis: Analysis, sites: frozenset[Node]) -> CommutingHead:
    """The head below a pool, as far as the pool commutes with it."""
    values = analysis.region.values
    pools = pools_from(start, analysis)
    crossed: dict[Node, PooledValue] = {}
    for value in analysis.region.of_pool(start):
        node = value.node
        pooled = [source for source in node.all_input_nodes if source in values]
        if node in pools or not pooled:
            continue
        if all(source is pools[-1] or source in crossed for source in pooled):
            if commute.problem_of(value, values, sites, analysis.vocabulary) is None:
                crossed[node] = value
    return CommutingHead(pools=pools, crossed=crossed)


def pools_from(start: Node, analysis: Analysis) -> tuple[Node, ...]:
    """A pool and the pools right after it, or between the unsqueeze and squeeze of a decomposed one."""
    values = analysis.region.values
    pools = [start]
    while len(users := readers_of(pools[-1])) == 1 and users[0] in values:
        if not isinstance(values[users[0]].op, POOLS):
            break
        pools.append(users[0])
    op = values[start].op
    before = analysis.vocabulary.classify(op.source) if isinstance(op, POOLS) else None
    after = values[users[0]] if len(users) == 1 and users[0] in values else None
    if not isinstance(before, Unsqueeze) or after is None or not isinstance(after.op, Squeeze):
        return tuple(pools)
    known, layout = values[start].layout, after.layout
    is_disguised = known is not None and layout is not None and layout.is_map and layout.rank < known.rank
    if isinstance(op, POOLS) and is_disguised and readers_of(op.source) == [start]:
        return (op.source, *pools, after.node)
    return tuple(pools)


def choose(analysis: Analysis) -> Choice:
    """The sites that can stand before their pool, and a miss for every other one that does not."""
    return _Chooser(analysis).run()


class _Chooser:
    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.values = analysis.region.values
        self.sites = {m.node: m for m in analysis.matches if m.site.form in (Form.LINEAR, Form.CONV)}
        self.missed = {miss.node: miss for miss in analysis.misses}
        self.refused: dict[Node, Problem] = {}

    def run(self) -> Choice:
        for node, match in self.sites.items():
            problem = own_problem(match)
            if problem is not None:
                self.refused[node] = problem
        while new := dict(self._problems()):
            self.refused |= new
        for match in self.analysis.matches:
            if match.site.form is Form.FCN:
                self.refused[match.node] = Problem(
                    MissCode.NONLINEAR, "it is in the fully convolutional form", "take it to conv first"
                )
        named = {match.node: match for match in self.analysis.matches}
        return Choice(
            matches=tuple(match for node, match in self.sites.items() if node not in self.refused),
            misses=tuple(m.missed(self.refused[node]) for node, m in named.items() if node in self.refused),
        )

    def _problems(self) -> Iterator[tuple[Node, Problem]]:
        """The sites that are refused because of what else is refused by now."""
        wanted = {node: match for node, match in self.sites.items() if node not in self.refused}
        sites = frozenset(wanted)
        starts = dict.fromkeys(self.values[node].pool for node in wanted)
        way = _Way(self.analysis, {start: head_of(start, self.analysis, sites) for start in starts})
        passing: dict[Node, Match] = {}
        for node in wanted:
            problem = self._problem(node, way)
            if problem is not None:
                yield node, problem
            else:
                passing[node] = wanted[node]
        yield from self._tied(passing)

    def _problem(self, node: Node, way: _Way) -> Problem | None:
        problem = commute.pool_problem(way.heads[self.values[node].pool].pools, self.values)
        affine = way.below.get(node)
        if problem is not None or affine is None:
            return problem
        first = way.above[affine]
        value = self.values[first]
        why = self.refused.get(first)
        if why is None and isinstance(value.op, Affine) and first.name in self.missed:
            miss = self.missed[first.name]
            why = Problem(miss.code, miss.reason, miss.fix)
        if why is not None and first is not node:
            return dataclasses.replace(why, reason=f"{first.name!r} stays after the pool: {why.reason}")
        problem = commute.problem_of(value, self.values, self.sites, self.analysis.vocabulary)
        return problem or Problem(
            MissCode.NONLINEAR,
            f"{first.name!r} joins it with values of another pool",
            "try the fully convolutional form, 'fcn'",
        )

    def _tied(self, wanted: Mapping[Node, Match]) -> Iterator[tuple[Node, Problem]]:
        """Linears whose weight another use needs as it is, and sites whose input has no map form."""
        linear = {node: match for node, match in wanted.items() if match.site.form is Form.LINEAR}
        moves = decide(self.analysis.region, self.analysis.vocabulary, frozenset(linear), Form.CONV)
        tied = refusals.sharing_problems(linear, self.analysis.vocabulary.root, self.analysis.uses)
        yield from tied.items()
        turned = {self.values[node].pool for node in linear}
        flat = self._flat({node for node in moves.moved if self.values[node].pool in turned})
        for node, match in wanted.items():
            if node in tied or ((source := flat.get(node)) is None and match.op.source in moves.free):
                continue
            yield (
                node,
                Problem(
                    MissCode.UNKNOWN_LAYOUT,
                    f"{(source or match.op.source).name!r}, which it reads, cannot be computed on the map",
                    "call the modules between pool and logits once, without hooks or views between them",
                ),
            )

    def _flat(self, turned: Collection[Node]) -> dict[Node, Node]:
        """What stays flat above each value: an elementwise op before a view that makes a map of it again."""
        flat: dict[Node, Node] = {}
        for node, value in self.values.items():
            stays = value.layout is not None and not value.layout.is_map and node not in turned
            above = [flat[source] for source in node.all_input_nodes if source in flat]
            if stays and isinstance(value.op, Elementwise):
                flat[node] = node
            elif above:
                flat[node] = above[0]
        return flat


class _Way:
    """What stands in the way of the pools, in one walk down and one up.

    Attributes:
        heads: what each pool commutes with, by the first node of the pool.
        above: the first value on the way from its pool down to each value that its pool cannot pass.
        below: the first affine op, from each value on down, that its pool cannot reach.
    """

    def __init__(self, analysis: Analysis, heads: Mapping[Node, CommutingHead]) -> None:
        self.heads = heads
        passed = {node for head in heads.values() for node in (*head.crossed, *head.pools)}
        values = analysis.region.values
        place = {node: index for index, node in enumerate(values)}
        self.above: dict[Node, Node] = {}
        for node in values:
            known = [self.above[source] for source in node.all_input_nodes if source in self.above]
            known += [] if node in passed else [node]
            if known:
                self.above[node] = min(known, key=place.__getitem__)
        self.below: dict[Node, Node] = {}
        for node, value in reversed(values.items()):
            known = [self.below[user] for user in node.users if user in self.below]
            known += [node] if isinstance(value.op, Affine) and node in self.above else []
            if known:
                self.below[node] = min(known, key=place.__getitem__)


def own_problem(match: Match) -> Problem | None:
    """What of a site alone keeps it from a form before the pool, or on windows."""
    if match.site.scope is not Scope.HEAD:
        return Problem(
            MissCode.SIDE_BRANCH,
            "it is in a side branch, whose result is multiplied with the map again",
            "leave the scope at 'head'",
        )
    if any(step != 1 for step in match.op.stride):
        return Problem(
            MissCode.KERNEL, f"{match.node.name!r} moves by {match.op.stride} positions", "give it stride=1"
        )
    return None


# --- heads that are dense already


def find(analysis: Analysis) -> tuple[list[Dense], dict[Node, Problem]]:
    """The heads that stand before their pool, and pointwise convolutions there that are no sites."""
    found: list[Dense] = []
    problems: dict[Node, Problem] = {}
    for last in analysis.before_pool:
        chain = _chain(last, analysis)
        if not chain:
            continue
        affine = [(node, op) for node in chain for op in (analysis.vocabulary.classify(node),)]
        sites = [(node, op) for node, op in affine if isinstance(op, Affine)]
        problem = next(filter(None, (_site_problem(op, analysis) for _, op in sites)), None)
        if problem is not None:
            problems[last.node] = problem
            continue
        matches = tuple(match_of(node, op, Form.DENSE, analysis) for node, op in sites)
        found.append(Dense(matches=matches, crossed=tuple(chain), pool=last.crossed[-1]))
    return _alone(found, analysis, problems), problems


def _chain(last: LastAffine, analysis: Analysis) -> list[Node]:
    """The nodes from the first pointwise convolution down to the pool; empty where the pool cannot pass."""
    *between, pool = last.crossed
    below = [*between, pool]
    if not _is_global(pool, analysis) or not _is_pointwise(last.op, analysis) or last.op is None:
        return []
    rank = last.op.rank
    previous = last.node
    for node in below:
        reads = node.all_input_nodes
        if readers_of(previous) != [node] or reads.count(previous) != 1:
            return []
        if node is not pool and not _passes(node, previous, rank, analysis):
            return []
        previous = node
    chain = [last.node, *between]
    first, node = chain[0], last.op.source
    pending: list[Node] = []
    while readers_of(node) == [pending[0] if pending else first]:
        op = analysis.vocabulary.classify(node)
        pending.insert(0, node)
        if isinstance(op, Affine) and _is_pointwise(op, analysis):
            chain = [*pending, *chain]
            first, pending, node = node, [], op.source
        elif isinstance(op, Elementwise) and op.sources and _passes(node, op.sources[0], rank, analysis):
            node = op.sources[0]
        else:
            break
    return chain


def _is_global(pool: Node, analysis: Analysis) -> bool:
    value = analysis.region.values.get(pool)
    if value is None or value.layout is None or not value.layout.is_point:
        return False
    layout, op = value.layout, value.op
    if isinstance(op, Reduce) and not layout.is_map and layout.order is None:
        return False
    return commute.pool_problem([pool], analysis.region.values) is None


def _is_pointwise(op: Affine | None, analysis: Analysis) -> bool:
    if op is None or op.form is not Form.CONV or op.transposed or op.groups != 1:
        return False
    weight = analysis.vocabulary.weight(op)
    if weight is None or is_uninitialized(weight) or set(weight.shape[2:]) != {1}:
        return False
    return not any(op.padding) and set(op.stride) == {1}


def _passes(node: Node, source: Node, rank: int, analysis: Analysis) -> bool:
    """Whether a node on a whole map of ``rank`` axes is a pointwise affine function of ``source``."""
    op = analysis.vocabulary.classify(node)
    if not isinstance(op, Elementwise) or op.role is Role.OTHER:
        return False
    value = PooledValue(node=node, op=op, layout=map_layout(None, (None,) * rank), pool=node)
    of_source = {source: value}
    return commute.problem_of(value, of_source, frozenset(), analysis.vocabulary) is None


def _site_problem(op: Affine, analysis: Analysis) -> Problem | None:
    return refusals.module_problem(op) or refusals.weight_problem(op, analysis.vocabulary.root)


def match_of(node: Node, op: Affine, form: Form, analysis: Analysis) -> Match:
    """A convolution as a site in ``form``."""
    weight = analysis.vocabulary.weight(op)
    assert weight is not None, "the guards let only tensors through"
    out, channels, *kernel = weight.shape
    return matched(
        node, op, form=form, scope=Scope.HEAD, out_features=out, channels=channels, kernel=tuple(kernel)
    )


def _alone(found: list[Dense], analysis: Analysis, problems: dict[Node, Problem]) -> list[Dense]:
    """The heads whose weights nothing else uses."""
    if not found:
        return found
    matches = {match.node: match for head in found for match in head.matches}
    ops = [match.op for match in matches.values()]
    uses = Uses.of(next(iter(analysis.region.values)).graph, analysis.vocabulary, ops)
    refused = refusals.sharing_problems(matches, analysis.vocabulary.root, uses)
    kept = []
    for head in found:
        problem = next((refused[match.node] for match in head.matches if match.node in refused), None)
        if problem is not None:
            problems[head.matches[-1].node] = problem
        else:
            kept.append(head)
    return kept


def readers_of(node: Node) -> list[Node]:
    """The nodes that read more of a value than its batch size."""
    # asked of every head on a pool: whether it holds a size is known at once
    return [user for user in node.users if not (is_shape_value(user) and reads_only_batch(user))]
