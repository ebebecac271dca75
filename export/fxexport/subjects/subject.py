"""The two things under comparison, run alike: a module in eager mode, an ONNX file on a provider."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, Self, TypeVar

import numpy as np

from fxexport.language import Graph
from fxexport.numerics.bounds import FP32, Precision, looser, precision_of
from fxexport.numerics.evaluate import has_bound
from fxexport.terms.pool_first import MapOutput, commuted
from fxexport.terms.term import Array, Head, HeadTerm, Kind, TermGraph, find_head
from fxexport.untrusted.limits import MAX_SITES
from fxpasses.errors import CheckError

EAGER = "eager"

Adjustment = Callable[[str | None, Array], Array]
"""What becomes of a stored tensor of floats, by its name, or of an input, which has none here."""
Feed = tuple[Array, ...]
Feeds = Sequence[Feed]
Found = TypeVar("Found")


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
    kinds: frozenset[str]
    """The types of the values that it computes."""
    parameter_count: int
    """How many numbers it has stored."""
    cell_count: int
    """How many numbers it computes of a sample, about."""
    doubt: str | None
    """What the model may compute that its graph does not show, as a clause."""
    is_misread: bool = False
    """Whether it gave other values on what was observed than the graph that its head is read from."""
    taps_in_place: bool = False
    """Whether to tap values changes nothing of how it runs, as it may what a runtime fuses."""
    _is_exact: bool = False
    _outputs: dict[tuple[object, ...], tuple[Array, ...]]
    _runs: dict[tuple[object, ...], Run]
    _repeats: dict[str, bool]
    batch_axes: dict[int, int]
    """Of each output the axis that has the batch, as far as batches of several sizes have shown it."""

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

    def _hold(self, graph: TermGraph) -> None:
        """Takes what was read of the model, which was not run yet."""
        self.graph, self.head, self.maps = graph, head_of(graph), ()
        self._outputs, self._runs, self._repeats, self.batch_axes = {}, {}, {}, {}

    @functools.cached_property
    def commuted(self) -> Self:
        """The same model, read with its sites behind their pools; outputs that are maps are then ``maps``."""
        other, found = copy.copy(self), commuted(self.graph)
        other.graph, other.head, other.maps, other._runs = found.graph, found.head, found.maps, {}
        return other

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that it runs at, or None where any will do."""

    def batches(self, wanted: Sequence[int]) -> tuple[int, ...]:
        """As many batch sizes as ``wanted``: those, where it takes them, else others that it takes."""

    def runs_on(self, target: str) -> str:
        """What runs it for a target: its provider, if it is not for a module."""
        return target

    def is_on_cpu(self, target: str) -> bool:
        """Whether a target runs it on the CPU."""
        return target == "cpu"

    def claims(self, dtype: str, target: str) -> tuple[Precision, ...]:
        """Precisions that values of a storage type may have on a target, tightest first.

        What holds under the first holds under the others; which one was needed is part of the result. TF32 is
        no excuse on a CPU, whose kernels do not shorten the operands of fp32.
        """
        first = precision_of(dtype) or FP32
        weaker = looser(first)
        if weaker is None or (first is FP32 and self.is_on_cpu(target)):
            return (first,)
        return first, weaker

    def _whole(self, provider: str) -> Callable[[Feed], tuple[Array, ...]]:
        """What runs the model as it is on one batch after another."""

    def _tapping(self, names: Sequence[str], provider: str) -> Callable[[Feed], Run]:
        """What runs its graph, and tells these values too."""

    def _known(self, feed: Feed, outputs: tuple[Array, ...]) -> dict[str, Array]:
        """Values inside it that are told without: of a file those of its inputs and outputs."""
        return {}

    def _is_known(self, name: str) -> bool:
        return False

    def outputs(self, feeds: Feeds, provider: str) -> tuple[Array, ...]:
        """Outputs of the model as it is, over all batches.

        Run once for each provider and sizes of batches: the same subject gets the same samples.

        Raises:
            BatchError: it does not run at one of the sizes.
        """
        key = (self.runs_on(provider), *(len(feed[0]) for feed in feeds))
        if key not in self._outputs:
            self._outputs[key] = self.joined(self._run_twice(feeds, provider))
        return self._outputs[key]

    def joined(self, parts: Sequence[Sequence[Array]]) -> tuple[Array, ...]:
        """The outputs of several batches, each as one array ``[N, …]``, whichever axis has its batch.

        Raises:
            CheckError: an output has other axes on one batch than on another.
        """
        found = []
        for index, column in enumerate(zip(*parts, strict=True)):
            pieces = [np.atleast_1d(part) for part in column]
            axis = _batch_axis(pieces, f"output {index}")
            if axis is not None:
                self.batch_axes[index] = axis
            axis = self.batch_axes.get(index, 0)
            found.append(np.concatenate([np.moveaxis(piece, axis, 0) for piece in pieces]))
        return tuple(found)

    def as_given(self, output: int, place: tuple[int, int], rows: int) -> tuple[int, int]:
        """A place in ``[N, K]`` of an output as one in the output as the model gives it, laid out flat.

        Args:
            output: its position.
            place: sample, and place in the sample.
            rows: how many samples there are.
        """
        axis = self.batch_axes.get(output, 0)
        if not axis:
            return place
        sample = next(iter(self._outputs.values()))[output].shape[1:]
        inner = [int(number) for number in np.unravel_index(place[1], sample)]
        inner.insert(axis, place[0])
        given = (*sample[:axis], rows, *sample[axis:])
        first, column = divmod(int(np.ravel_multi_index(inner, given)), math.prod(given[1:]))
        return first, column

    def rerun(self, feeds: Feeds, provider: str) -> tuple[Array, ...]:
        """Outputs on other samples than before; nothing is kept.

        Raises:
            BatchError: it does not run at one of the sizes.
        """
        return self.joined(_each(self._whole(provider), feeds))

    def observe(self, feeds: Feeds, provider: str) -> Run:
        """``outputs`` and the values of ``tapped(head)``; run once, as ``outputs`` are.

        Raises:
            BatchError: it does not run at one of the sizes.
        """
        key = (self.runs_on(provider), *(len(feed[0]) for feed in feeds))
        if key not in self._runs:
            names = tapped(self.head)
            missing = [name for name in names if not self._is_known(name)]
            # a session, with its copies of the weights, does not outlive its runs
            inner = _each(self._tapping(missing, provider), feeds) if missing else []
            if key not in self._outputs:
                self._outputs[key] = self.joined(self._own_outputs(feeds, inner, provider))
            outputs = self._outputs[key]
            if inner and self.taps_in_place:
                self.is_misread |= not same_bits(outputs, self.joined([run.outputs for run in inner]))
            taps = joined_taps([[run.taps[name] for name in missing] for run in inner])
            whole = tuple(map(np.concatenate, zip(*feeds, strict=True)))
            own = [np.moveaxis(rows, 0, self.batch_axes.get(i, 0)) for i, rows in enumerate(outputs)]
            kept = self._known(whole, tuple(own)) | dict(zip(missing, taps, strict=True))
            self._runs[key] = Run(outputs=outputs, taps={name: kept[name] for name in names})
        return self._runs[key]

    def _own_outputs(self, feeds: Feeds, inner: Sequence[Run], provider: str) -> Sequence[tuple[Array, ...]]:
        """Outputs of the model itself.

        The largest batch is left to the run that taps values where on all others the two gave the same bits,
        as two runs of the model would.
        """
        largest = max(range(len(feeds)), key=lambda index: len(feeds[index][0]))
        others = [index for index in range(len(feeds)) if index != largest]
        if others and inner and self.doubt is None:
            found = _each(self._whole(provider), [feeds[index] for index in others])
            if all(same_bits(own, inner[index].outputs) for index, own in zip(others, found, strict=True)):
                self._repeats.setdefault(self.runs_on(provider), True)
                self._is_exact = self.taps_in_place
                found.insert(largest, inner[largest].outputs)
                return found
        return self._run_twice(feeds, provider)

    def _run_twice(self, feeds: Feeds, provider: str) -> list[tuple[Array, ...]]:
        """Outputs of the model itself; the smallest batch is run again."""
        run = self._whole(provider)
        results = _each(run, feeds)
        smallest = min(range(len(feeds)), key=lambda index: len(feeds[index][0]))
        is_same = same_bits(run(feeds[smallest]), results[smallest])
        on = self.runs_on(provider)
        self._repeats[on] = self._repeats.get(on, True) and is_same
        return results

    def runner(self, provider: str, *, is_tapped: bool) -> Callable[[Feed], Run]:
        """What runs one batch after another and keeps nothing; taps too if ``is_tapped``.

        It is called after ``outputs`` or ``observe``, and raises ``BatchError`` as they do; sessions live as
        long as it does.
        """
        names = tapped(self.head) if is_tapped else ()
        missing = [name for name in names if not self._is_known(name)]
        inner = self._tapping(missing, provider) if missing else None
        whole = self._whole(provider)

        def run(feed: Feed) -> Run:
            found = None if inner is None else inner(feed)
            outputs = found.outputs if found is not None and self._is_exact else whole(feed)
            kept = self._known(feed, outputs) | ({} if found is None else found.taps)
            return Run(outputs=outputs, taps={name: kept[name] for name in names})

        return run

    def repeats(self, provider: str) -> bool | None:
        """Whether the model, run again on a batch, gave the same bits; None where it was run once."""
        return self._repeats.get(self.runs_on(provider))

    def nudged(self, feeds: Feeds, provider: str, by: float, seed: int) -> tuple[Array, ...]:
        """Outputs with weights and inputs changed by a relative ``by``, up or down at random.

        Raises:
            BatchError: it does not run at one of the sizes.
        """

    def outputs64(
        self, feeds: Feeds, adjust: Adjustment | None = None, *, rounding: float = 0.0
    ) -> tuple[Array, ...] | None:
        """Outputs computed in float64; None where that cannot be done in reasonable time, or at all.

        Args:
            feeds: the batches.
            adjust: what becomes of what is stored and given first, once that is in float64.
            rounding: by what share each operator's results are changed, up or down at random.
        """

    def values(self, feed: Feed, provider: str) -> Mapping[str, Array] | None:
        """What operators inside give in the model's own types, by some name; None where that is not told.

        Raises:
            BatchError: it does not run so.
        """

    def values64(self, feed: Feed, adjust: Adjustment | None = None) -> Mapping[str, Array] | None:
        """The same computed in float64; None as ``outputs64``."""

    def is_weight(self, name: str) -> bool:
        """Whether a stored tensor may be changed a little: it is no limit, exponent or scale of sizes."""
        return True

    def tensors(self) -> Iterator[tuple[str, Callable[[], Array]]]:
        """Every stored tensor of floats, by its name: what reads its numbers."""

    def stored(self, name: str) -> Array | None:
        """The numbers that it stores under a name; None where there are none, or they are no floats."""
        return next((read() for other, read in self.tensors() if other == name), None)

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


def _each(run: Callable[[Feed], Found], feeds: Feeds) -> list[Found]:
    return [run(feed) for feed in feeds]


def joined_taps(parts: Sequence[Sequence[Array]]) -> tuple[Array, ...]:
    """Values inside over several batches, along whichever axis has the batch: a stack of heads has it second.

    Raises:
        CheckError: several axes of one have.
    """
    columns = [[np.atleast_1d(part) for part in column] for column in zip(*parts, strict=True)]
    return tuple(np.concatenate(column, _batch_axis(column, "a value inside") or 0) for column in columns)


def _batch_axis(column: Sequence[Array], what: str) -> int | None:
    """The axis along which a value of several batches has the batch; None where all are of one shape.

    Raises:
        CheckError: it has other axes on one batch than on another.
    """
    first = column[0].shape
    if any(part.ndim != len(first) for part in column):
        axes = [0, 0]
    else:
        axes = [axis for axis in range(len(first)) if any(part.shape[axis] != first[axis] for part in column)]
    if len(axes) > 1:
        shown = " and ".join(str(list(part.shape)) for part in column[:2])
        raise CheckError(
            f"{what} is of shape {shown} on batches of other sizes: its axes depend on the batch",
            fix="keep the batch axis: squeeze named axes, as in x.squeeze(-1), not all of them; "
            "a file of a fixed batch is certified at that batch",
        )
    return axes[0] if axes else None


def same_bits(a: Sequence[Array], b: Sequence[Array]) -> bool:
    """True for the same arrays, bit for bit; NaN equals the same NaN."""
    pairs = zip(a, b, strict=True)
    return all(x.shape == y.shape and x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in pairs)
