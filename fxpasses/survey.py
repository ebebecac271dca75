"""What a graph's heads are, in every form: the analysis, and what the records of earlier edits add to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.fx import Graph, Node

from fxpasses.dense import find as dense
from fxpasses.dense.find import Dense
from fxpasses.engine import undo
from fxpasses.engine.match import Match, missed
from fxpasses.engine.refusals import module_problem, weight_problem
from fxpasses.errors import InputError
from fxpasses.fcn import find as fcn
from fxpasses.graph.shapes import propagate
from fxpasses.heads.analysis import Analysis
from fxpasses.heads.region import fixed_shape
from fxpasses.im2col import find as im2col
from fxpasses.im2col.column_sizes import Sizes
from fxpasses.im2col.memory import memory_of
from fxpasses.miss_codes import MissCode
from fxpasses.report import Form, Memory, Miss, Problem, Scope, TraceInfo
from fxpasses.sites import analyse
from fxpasses.vocabulary.ops import Affine
from fxpasses.vocabulary.sizes import has_values, value_of
from fxpasses.vocabulary.vocabulary import Vocabulary
from fxpasses.weights.move import WeightOrder

_HEAD_LEVEL = (MissCode.NOT_POOLED, MissCode.BEFORE_POOL, MissCode.MATRIX_PRODUCT)


class EditableModel(Protocol):
    """A graph that may be edited, and the tree that holds its parameters, whatever it was opened from."""

    @property
    def graph(self) -> Graph:
        """The graph."""

    @property
    def root(self) -> nn.Module:
        """A tree that holds the parameters under their names."""

    @property
    def lifted(self) -> Mapping[str, str]:
        """Names of parameters that are inputs of the graph, by placeholder name."""

    @property
    def info(self) -> TraceInfo:
        """How the graph was obtained."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A graph's heads as they are now.

    Attributes:
        analysis: sites and misses in every form.
        nodes: the graph's nodes by name, empty where no record speaks of them.
        standing: the records of edits to ``dense`` and ``fcn`` that still stand.
        dense: the heads that stand before their pool without a record.
    """

    analysis: Analysis
    nodes: undo.Nodes
    standing: tuple[undo.Record, ...]
    dense: tuple[Dense, ...]


class Survey:
    """Looks at one graph, as often as it changes.

    Args:
        inputs: gives example inputs or None; called only if they are needed.
    """

    def __init__(
        self, subject: EditableModel, scope: Scope, inputs: Callable[[], tuple[Any, ...] | None]
    ) -> None:
        self.subject = subject
        self.scope = scope
        self.inputs = inputs

    def look(self, records: Sequence[undo.Record]) -> Look:
        """The heads of the graph as it is now."""
        root = self.subject.root
        nodes = undo.Nodes(self.subject.graph.nodes if records else ())
        analysis = self._analyse(undo.known_extents(records, nodes))
        standing = tuple(
            entry for entry in records if entry.to in (Form.DENSE, Form.FCN) and undo.stands(entry, nodes)
        )
        heads, problems = dense.find(analysis)
        recorded = {name for entry in standing for name in entry.sites}
        heads = [head for head in heads if recorded.isdisjoint(m.node.name for m in head.matches)]
        matches = [match for head in heads for match in head.matches]
        for entry in standing:
            for name in entry.sites:
                match = _recorded(nodes[name], entry, analysis)
                problem = module_problem(match.op) or weight_problem(match.op, root)
                if problem is None:
                    matches.append(match)
                else:
                    problems[match.node] = problem
        return Look(
            analysis=_merged(analysis, matches, recorded, problems),
            nodes=nodes,
            standing=standing,
            dense=tuple(heads),
        )

    def _analyse(self, extents: dict[str, tuple[int, ...]]) -> Analysis:
        """The analysis, with shapes where example inputs are given and something depends on them."""
        graph, root, lifted = self.subject.graph, self.subject.root, self.subject.lifted
        can_ask = not (lifted or has_values(graph))
        if not can_ask or self.scope is not Scope.ALL:
            analysis = analyse(graph, root, self.scope, extents=extents, lifted=lifted)
            if not can_ask or not analysis.is_presumed() or not (shapes := self._shapes()):
                return analysis
        else:
            shapes = self._shapes()
        return analyse(graph, root, self.scope, shapes or None, extents)

    def _shapes(self) -> dict[Node, tuple[int, ...]]:
        """The shape of every value by the example inputs; none where they are not given."""
        inputs = None if self.subject.lifted else self.inputs()
        return {} if inputs is None else propagate(self.subject.graph, self.subject.root, inputs)

    def candidates(self, look: Look, to: Form | None) -> tuple[tuple[Match, ...], tuple[Miss, ...]]:
        """The sites that have a form or can get it, and why the others cannot; all for None."""
        found = look.analysis
        if to not in (Form.DENSE, Form.FCN):
            return found.matches, found.misses
        choice = self.choose(look, to)[0]
        has_it = [match for match in found.matches if match.site.form is to]
        wanted = {match.node for match in (*has_it, *choice.matches)}
        return tuple(m for m in found.matches if m.node in wanted), (*choice.misses, *found.misses)

    def choose(self, look: Look, to: Form) -> tuple[dense.Choice, dict[str, fcn.PoolWindow]]:
        """The sites that change to ``to``, why others do not, and the windows of ``fcn``."""
        found = look.analysis
        if to is Form.DENSE:
            return dense.choose(found), {}
        if to is Form.FCN:
            return fcn.choose(found, self.extents())
        matches = tuple(match for match in found.matches if match.site.form is not to)
        return dense.Choice(matches=matches, misses=()), {}

    def extents(self) -> Callable[[Node], tuple[int, ...] | None]:
        """Gives the spatial extents of a value at the native size, or None where they are not known."""
        shapes = self._shapes()

        def extents(node: Node) -> tuple[int, ...] | None:
            shape = shapes.get(node) or _traced_shape(node)
            return None if shape is None else tuple(shape[2:])

        return extents

    def unfolding(self, to: Form | None) -> im2col.UnfoldSites:
        """The convolutions that are or can be unfolded, and why others cannot; see ``im2col.find``."""
        subject = self.subject
        vocabulary = Vocabulary(subject.root, subject.lifted)
        shapes: dict[Node, tuple[int, ...]] | None = None

        def sizes(node: Node) -> Sizes:
            nonlocal shapes
            known = fixed_shape(node)
            if known is None and not subject.lifted and not has_values(subject.graph):
                shapes = self._shapes() if shapes is None else shapes
                known = shapes.get(node)
                return Sizes() if known is None else Sizes(extents=(known[-2], known[-1]))
            if known is None:
                return Sizes()
            batch, height, width = known[0] if len(known) == 4 else None, known[-2], known[-1]
            return Sizes(extents=None if height is None or width is None else (height, width), batch=batch)

        return im2col.find(subject.graph, vocabulary, to, sizes)

    def memory(self, sites: Sequence[im2col.Im2col]) -> Memory:
        """What unfolding the sites takes at the example inputs, else at those of a program's export."""
        subject = self.subject
        graph, root, lifted = subject.graph, subject.root, subject.lifted
        inputs = self.inputs()
        if inputs is not None:
            return memory_of(graph, root, lifted, sites, inputs)
        try:
            return memory_of(graph, root, lifted, sites, self._exported_inputs())
        except InputError:  # nobody gave these inputs, so nobody is at fault
            return memory_of(graph, root, lifted, sites, None)

    def _exported_inputs(self) -> tuple[Any, ...] | None:
        """Tensors of the sizes that a graph was exported with; None where nothing says them."""
        read = self.subject.graph.find_nodes(op="placeholder")
        read = [node for node in read if node.name not in self.subject.lifted]
        shapes = [_traced_shape(node) for node in read]
        if not shapes or None in shapes:
            return None
        values = [value_of(node) for node in read]
        return tuple(
            torch.empty(shape, dtype=value.dtype, device=value.device)
            for shape, value in zip(shapes, values, strict=True)
            if shape is not None and value is not None
        )

    def native_size(self) -> tuple[int, ...] | None:
        """The spatial extents of the first input that has any, or None."""
        inputs = None if self.subject.lifted else self.inputs()
        if inputs is not None:
            shapes = [tuple(value.shape) for value in inputs if isinstance(value, torch.Tensor)]
        else:
            read = self.subject.graph.find_nodes(op="placeholder")
            known = [_traced_shape(node) for node in read if node.name not in self.subject.lifted]
            shapes = [shape for shape in known if shape is not None]
        return next((shape[2:] for shape in shapes if len(shape) > 2), None)


def relevant(misses: Sequence[Miss], to: Form) -> tuple[Miss, ...]:
    """The misses that a rewrite to ``to`` has: candidates in another form, and heads without a pool."""
    return tuple(miss for miss in misses if miss.form is not to or miss.code in _HEAD_LEVEL)


def _merged(
    analysis: Analysis, matches: Sequence[Match], recorded: set[str], problems: dict[Node, Problem]
) -> Analysis:
    """The analysis with the sites that stand before a pool or on windows, in the place of their misses."""
    if not matches and not problems:
        return analysis
    known = {match.node.name for match in matches} | recorded | {node.name for node in problems}
    others = [match for match in analysis.matches if match.node.name not in known]
    named = {miss.node: miss for miss in analysis.misses}
    refused = [
        dataclasses.replace(named[node.name], code=problem.code, reason=problem.reason, fix=problem.fix)
        if node.name in named
        else missed(node, _affine(node, analysis).name(node), Form.DENSE, problem)
        for node, problem in problems.items()
    ]
    kept = [miss for miss in analysis.misses if miss.node not in known]
    if matches:  # there is a head, so that no convolution of the backbone is the last one for want of it
        kept = [miss for miss in kept if miss.form is not Form.CONV or miss.code not in _HEAD_LEVEL]
    return dataclasses.replace(
        analysis,
        matches=tuple(sorted((*others, *matches), key=lambda match: match.node)),
        misses=(*kept, *refused),
    )


def _recorded(node: Node, entry: undo.Record, analysis: Analysis) -> Match:
    match = dense.match_of(node, _affine(node, analysis), entry.to, analysis)
    return dataclasses.replace(match, order=WeightOrder(entry.orders[node.name]))


def _affine(node: Node, analysis: Analysis) -> Affine:
    op = analysis.vocabulary.classify(node)
    assert isinstance(op, Affine), "a recorded site is one as long as its record stands"
    return op


def _traced_shape(node: Node) -> tuple[int, ...] | None:
    """The shape that a value had while it was traced, symbolic sizes by the example's."""
    value = value_of(node)
    if value is None:
        return None
    extents = [extent if isinstance(extent, int) else extent.node.hint for extent in value.shape]
    return None if None in extents else tuple(int(extent) for extent in extents)
