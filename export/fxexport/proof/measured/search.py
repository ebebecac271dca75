"""A search for inputs on which two models differ, where their graphs leave open whether they do.

Samples are ordinary: an operator that acts on large values, on negative ones, on every value alike, from
some batch on, or at another size, acts on none of them. So both models are run on the samples scaled by
powers of two and with their signs changed, on constants, ramps and single cells, at every batch from 1 to 17,
and at a larger size.

Of small models all of that is run. Of others it is so much that it takes a given number of runs of a sample:
one input of each kind in turn, those first that lie far from the samples and from each other.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from fxexport.language import Dims
from fxexport.numerics.bounds import Precision
from fxexport.numerics.evaluate import flat
from fxexport.proof.measured.batches import Streamed
from fxexport.proof.measured.far_apart import Compared, far_apart, witness_of
from fxexport.proof.measured.other_size import at_sizes, map_axes, resized, why_not
from fxexport.proof.pairing.derivation import Derived
from fxexport.proof.pairing.outputs import Pair
from fxexport.results import Failure
from fxexport.subjects.onnx_subject import OnnxSubject
from fxexport.subjects.samples import Samples
from fxexport.subjects.subject import BatchError, Feeds, Subject
from fxexport.terms.term import Array
from fxexport.witness import Witness

_ROWS = 2
_MOST_ROWS = 17
_UP = (4, 8, 16, 2, 6, 1, 12, 3, 5, 7, 24)
_DOWN = (-4, -16, -1, -8, -2)
_EXTREME = (64, 100, 110, -64, 40, 80, 120, 32, 48, -100, -32)
"""Powers of two; the extreme ones may overflow inside the models."""

_BUDGET = 64
"""Samples to run: eight times those that every certificate runs."""
_SMALL = 2**24
"""So many samples more, if one takes so few parameters and cells of inputs that together they are no more."""

_CELLS = 2**24
"""Of all inputs of one try together."""

Change = Callable[[Array], Array]
_Change = tuple[str, Change, int]
"""How inputs are made, in words and by what, and by which power of two they are scaled."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Found:
    """What a search showed.

    Attributes:
        failures: in what the two models differ, on ``witness``; empty where no input tells them apart.
        witness: the inputs that tell them apart.
        tried: how many inputs both models ran on.
        is_narrow: whether that were extents, too, of which no graph shows what one of the two does there.
    """

    failures: tuple[Failure, ...] = ()
    witness: Witness | None = None
    tried: int = 0
    is_narrow: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attempt:
    """Inputs for both models, and how they were made, in words."""

    made: str
    samples: Samples
    rows: int
    power: int = 0
    is_changed: bool = False
    is_outside: bool = False
    is_unseen: bool = False

    @property
    def is_extreme(self) -> bool:
        """Whether numbers may leave the range of their type."""
        return self.power in _EXTREME


def search(
    pair: Pair, samples: Samples, precision: Precision, derived: Derived, outside: Sequence[Sequence[Dims]]
) -> Found:
    """The first input on which the two models differ by more than rounding, or how many do not tell.

    Args:
        pair: the two models.
        samples: the samples to start from.
        precision: what the models compute in.
        derived: what their graphs say. Where integers are places of values, equal ones may be in any order:
            a constant, or a softmax of large values, has many. Then only other outputs tell a difference,
            and no inputs of many equal cells, since what is made of places need be no integer.
        outside: extents of the first model's inputs at which one of the two may be another function.
    """
    subjects, on = pair.subjects, pair.on
    streamed = Streamed(subjects[0], on[0]), Streamed(subjects[1], on[1])
    tried, has_unseen = 0, False
    is_short = all("float16" in side.kinds for side in subjects)  # whose squares of 256 overflow
    is_sized = all(
        subjects[0].output_ranks[i] == subjects[1].output_ranks[j] for _, i, j in pair.outputs
    )  # a head on windows gives more positions of a larger map, and that is what it is for
    attempts = itertools.chain(
        _outside(subjects, samples, outside, is_sized=is_sized),
        _outside(subjects, samples, derived.fixed, is_sized=is_sized, is_unseen=True),
    )
    if not derived.is_proved:
        further = _larger(subjects, samples) if is_sized else iter(())
        if not derived.is_narrow:
            further = itertools.chain(further, _tries(subjects, samples, has_ties=not derived.leaves_ties))
        attempts = itertools.chain(attempts, _within_budget(further, subjects, samples))
    for attempt in attempts:
        batches = [attempt.samples.ordered(side.input_names).batch(0, attempt.rows) for side in subjects]
        feeds: tuple[Feeds, Feeds] = ([batches[0]], [batches[1]])
        with np.errstate(all="ignore"):
            failures = _differences(
                pair,
                streamed,
                feeds,
                precision,
                is_changed=attempt.is_changed,
                is_extreme=attempt.is_extreme or is_short,
                leaves_ties=derived.leaves_ties,
            )
        if failures is None or (attempt.is_outside and failures and failures[0].index is None):
            continue  # where one of them does not run, none of them promises to
        tried += 1
        has_unseen |= attempt.is_unseen
        if failures:
            told = tuple(
                dataclasses.replace(item, what=f"{item.what}, on {attempt.made}") for item in failures
            )
            witness = witness_of(pair, failures[0], (batches[0], batches[1]), attempt.made)
            return Found(failures=told, witness=witness, tried=tried)
    return Found(tried=tried, is_narrow=has_unseen)


def _differences(
    pair: Pair,
    streamed: tuple[Streamed, Streamed],
    feeds: tuple[Feeds, Feeds],
    precision: Precision,
    *,
    is_changed: bool,
    is_extreme: bool,
    leaves_ties: bool,
) -> list[Failure] | None:
    """In what the two differ; None where the reference does not run."""
    on = pair.on
    try:
        left = streamed[0].outputs(feeds[0], on[0])
    except BatchError:
        return None
    try:
        right = streamed[1].outputs(feeds[1], on[1])
    except BatchError as error:
        return [Failure(what=str(error), side="candidate", provider=on[1])]
    compared = [
        Compared(name=name, positions=(i, j), reference=flat(left[i]), candidate=flat(right[j]))
        for name, i, j in pair.outputs
        if not (leaves_ties and left[i].dtype.kind == right[j].dtype.kind == "i")
    ]
    for item in compared:
        if item.reference.shape != item.candidate.shape:
            what = f"{item.candidate.shape[1]} values a sample where {item.reference.shape[1]} are due"
            return [Failure(what=what, name=item.name, side="candidate")]
    return far_apart(pair, feeds, compared, precision, is_changed=is_changed, is_extreme=is_extreme)


def _outside(
    subjects: tuple[Subject, Subject],
    samples: Samples,
    outside: Sequence[Sequence[Dims]],
    *,
    is_sized: bool,
    is_unseen: bool = False,
) -> Iterator[Attempt]:
    """The samples at extents next to those for which a recording stands."""
    given = samples.ordered(subjects[0].input_names)
    given = dataclasses.replace(given, names=tuple(subjects[0].input_names))
    own = [tuple(rows.shape) for rows in given.rows]
    for dims in outside:
        shapes = [tuple(extent or 1 for extent in extents) for extents in dims]
        is_resized = [shape[1:] for shape in shapes] != [shape[1:] for shape in own]
        if (is_resized and not is_sized) or sum(map(math.prod, shapes)) > _CELLS:
            continue
        rows = next((shape[0] for shape in shapes if shape), 1)
        if all(_is_taken(side, shapes, subjects[0].input_names) for side in subjects):
            made = " and ".join("x".join(map(str, shape)) for shape in shapes)
            yield Attempt(
                made=f"the samples as {made}",
                samples=at_sizes(given, shapes),
                rows=rows,
                is_outside=True,
                is_unseen=is_unseen,
            )


def _is_taken(side: Subject, shapes: Sequence[tuple[int, ...]], names: Sequence[str]) -> bool:
    """Whether a file permits inputs of these extents; a module is tried."""
    if not isinstance(side, OnnxSubject):
        return True
    own = (
        shapes
        if set(names) != set(side.input_names)
        else [shapes[list(names).index(n)] for n in side.input_names]
    )
    fits = (
        all(b in (None, a) for a, b in zip(shape[1:], declared, strict=True))
        for shape, declared in zip(own, side.input_shapes, strict=True)
    )
    return side.fixed_batch in (None, own[0][0]) and all(fits)


def _rows(subjects: tuple[Subject, Subject], wanted: int = _ROWS) -> int:
    fixed = next((side.fixed_batch for side in subjects if side.fixed_batch is not None), None)
    return fixed or subjects[1].batches(subjects[0].batches((wanted,)))[0]


def _larger(subjects: tuple[Subject, Subject], samples: Samples) -> Iterator[Attempt]:
    larger = resized(samples, map_axes(samples, subjects))
    if all(why_not(side, larger) is None for side in subjects):
        yield Attempt(made="the samples at a larger size", samples=larger, rows=_rows(subjects))


def _within_budget(
    tries: Iterator[Attempt], subjects: tuple[Subject, Subject], samples: Samples
) -> Iterator[Attempt]:
    """Those for which the budget is enough, up to the first for which it is not."""
    cells = sum(math.prod(rows.shape[1:]) for rows in samples.rows)
    size = max(side.parameter_count for side in subjects) + cells
    left = max(_BUDGET, _SMALL // max(size, 1))
    for item in tries:
        left -= item.rows
        if left < 0:
            return
        yield item


def changed_samples(
    subjects: tuple[Subject, Subject], samples: Samples, wanted: int, *, has_ties: bool
) -> Iterator[Attempt]:
    """The samples, then changed ones, those first that reach what the samples may not.

    Args:
        subjects: the two models.
        samples: the samples to start from.
        wanted: how many of them to change at once, where both models take so many.
        has_ties: whether there may be many equal cells in them.
    """
    rows = _rows(subjects, wanted)
    yield Attempt(made="the samples", samples=samples, rows=rows)
    kinds = _by_kinds(samples, rows, has_ties=has_ties)
    for turn in itertools.zip_longest(*reversed(kinds)):
        yield from (item for item in turn if item is not None)


def _by_kinds(samples: Samples, rows: int, *, has_ties: bool) -> list[Iterator[Attempt]]:
    start = samples.batch(0, rows)
    return [_changed(samples, start, kind) for kind in _changes(start, has_ties=has_ties)]


def _tries(subjects: tuple[Subject, Subject], samples: Samples, *, has_ties: bool) -> Iterator[Attempt]:
    """One of each kind in turn."""
    changed = _by_kinds(samples, _rows(subjects), has_ties=has_ties)
    for turn in itertools.zip_longest(*changed, _batches(subjects, samples)):
        yield from (item for item in turn if item is not None)


def _batches(subjects: tuple[Subject, Subject], samples: Samples) -> Iterator[Attempt]:
    """The largest, then others from the smallest."""
    wanted = (_MOST_ROWS, 3, 4, 8, *(size for size in range(1, _MOST_ROWS) if size not in (3, 4, 8)))
    if all(side.fixed_batch is None for side in subjects):
        for size in subjects[1].batches(subjects[0].batches(wanted)):
            yield Attempt(made=f"a batch of {size} samples", samples=samples, rows=size)


def _changed(samples: Samples, start: Sequence[Array], kind: Sequence[_Change]) -> Iterator[Attempt]:
    for made, change, power in kind:
        changed = tuple(change(array) for array in start)
        if not all(np.array_equal(a, b) for a, b in zip(changed, start, strict=True)):
            arrays = dataclasses.replace(samples, rows=changed)
            rows = len(start[0])
            yield Attempt(made=made, samples=arrays, rows=rows, is_changed=True, power=power)


def _changes(start: Sequence[Array], *, has_ties: bool) -> Iterator[Sequence[_Change]]:
    """Changes of samples, by kinds."""
    yield (
        ("the samples negated", _of_floats(lambda x: -x), 0),
        ("the samples' absolute values, negated", _of_floats(lambda x: -np.abs(x)), 0),
        ("the samples' absolute values", _of_floats(np.abs), 0),
    )
    for powers in (_UP, _DOWN, _EXTREME):
        changes = [(power, _of_floats(functools.partial(_scaled, power=power))) for power in powers]
        yield [(f"the samples times 2^{power}", change, power) for power, change in changes]
    if has_ties:
        values = [(value, functools.partial(_constant, value=value)) for value in (0, 255, 1, -1, 127)]
        yield [(f"inputs of {value} everywhere", change, 0) for value, change in values]
        axes = range(max(array.ndim for array in start) - 1, 0, -1)
        ramps = [(f"a ramp along axis {axis}", functools.partial(_ramp, axis=axis), 0) for axis in axes]
        places = [(place, functools.partial(_one_hot, place=place)) for place in (0.5, 0.0, 1.0)]
        cells = [(f"one cell of 1 at {place:.0%} of each sample", change, 0) for place, change in places]
        yield [item for pair in itertools.zip_longest(ramps, cells) for item in pair if item is not None]


def _of_floats(change: Change) -> Change:
    return lambda x: change(x) if _is_float(x) else x


def _is_float(x: Array) -> bool:
    return x.dtype.kind == "f" or x.dtype.name == "bfloat16"


def _scaled(x: Array, power: int) -> Array:
    with np.errstate(over="ignore"):
        scaled = (x.astype(np.float64) * 2.0**power).astype(x.dtype)
    return scaled if np.isfinite(scaled).all() else x


def _constant(x: Array, value: int) -> Array:
    """Integers stay in the range of the samples: others may select nothing."""
    if _is_float(x):
        return np.full_like(x, value)
    low, high = int(x.min()), int(x.max())
    return np.full_like(x, min(max(value, low), high))


def _ramp(x: Array, axis: int) -> Array:
    if axis >= x.ndim or not _is_float(x):
        return x
    steps = np.linspace(-1.0, 1.0, x.shape[axis]).reshape(-1, *(1 for _ in x.shape[axis + 1 :]))
    return np.broadcast_to(steps, x.shape).astype(x.dtype)


def _one_hot(x: Array, place: float) -> Array:
    if not _is_float(x):
        return x
    cells = math.prod(x.shape[1:])
    flat_cells = np.zeros((len(x), cells), np.float32)
    flat_cells[:, round(place * (cells - 1))] = 1.0
    return flat_cells.reshape(x.shape).astype(x.dtype)
