"""The two things under comparison, run alike: a module in eager mode, an ONNX file on a provider."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol, Self

import numpy as np

from fxexport.language import Graph
from fxexport.numerics.evaluate import has_bound
from fxexport.terms.pool_first import MapOutput
from fxexport.terms.term import Array, Head, HeadTerm, Kind, TermGraph, find_head
from fxexport.untrusted.limits import MAX_SITES
from fxpasses.errors import CheckError

EAGER = "eager"

Feed = tuple[Array, ...]
Feeds = Sequence[Feed]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """Runs of several batches, joined: the outputs of the model as it is, and values tapped inside it."""

    outputs: tuple[Array, ...]
    taps: dict[str, Array]


class BatchError(Exception):
    """The model does not run at a batch size; the cause says why."""

    def __init__(self, size: int, cause: Exception) -> None:
        super().__init__(f"it does not run at batch {size} ({(str(cause).splitlines() or [''])[0]})")


class Subject(Protocol):
    """A model that can be run whole, tapped, and run one site at a time."""

    name: str
    dialect: str
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    output_ranks: tuple[int | None, ...]
    graph: TermGraph
    head: Head
    maps: tuple[MapOutput, ...]
    doubt: str | None
    """What the model may compute that its graph does not show, as a clause."""

    @property
    def language(self) -> Graph | str:
        """The model in the closed language, at the size of its samples or wherever it is defined.

        Or why it is not in it.
        """

    @property
    def language_at_all_sizes(self) -> Graph | str:
        """The same wherever it is defined."""

    @property
    def has_sizes(self) -> bool:
        """Whether it may take inputs of other sizes."""

    @property
    def runs_at_other_sizes(self) -> bool:
        """Whether it does."""

    def commuted(self) -> Self:
        """The same model, read with its sites behind their pools; outputs that are maps are then ``maps``."""

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that it runs at, or None where any will do."""

    def batches(self, wanted: Sequence[int]) -> tuple[int, ...]:
        """As many batch sizes as ``wanted``: those, where it takes them, else others that it takes."""

    def outputs(self, feeds: Feeds, provider: str) -> tuple[Array, ...]:
        """Outputs of the model as it is, over all batches.

        Run once for each provider and sizes of batches: the same subject gets the same samples.

        Raises:
            BatchError: it does not run at one of the sizes.
        """

    def rerun(self, feeds: Feeds, provider: str) -> tuple[Array, ...]:
        """Outputs on other samples than before; nothing is kept.

        Raises:
            BatchError: it does not run at one of the sizes.
        """

    def nudged(self, feeds: Feeds, provider: str, by: float, seed: int) -> tuple[Array, ...]:
        """Outputs with weights and inputs changed by a relative ``by``, up or down at random.

        Raises:
            BatchError: it does not run at one of the sizes.
        """

    def outputs64(self, feeds: Feeds) -> tuple[Array, ...] | None:
        """Outputs computed in float64; None where that cannot be done in reasonable time, or at all."""

    def observe(self, feeds: Feeds, provider: str) -> Run:
        """``outputs`` and the values of ``tapped(head)``; run once, as ``outputs`` are.

        Raises:
            BatchError: it does not run at one of the sizes.
        """

    @property
    def is_misread(self) -> bool:
        """Whether it gave other values on what was observed than the graph that its head is read from."""

    def runner(self, provider: str, *, is_tapped: bool) -> Callable[[Feed], Run]:
        """What runs one batch after another and keeps nothing; taps too if ``is_tapped``.

        It is called after ``outputs`` or ``observe``, and raises ``BatchError`` as they do.
        """

    def repeats(self, provider: str) -> bool | None:
        """Whether the model, run again on a batch, gave the same bits; None where it was run once."""

    def run_site(
        self, site: HeadTerm, features: Array, weight: Array | None, provider: str, *, has_bias: bool = True
    ) -> Array:
        """``[N, O]`` of the site alone on ``[N, K]``; without ``has_bias`` its bias is zero.

        With ``weight`` in place of its own there is no bias either.
        """

    def run_part(self, result: HeadTerm, source: HeadTerm, values: Array, provider: str) -> Array:
        """``result`` where ``source`` has these values; nothing else upstream may be needed but constants."""


def head_of(graph: TermGraph) -> Head:
    """The head of a model, each of whose layers is to be run alone.

    Raises:
        CheckError: it has more of them than anybody's.
    """
    head = find_head(graph)
    if len(head.sites) > MAX_SITES:
        what = f"its heads have {len(head.sites):,} layers, more than the limit of {MAX_SITES:,}"
        raise CheckError(what, fix="check a model with fewer")
    return head


def tapped(head: Head) -> tuple[str, ...]:
    """Values to observe: what the head reads, every site, and every operator without a bound."""
    wanted = (*head.boundary, *(term for term in head.terms if term.affine or not has_bound(term)))
    return tuple(dict.fromkeys(t.value for t in wanted if t.value and t.kind is not Kind.CONSTANT))


def joined(parts: Sequence[Sequence[Array]]) -> tuple[Array, ...]:
    """The arrays of several batches, each position as one array.

    Raises:
        CheckError: an output has other axes on one batch than on another.
    """
    columns = [[np.atleast_1d(part) for part in column] for column in zip(*parts, strict=True)]
    for index, column in enumerate(columns):
        shapes = dict.fromkeys(part.shape[1:] for part in column)
        if len(shapes) > 1:
            shown = " and ".join(str(list(part.shape)) for part in column[:2])
            raise CheckError(
                f"output {index} is of shape {shown} on batches of other sizes: its axes depend on the batch",
                fix="keep the batch axis: squeeze named axes, as in x.squeeze(-1), not all of them",
            )
    return tuple(map(np.concatenate, columns))


def joined_taps(parts: Sequence[Sequence[Array]]) -> tuple[Array, ...]:
    """The same of values inside, along whichever axis has the batch: a stack of heads has it second.

    Raises:
        CheckError: several axes of one have.
    """
    columns = [[np.atleast_1d(part) for part in column] for column in zip(*parts, strict=True)]
    found = []
    for column in columns:
        axis = _batch_axis(column)
        if len({(*part.shape[:axis], *part.shape[axis + 1 :]) for part in column}) > 1:
            shown = " and ".join(str(list(part.shape)) for part in column[:2])
            raise CheckError(
                f"a value inside is of shape {shown} on other batches: several axes depend on the batch",
                fix="give files of a fixed batch, which are certified at that batch",
            )
        found.append(np.concatenate(column, axis))
    return tuple(found)


def _batch_axis(column: Sequence[Array]) -> int:
    first = column[0].shape
    axes = [axis for axis in range(len(first)) if any(part.shape[axis] != first[axis] for part in column)]
    return axes[0] if len(axes) == 1 else 0


def same_bits(a: Sequence[Array], b: Sequence[Array]) -> bool:
    """True for the same arrays, bit for bit; NaN equals the same NaN."""
    pairs = zip(a, b, strict=True)
    return all(x.shape == y.shape and x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in pairs)
