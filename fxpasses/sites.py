"""Finds the sites of a graph, and says of every other candidate why it is none.

Reads, never edits. The pooled region gives each candidate the layout of what it reads; the guards say
what else stands in the way; what is left is a ``Match``, the site with all that a rewrite needs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from torch import nn
from torch.fx import Graph, Node

from fxpasses.engine import refusals
from fxpasses.engine.match import Match, matched, missed
from fxpasses.engine.ranks import Ranks
from fxpasses.engine.uses import Uses
from fxpasses.graph.shapes import Shapes
from fxpasses.heads.analysis import Analysis
from fxpasses.heads.headless import MATRIX_PRODUCT, LastAffine, last_affines
from fxpasses.heads.layout import Layout
from fxpasses.heads.refusals import arithmetic_problem
from fxpasses.heads.region import PooledValue, Region, is_last_affine, scan
from fxpasses.miss_codes import MissCode
from fxpasses.pointwise import find as pointwise
from fxpasses.report import Form, Miss, Problem, Scope
from fxpasses.vocabulary.ops import Affine, Elementwise, Product, Subgraph, memory_of
from fxpasses.vocabulary.sizes import is_shape_value
from fxpasses.vocabulary.vocabulary import Vocabulary
from fxpasses.weights.move import WeightOrder


def analyse(
    graph: Graph,
    root: nn.Module,
    scope: Scope,
    shapes: Shapes | None = None,
    extents: Mapping[str, tuple[int, ...]] | None = None,
    lifted: Mapping[str, str] | None = None,
) -> Analysis:
    """Sites and misses of ``graph`` within ``scope``; edits nothing.

    ``extents`` are those of pools by node name, where an earlier rewrite knew them; ``lifted`` names the
    parameters that are inputs of the graph, by placeholder name.
    """
    vocabulary = Vocabulary(root, lifted)
    region = scan(graph, vocabulary, shapes, extents)
    ranks = Ranks.of(graph, vocabulary, shapes) if scope is Scope.ALL else None
    finder = _Finder(graph, vocabulary, region, scope, ranks, has_shapes=shapes is not None)
    return finder.run()


@dataclasses.dataclass(slots=True)
class _Finder:
    graph: Graph
    vocabulary: Vocabulary
    region: Region
    scope: Scope
    ranks: Ranks | None
    has_shapes: bool
    misses: dict[Node, list[Miss]] = dataclasses.field(default_factory=dict)
    heads: set[Node] = dataclasses.field(default_factory=set)
    uses: Uses = dataclasses.field(default_factory=Uses)
    before_pool: list[LastAffine] = dataclasses.field(default_factory=list)

    def run(self) -> Analysis:
        self.heads = _reaching_output(self.region)
        matches: dict[Node, Match] = {}
        affine = [value for value in self.region.values.values() if isinstance(value.op, Affine)]
        aliased = _aliased(self.region)
        for value in affine:
            if self.scope is Scope.HEAD and value.node not in self.heads:
                continue
            match = self._match(value, aliased)
            if isinstance(match, Match):
                matches[value.node] = match
            elif match is not None and isinstance(value.op, Affine):
                self._miss(value.node, value.op, match)
        for value in self.region.values.values():
            if isinstance(value.op, Product) and value.node in self.heads:
                self._miss(value.node, None, MATRIX_PRODUCT)
        if self.ranks is not None:
            matches = self._everywhere(matches, self.ranks)
        matches = self._alone(matches)
        if self.ranks is None:
            self._not_pooled(has_head=any(value.node in self.heads for value in affine))
        return Analysis(
            region=self.region,
            vocabulary=self.vocabulary,
            matches=tuple(matches.values()),
            misses=tuple(miss for node in sorted(self.misses) for miss in self.misses[node]),
            uses=self.uses,
            before_pool=tuple(self.before_pool),
            ranks=self.ranks,
        )

    def _miss(self, node: Node, op: Affine | None, problem: Problem) -> None:
        form = op.form if op is not None else Form.LINEAR
        if self.has_shapes:  # given already
            fix = problem.fix.removeprefix("pass example_inputs (--input-shape), or ")
            problem = dataclasses.replace(problem, fix=fix)
        self.misses[node] = [missed(node, op.name(node) if op is not None else node.name, form, problem)]

    # --- one candidate

    def _match(self, value: PooledValue, aliased: dict[Node, Node]) -> Match | Problem | None:
        op = value.op
        assert isinstance(op, Affine)
        read = self.region.values[op.source]
        if op.form is Form.CONV and (read.layout is None or not read.layout.is_map):
            is_last = value.node in self.heads and is_last_affine(value.node, self.vocabulary)
            unreadable = refusals.quantized_problem(op) or read.problem or _unknown_layout(op)
            return unreadable if is_last else None
        problem = refusals.module_problem(op) or refusals.weight_problem(op, self.vocabulary.root)
        if problem is not None:
            return problem
        if read.layout is None:
            return read.problem or _unknown_layout(op)
        weight = self.vocabulary.weight(op)
        assert weight is not None, "the guards let only tensors through"
        found = self._kernel(op, read.layout, tuple(weight.shape))
        if not isinstance(found, Problem):
            found = refusals.bias_problem(op, self.vocabulary, weight.shape[0]) or found
        if isinstance(found, Problem):
            return found
        if value.node in aliased:
            return Problem(
                MissCode.IN_PLACE_ALIAS,
                f"in-place {aliased[value.node].name!r} also writes a value that is read elsewhere",
                "make that op out of place (inplace=False)",
            )
        kernel, order = found
        return self._as_match(value, op, tuple(weight.shape), kernel, order)

    def _kernel(
        self, op: Affine, layout: Layout, shape: tuple[int, ...]
    ) -> tuple[tuple[int, ...], WeightOrder] | Problem:
        """The kernel of the convolution form and the order in which the linear form reads it."""
        if op.form is Form.CONV:
            problem = arithmetic_problem(op, layout, shape[2:])
            return problem or (shape[2:], WeightOrder.CHANNELS_FIRST)
        if layout.order is None:
            return _not_flat(op, layout)
        extents = _settled(layout, shape[1])
        if extents is None:
            return Problem(
                MissCode.UNKNOWN_EXTENT,
                f"nothing in the graph says how its {shape[1]} features divide into channels and positions",
                "pass example_inputs (--input-shape)",
            )
        features = layout.channels and layout.channels * math.prod(extents)
        if shape[1] % math.prod(extents) or features not in (None, shape[1]):
            return Problem(
                MissCode.UNKNOWN_LAYOUT,
                f"it takes {shape[1]} features, the graph gives it {features}",
                "pass example_inputs (--input-shape)",
            )
        return extents, layout.order

    def _as_match(
        self,
        value: PooledValue,
        op: Affine,
        shape: tuple[int, ...],
        kernel: tuple[int, ...],
        order: WeightOrder,
    ) -> Match:
        positions = math.prod(kernel)
        channels = shape[1] // positions if op.form is Form.LINEAR else shape[1]
        read = self.region.values[op.source].layout
        extents = None if read is None else read.extents
        return matched(
            value.node,
            op,
            form=op.form,
            scope=Scope.HEAD if value.node in self.heads else Scope.POOLED,
            out_features=shape[0],
            channels=channels,
            kernel=kernel,
            order=order,
            reads_pool=extents is not None and (None in extents or extents == kernel),
        )

    # --- candidates without a pool

    def _everywhere(self, pooled: dict[Node, Match], ranks: Ranks) -> dict[Node, Match]:
        """Pooled and pointwise sites; the latter may read a pool in a way that no head can."""
        matches = dict(pooled)
        for node, op in pointwise.candidates(ranks, self.vocabulary):
            if node in matches:
                continue
            match = pointwise.match_of(node, op, ranks, self.vocabulary)
            if isinstance(match, Match):
                matches[node] = match
                self.misses.pop(node, None)
            else:
                self._miss(node, op, match)
        for node, miss in pointwise.hidden(ranks, self.vocabulary):
            self.misses.setdefault(node, []).append(miss)
        return dict(sorted(matches.items(), key=lambda item: item[0]))

    # --- all candidates together

    def _alone(self, matches: dict[Node, Match]) -> dict[Node, Match]:
        """The matches whose weight no other use needs in its present shape."""
        if not matches:
            return matches
        self.uses = Uses.of(self.graph, self.vocabulary, [match.op for match in matches.values()])
        while refused := refusals.sharing_problems(matches, self.vocabulary.root, self.uses):
            for node, problem in refused.items():
                self._miss(node, matches.pop(node).op, problem)
        return matches

    def _not_pooled(self, *, has_head: bool) -> None:
        """Misses for the last affine ops of a model whose input no pool collapsed."""
        for last in last_affines(self.graph, self.vocabulary):
            is_call = isinstance(self.vocabulary.classify(last.node), Subgraph)
            if last.node in self.region.values and not is_call:
                continue
            if last.crossed:
                self.before_pool.append(last)
            if not has_head or last.op is None or last.op.form is Form.LINEAR:
                self._miss(last.node, last.op, last.problem(self.vocabulary))


def _unknown_layout(op: Affine) -> Problem:
    return Problem(
        MissCode.UNKNOWN_LAYOUT,
        f"it reads {op.source.name!r}, whose axes cannot be followed back to the pool",
        "pass example_inputs (--input-shape), or flatten the pooled map with torch.flatten(x, 1)",
    )


def _not_flat(op: Affine, layout: Layout) -> Problem:
    if layout.is_point:
        return Problem(
            MissCode.UNFLATTENED,
            f"it reads {len(layout.axes)} axes, not the flattened pool",
            "flatten the pooled map with torch.flatten(x, 1)",
        )
    return Problem(
        MissCode.FLATTEN_ORDER,
        f"{op.source.name!r} flattens the pooled map in an order that no kernel has",
        "flatten channels first or channels last",
    )


def _settled(layout: Layout, features: int) -> tuple[int, ...] | None:
    """Spatial extents, read off the weight where the graph does not say them and only 1×1 fits."""
    known = tuple(extent for extent in layout.extents if extent is not None)
    if len(known) == layout.rank:
        return known
    return (1,) * layout.rank if layout.channels == features else None


def _reaching_output(region: Region) -> set[Node]:
    """Pooled values from which the output is reached through pooled values alone."""
    reaching: set[Node] = set()
    for node in reversed(region.values):
        if any(user.op == "output" or user in reaching for user in node.users):
            reaching.add(node)
    return reaching


def _aliased(region: Region) -> dict[Node, Node]:
    """Affine nodes downstream of an in-place op whose target is read elsewhere too, with that op."""
    tainted: dict[Node, Node] = {}
    for node, value in region.values.items():
        if isinstance(value.op, Elementwise) and value.op.inplace and value.op.sources:
            shared = _shared_storage(value.op.sources[0], node, region)
            if shared:
                tainted |= dict.fromkeys((shared, node), node)
    if not tainted:
        return {}
    for node in region.values:
        origin = next((tainted[source] for source in node.all_input_nodes if source in tainted), None)
        if origin is not None:
            tainted.setdefault(node, origin)
    return {node: origin for node, origin in tainted.items() if isinstance(region.values[node].op, Affine)}


def _shared_storage(target: Node, writer: Node, region: Region) -> Node | None:
    """The first value that shares memory with ``target`` and is read by more than the writer's chain."""
    chain = [target]
    while (value := region.values.get(chain[-1])) and (owner := memory_of(value.op)) is not None:
        chain.append(owner)
    expected: Node = writer
    for node in chain:
        if node not in region.values:
            return None
        if any(user is not expected and not is_shape_value(user) for user in node.users):
            return node
        expected = node
    return None
