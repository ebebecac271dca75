"""A graph as terms: what is computed, with views and the form of an affine site taken away.

``module_graph`` writes a model of either dialect as terms. A view ``[N, C, *k] ↔ [N, C·∏k]``
has no term of its own: its value is that of what it views. A Linear on ``[N, K]`` and a convolution that
covers its whole map are the same ``AFFINE`` term over a ``[O, K]`` matrix. So two models that differ only
in the form of their sites have equal terms, and whatever else differs shows.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fxpasses.errors import InternalError

Array = NDArray[Any]
Shape = tuple[int, ...]

CONCAT = "concat"
"""``HeadTerm.function`` of several values of one cell per channel, joined along the channels."""
MAXIMUM = "maximum"
"""``HeadTerm.function`` of the maximum over all cells of each channel."""
SOFTMAX = "softmax"
"""``HeadTerm.function`` of the softmax over the only axis of a sample."""

QUANTIZE = "QuantizeLinear"
"""``HeadTerm.function`` of reals as integers, by a scale and a zero point: its ``constants``."""
DEQUANTIZE = "DequantizeLinear"
"""``HeadTerm.function`` of such integers as reals."""


class Kind(enum.StrEnum):
    """What a term is."""

    INPUT = "input"
    CONSTANT = "constant"
    AFFINE = "affine"
    POOL = "pool"
    ELEMENTWISE = "elementwise"
    OP = "op"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Spots:
    """How an operator applies a site at many places at once.

    Attributes:
        extents: a shape of the value that the operator may read, the batch included.
        axis: the dimension that it sums over, in whose place the result has the site's outputs.
        result: name of the value that the operator gives.
    """

    extents: Shape
    axis: int
    result: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SiteWeights:
    """The weights of an affine site, normalised.

    Attributes:
        weight: ``[O, K]``, columns in the row-major order of the value that the site reads before any
            view or permutation.
        bias: ``[O]`` or None.
        kernel_size: kernel of a convolution; empty for a linear.
        operand: shape, without the batch, of the value that the operator itself reads.
        reads: name of the value that the operator itself reads, behind any view.
        columns: for each operand element, its column of ``weight``; None where the order is the same.
        is_transposed: whether the stored weight is ``[K, O]``.
        spelling: the operator as it is written.
        spots: where the operator applies it, if at many places of a sample; ``columns`` is None then.
    """

    weight: Array
    bias: Array | None
    weight_name: str
    bias_name: str | None
    kernel_size: tuple[int, ...]
    operand: Shape
    reads: str
    columns: NDArray[np.int64] | None
    is_transposed: bool = False
    spelling: str = ""
    spots: Spots | None = None

    @property
    def is_spread(self) -> bool:
        """Whether the operator applies the site at every position of a map."""
        return self.spots is not None and self.spots.axis == 1 and set(self.kernel_size) == {1}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scaling:
    """``factor · x + shift``, of each channel: what sums and products with constants do to a value.

    Shapes:
        factor, shift: [C].
    """

    factor: NDArray[np.float64]
    shift: NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeadTerm:
    """One value of a model.

    Attributes:
        value: name of the value in its graph, to be tapped.
        signature: the operator, for messages and for what little is asked of its name.
        shape: its own shape without the batch; None where unknown.
        constants: of a constant its elements; of other operators those constants that a file gives them.
        affine: the weights, for ``AFFINE`` only.
        pointwise: the site that an ``OP`` applies at every position of a map.
        function: what ``evaluate`` can bound, whatever its spelling: the name under which ``activations``
            knows an ``ELEMENTWISE`` term, e.g. ``"relu"``, or ``CONCAT``, ``MAXIMUM`` or ``SOFTMAX``.
        scaling: what it does to its one operand that is no constant, where it adds and multiplies by those.
    """

    kind: Kind
    value: str
    node: str
    signature: str
    operands: tuple[HeadTerm, ...] = ()
    shape: Shape | None = None
    constants: tuple[Array, ...] = ()
    affine: SiteWeights | None = None
    pointwise: SiteWeights | None = None
    function: str | None = None
    scaling: Scaling | None = None

    @property
    def varying(self) -> tuple[HeadTerm, ...]:
        """The operands that its result is a function of; where it scales, the one that it scales."""
        return self.operands if self.scaling is None else tuple(filter(_is_computed, self.operands))


def _is_computed(term: HeadTerm) -> bool:
    """Whether it is no constant, and no view of one."""
    while term.kind in (Kind.OP, Kind.ELEMENTWISE) and len(term.operands) == 1:
        term = term.operands[0]
    return term.kind is not Kind.CONSTANT


TermGraph: TypeAlias = tuple[HeadTerm, ...]
"""A model as terms: those of its outputs, in order."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Head:
    """The part of a model between its feature maps and its outputs.

    Attributes:
        sites: affine terms, in the order in which a walk back from the outputs leaves them.
        boundary: what the head reads: maps before the pool, model inputs, constants.
        terms: every term of the head, operands before users.
    """

    sites: tuple[HeadTerm, ...]
    boundary: tuple[HeadTerm, ...]
    terms: tuple[HeadTerm, ...]

    @property
    def kind(self) -> str:
        """The storage type of its first site."""
        return next((str(site.affine.weight.dtype.name) for site in self.sites if site.affine), "float32")


def at_every_position(affine: SiteWeights, result: str, rank: int, axis: int = 1) -> SiteWeights:
    """A site as an operator on values of ``rank`` dimensions of any extents, summing over ``axis``.

    ``result`` names the operator's value.
    """
    free = [1, *_CELLS, *([2] * rank)][: rank - 1]
    extents = (*free[:axis], affine.weight.shape[1], *free[axis:])
    return dataclasses.replace(
        affine, operand=extents[1:], spots=Spots(extents=extents, axis=axis, result=result)
    )


_CELLS = (2, 3, 2)
"""Extents of the maps on which such sites are run alone: not square, so that exchanged axes show."""


def affine_of(term: HeadTerm) -> SiteWeights:
    """The weights of an affine term.

    Raises:
        InternalError: the term is no affine site.
    """
    if term.affine is None:
        raise InternalError(f"{term.node!r} is {term.kind}, not an affine site")
    return term.affine


def is_inside_head(term: HeadTerm) -> bool:
    """True for affine sites, pools, and operators whose result has one cell per channel."""
    if term.kind in (Kind.AFFINE, Kind.POOL):
        return True
    if term.kind in (Kind.INPUT, Kind.CONSTANT) or term.shape is None:
        return False
    return sum(extent != 1 for extent in term.shape) <= 1


def find_head(graph: TermGraph) -> Head:
    """The head: what reaches an output without meeting a feature map again.

    The walk goes back from each output through affine sites and values that have one cell per channel,
    and ends behind a pool, at a value with several cells, at a model input or at a constant. A map of one
    cell that is pooled all the same ends it too: at another input size it would have several.
    """
    reached = postorder(graph, stop=lambda term: not is_inside_head(term))
    pooled = {source for term in reached if term.kind is Kind.POOL for source in term.operands}
    pooled -= {term for term in pooled if term.kind in (Kind.AFFINE, Kind.POOL)}
    left = postorder(graph, stop=lambda term: term in pooled or not is_inside_head(term))
    inside = [term for term in left if term not in pooled and is_inside_head(term)]
    return Head(
        sites=tuple(term for term in inside if term.kind is Kind.AFFINE),
        boundary=tuple(term for term in left if term in pooled or not is_inside_head(term)),
        terms=tuple(inside),
    )


def postorder(roots: Sequence[HeadTerm], stop: Callable[[HeadTerm], bool]) -> tuple[HeadTerm, ...]:
    """Every term that the roots need, operands before users, not going past where ``stop`` holds."""
    seen: set[HeadTerm] = set()
    left: list[HeadTerm] = []
    stack = [(term, False) for term in reversed(roots)]
    while stack:
        term, is_left = stack.pop()
        if is_left:
            left.append(term)
        elif term not in seen:
            seen.add(term)
            stack.append((term, True))
            if not stop(term):
                stack.extend((operand, False) for operand in reversed(term.operands))
    return tuple(left)
