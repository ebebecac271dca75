"""How many axes each value of a graph has.

From shapes where they are known; else from what the ops say: a 2-D convolution gives four axes, a Linear as
many as it reads. What nothing says is None. Also of how many positions' axes a flat value was a part, so that
a class token of ``[N, T, C]`` gets a convolution of the rank that the tokens have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container
from typing import Any

from torch.fx import Graph, Node

from fxpasses.engine.match import Match
from fxpasses.graph.shapes import Shapes
from fxpasses.graph.tree import is_uninitialized
from fxpasses.report import Form
from fxpasses.vocabulary.handlers import MAX_RANK
from fxpasses.vocabulary.ops import (
    BATCH,
    CHANNELS,
    AdaptivePool,
    Affine,
    Concat,
    Elementwise,
    Expand,
    FeatureNorm,
    Flatten,
    Fold,
    Index,
    Op,
    Opaque,
    Permute,
    Product,
    Reduce,
    ShapeValue,
    Squeeze,
    Subgraph,
    Unflatten,
    Unfold,
    Unsqueeze,
    View,
    WindowPool,
    operands,
)
from fxpasses.vocabulary.questions import wrapped
from fxpasses.vocabulary.sizes import is_shape_value, value_of
from fxpasses.vocabulary.vocabulary import Vocabulary

_FLAT_RANK = 2  # a vector that comes from no map gets the convolution of an image


@dataclasses.dataclass(slots=True)
class Ranks:
    """Numbers of axes by node, and the typed ops that they were read from.

    Attributes:
        ops: the typed op of every node, in graph order.
        axes: number of axes of every node's value, None where nothing says it.
        flat: spatial rank of the map that a flat value ``[N, C]`` was taken from, by node.
    """

    ops: dict[Node, Op]
    axes: dict[Node, int | None]
    flat: dict[Node, int]

    @classmethod
    def of(cls, graph: Graph, vocabulary: Vocabulary, shapes: Shapes | None) -> Ranks:
        """One pass over ``graph``."""
        ranks = cls(ops={}, axes={}, flat={})
        for node in graph.nodes:
            ranks._add(node, vocabulary.classify(node), _known(node, shapes), vocabulary)
        return ranks

    def after(self, graph: Graph, vocabulary: Vocabulary, edited: Container[Node]) -> Ranks:
        """The ranks of the same graph after nodes were edited, erased and inserted."""
        ranks = Ranks(ops={}, axes={}, flat={})
        for node in graph.nodes:
            is_kept = node in self.ops and node not in edited
            op = self.ops[node] if is_kept else vocabulary.classify(node)
            ranks._add(node, op, self.axes[node] if is_kept else None, vocabulary)
        return ranks

    def is_vector(self, match: Match) -> bool:
        """Whether a site reads ``[N, C]``."""
        return self.axes[match.node] == 2 and wrapped(match.node, match.op, self.ops) is None

    def _add(self, node: Node, op: Op, axes: int | None, vocabulary: Vocabulary) -> None:
        self.ops[node] = op
        self.axes[node] = self._inferred(node, op, vocabulary) if axes is None else axes
        self.flat[node] = self._flat_rank(node, op)
        if isinstance(op, (Affine, Permute)) and self.axes.get(op.source) is None:
            self.axes[op.source] = _read_by(op)

    def _inferred(self, node: Node, op: Op, vocabulary: Vocabulary) -> int | None:
        if vocabulary.tensor_name(node) is not None:
            tensor = vocabulary.tensor(vocabulary.tensor_name(node))
            return None if tensor is None or is_uninitialized(tensor) else tensor.ndim
        match op:
            case Elementwise():
                return self._broadcast(op)
            case AdaptivePool() | WindowPool() | Affine(form=Form.CONV):
                return op.rank + 2
            case Permute(swap=False):
                return len(op.dims)
            case View():
                return _sizes(op.sizes)
            case Affine() | FeatureNorm() | Permute() | Concat():
                return self.axes.get(operands(op)[0])
            case Flatten() | Unflatten() | Unsqueeze() | Reduce() | Index():
                before = self.axes.get(op.source)
                return None if before is None else before + _added(op, before)
            case Squeeze() | Expand() | Unfold() | Fold() | Product() | Opaque() | ShapeValue() | Subgraph():
                return None  # what an operand's shape decides, or no tensor

    def _broadcast(self, op: Elementwise) -> int | None:
        if op.module_rank is not None and op.module_rank > 1:
            return op.module_rank + 2
        tensors = [source for source in op.sources if not is_shape_value(source)]
        known = [self.axes.get(source) for source in tensors]
        return max((axes for axes in known if axes is not None), default=None) if None not in known else None

    def _flat_rank(self, node: Node, op: Op) -> int:
        source = None if isinstance(op, Concat | Product) else next(iter(operands(op)), None)
        before = None if source is None else self.axes.get(source)
        if source is None or before is None or self.axes[node] is None:
            return _FLAT_RANK
        return min(before - 2, MAX_RANK) if before > 2 else self.flat[source]


def _known(node: Node, shapes: Shapes | None) -> int | None:
    shape = None if shapes is None else shapes.get(node)
    if shape is not None:
        return len(shape)
    value = value_of(node)
    return None if value is None else value.ndim


def _read_by(op: Affine | Permute) -> int | None:
    """How many axes an op takes; of a convolution presumed, as it takes a map without a batch too."""
    if isinstance(op, Permute):
        return None if op.swap else len(op.dims)
    return op.rank + 2 if op.form is Form.CONV else None


def _sizes(sizes: tuple[Any, ...]) -> int | None:
    is_plain = all(isinstance(size, (int, Node)) or size in (BATCH, CHANNELS) for size in sizes)
    return len(sizes) if is_plain and sizes else None


def _added(op: Flatten | Unflatten | Unsqueeze | Reduce | Index, before: int) -> int:
    """How many axes an op adds to the ``before`` of its source."""
    match op:
        case Flatten():
            return op.start % before - op.end % before
        case Unflatten():
            return len(op.sizes) - 1
        case Unsqueeze():
            return 1
        case Reduce():
            return 0 if op.keepdim else -len(op.dims)
        case Index():
            return sum((item is None) - (type(item) is int) for item in op.items)
