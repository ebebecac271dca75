"""What lies further apart than rounding can take it, whatever the graphs are believed to be.

No rigorous bound of a whole model says anything: it grows by orders of magnitude with every layer. But a
model shows by itself how it magnifies small errors: every weight and every input is changed by some units
roundoff, at random, and its outputs move. Rounding inside the model moves them by less. What lies many
times that distance apart, beside the bound of the last layers and a share of the output's own size for long
sums, is not one function. Both models are asked, since one of two spellings may be the worse conditioned.

Where numbers leave the range in which squares and sums are finite, one of two spellings may overflow where
the other does not. There both models have to lie near their own values in float64, too.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from fxexport.numerics.activations import ACTIVATIONS
from fxexport.numerics.bounds import Float64, Precision, precision_of
from fxexport.numerics.evaluate import flat
from fxexport.proof.pairing.outputs import Pair
from fxexport.results import Failure
from fxexport.subjects.subject import BatchError, Feed, Feeds, Subject
from fxexport.terms.arrays import nudge
from fxexport.terms.term import CONCAT, Array, HeadTerm
from fxexport.witness import Witness

_FACTOR = 16.0
"""How many times the measured movement is allowed."""
_SEEDS = (0, 1, 2)
_COARSE = 2.0**-12
"""From this unit roundoff on sums are finer than what is stored."""
_APART = "the two models give other values, and not by rounding"
_QUICK = 2**21
_TINY = 2.0**-110
"""Differences below it may be underflow."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Compared:
    """One output of both models on the same inputs.

    Attributes:
        name: the output.
        positions: its place among the outputs of each model.
        reference: ``[N, K]`` values of the reference.
        candidate: those of the candidate.
        error: ``[N, K]`` bound on the rounding of the last layers of both, or None.
    """

    name: str
    positions: tuple[int, int] = (0, 0)
    reference: Float64
    candidate: Float64
    error: Float64 | None = None

    def furthest(
        self, excess: Float64, bound: Float64 | None, what: str, who: str | None, on: str | None = None
    ) -> Failure | None:
        """The place at which ``excess`` is largest, as a failure of ``who`` on ``on``; None without any.

        Shapes:
            excess and bound: [N, K].
        """
        if not (excess > 0).any():
            return None
        index = tuple(int(axis) for axis in np.unravel_index(int(np.nanargmax(excess)), excess.shape))
        return Failure(
            what=what,
            side=who,
            provider=on,
            name=self.name,
            index=index,
            expected=float(self.reference[index]),
            found=float(self.candidate[index]),
            bound=None if bound is None else float(bound[index]),
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How far a precision is nudged, and what is allowed at least, in units roundoff.

    Attributes:
        unit: unit roundoff.
        nudge: by how many of them weights and inputs are changed.
        floor: how many of them, of its largest value, an output may be off in any case.
    """

    unit: float
    nudge: int
    floor: int

    @classmethod
    def of(cls, precision: Precision) -> Scale:
        """That of a precision; sums in the type itself may be off by far more than one unit."""
        unit = max(precision.coarsest, precision.operand)
        return cls(unit=unit, nudge=2, floor=64) if unit >= _COARSE else cls(unit=unit, nudge=16, floor=1024)


def _coarsest(precision: Precision, subject: Subject) -> Scale:
    """Of a head's precision and those in a whole model: a head in fp32 may stand among half precision."""
    kinds = (precision_of(kind) for kind in subject.kinds)
    scales = (Scale.of(known) for known in (precision, *kinds) if known is not None)
    return max(scales, key=lambda scale: scale.unit)


def far_apart(
    pair: Pair,
    feeds: tuple[Feeds, Feeds],
    outputs: Sequence[Compared],
    precision: Precision,
    *,
    is_changed: bool = False,
    is_extreme: bool = False,
) -> list[Failure]:
    """One failure for each output that differs by more than rounding, the worst place of it.

    Nothing is run again as long as no output is off by more than its own size explains.

    Args:
        pair: the two models.
        feeds: the batches that gave the outputs.
        outputs: what they gave.
        precision: what their heads compute in.
        is_changed: whether the inputs are made to tell, and may be such as a model only rounds.
        is_extreme: whether numbers may leave the range of the type.
    """
    subjects = pair.subjects
    scale = min((_coarsest(precision, subject) for subject in subjects), key=lambda scale: scale.unit)
    outputs = [_with_own_rounding(item, subjects[0].graph[item.positions[0]], scale) for item in outputs]
    suspects = [item for item in outputs if (_excess(item, _floor(item, scale)) > 0).any()]
    if not suspects:
        return []
    sides = zip((0, 1), subjects, pair.on, feeds, strict=True)
    moving = [
        _movements(side, subject, where, part, suspects, scale, is_changed=is_changed)
        for side, subject, where, part in sides
    ]
    moved = [[np.zeros(item.reference.shape[1]) for item in suspects]] * 2
    failures = _beyond(suspects, moved, scale)
    # more movement allows more: as soon as all is explained, no further run can change that
    turns = collections.deque(enumerate(moving))
    while turns:
        side, runs = turns.popleft()
        found = next(runs, [])
        if found is None:
            return []
        if not found:  # all of its runs are done
            continue
        moved[side] = found
        failures = _beyond(suspects, moved, scale)
        if not failures:
            return []
        turns.append((side, runs))
    if (
        failures
        and is_extreme
        and not all(
            _is_faithful(subject, batch, side, outputs, scale)
            for side, (subject, batch) in enumerate(zip(subjects, feeds, strict=True))
        )
    ):
        return []
    return failures


def worst_of(outputs: Sequence[Compared]) -> Failure | None:
    """The place that lies furthest apart beyond the bound of the last layers; None where none does."""
    places = []
    for item in outputs:
        with np.errstate(invalid="ignore"):
            excess = np.abs(item.candidate - item.reference) - (0.0 if item.error is None else item.error)
        excess = np.where(np.isfinite(item.reference) != np.isfinite(item.candidate), np.inf, excess)
        place = item.furthest(excess, item.error, _APART, "candidate")
        places += [] if place is None else [(float(np.nanmax(excess)), place)]
    return max(places, key=lambda pair: pair[0], default=(0.0, None))[1]


def witness_of(pair: Pair, place: Failure | None, batch: tuple[Feed, Feed], made: str) -> Witness:
    """The witness that a batch is; without a place the candidate does not run on it."""
    reference, candidate = (
        tuple(zip(side.input_names, feed, strict=True))
        for side, feed in zip(pair.subjects, batch, strict=True)
    )
    witness = Witness(made=made, reference=reference, candidate=candidate, on=pair.on)
    if place is None or place.index is None:
        return witness
    row, column = place.index
    i, j = next((i, j) for name, i, j in pair.outputs if name == place.name)
    return dataclasses.replace(
        witness,
        output=place.name,
        positions=(i, j),
        index=pair.subjects[0].as_given(i, (row, column), len(batch[0][0])),
        expected=place.expected,
        found=place.found,
        bound=place.bound,
    )


def _with_own_rounding(item: Compared, term: HeadTerm, scale: Scale) -> Compared:
    """The output with what its function alone may be off by: a sigmoid near 0 is as exact as one near 1.

    A library adds a half to get it, and gives 0 or 2**-25 where it cannot tell; no nudge shows that.
    """
    found, terms = 0.0, [term]
    for term in terms:  # a detector joins boxes and such scores
        known = ACTIVATIONS.get(term.function or "")
        found = found if known is None else max(found, float(known.rounding(np.zeros(()))))
        is_joint = term.function == CONCAT or term.signature.startswith("Concat(")  # along any axis
        terms += [part for part in term.operands if is_joint and part not in terms]
    if not found or item.error is not None:
        return item
    return dataclasses.replace(item, error=np.full_like(item.reference, scale.unit * found))


def _floor(item: Compared, scale: Scale) -> Float64:
    """``[N, K]``: what any two orders of summation may be apart, by the size of each place."""
    size = np.where(np.isfinite(item.reference), np.abs(item.reference), 0.0).max(axis=0, initial=0.0)
    wide = np.broadcast_to(scale.floor * scale.unit * size + _TINY, item.reference.shape)
    return wide if item.error is None else wide + np.where(np.isfinite(item.error), item.error, np.inf)


def _excess(item: Compared, allowed: Float64) -> Float64:
    """``[N, K]``: how many times as far apart as is allowed, and more, the places are; NaN is not."""
    finite = np.isfinite(item.reference) & np.isfinite(item.candidate)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(finite, np.abs(item.candidate - item.reference) / allowed, 0.0) - 1


def _beyond(suspects: Sequence[Compared], moved: Sequence[Sequence[Float64]], scale: Scale) -> list[Failure]:
    failures = []
    for item, *own in zip(suspects, *moved, strict=True):
        allowed = _floor(item, scale) + _FACTOR * sum(own)
        failure = item.furthest(_excess(item, allowed), allowed, _APART, "candidate")
        failures += [] if failure is None else [failure]
    return failures


def _movements(
    side: int,
    subject: Subject,
    on: str,
    feeds: Feeds,
    outputs: Sequence[Compared],
    scale: Scale,
    *,
    is_changed: bool,
) -> Iterator[list[Float64] | None]:
    """How far each place of each output moves when everything is nudged, over samples and ever more nudges.

    On inputs that are made to tell the results of operators are, too: a million less 999,994 is nothing but
    rounding. On samples that tells nothing of code that rounds by it, and on purpose.

    Nothing for a model that draws random numbers, which no rounding explains; None where it does not run.

    Shapes:
        each: [K]
    """
    largest = [np.zeros(item.reference.shape[1]) for item in outputs]
    try:
        still = subject.rerun(feeds, on)
        if not all(_repeats(item, side, still, scale) for item in outputs):
            return
        for moved in _nudged(subject, on, feeds, scale.nudge * scale.unit):
            moves = [_largest(still, moved, item.positions[side]) for item in outputs]
            largest = [np.maximum(old, new) for old, new in zip(largest, moves, strict=True)]
            yield largest
        wide = subject.outputs64(feeds) if subject.dialect == "module" else None
        if wide is not None:
            # a module may be another function of float64: what casts to float32 copies, then
            moves = [_largest(still, wide, item.positions[side]) for item in outputs]
            most = [own + _floor(item, scale).max(axis=0) for own, item in zip(largest, outputs, strict=True)]
            yield [
                np.maximum(own, np.minimum(new, end))
                for own, new, end in zip(largest, moves, most, strict=True)
            ]
        rounded = subject.outputs64(feeds, rounding=scale.unit) if is_changed and _is_quick(subject) else None
        wide = wide or subject.outputs64(feeds) if rounded is not None else None
        if wide is not None and rounded is not None:
            moves = [_largest(wide, rounded, item.positions[side]) for item in outputs]
            yield [np.maximum(own, new) for own, new in zip(largest, moves, strict=True)]
    except BatchError:
        yield None


def _is_quick(subject: Subject) -> bool:
    """Whether float64 takes a second or so: ONNX's reference evaluator is slow."""
    return subject.dialect == "module" or subject.parameter_count + subject.cell_count <= _QUICK


def _nudged(subject: Subject, on: str, feeds: Feeds, by: float) -> Iterator[tuple[Array, ...]]:
    """Outputs where inputs alone are changed, which nearly always tells enough, then weights, too."""
    rng = np.random.Generator(np.random.PCG64(0))
    yield subject.rerun([tuple(nudge(array, by, rng) for array in feed) for feed in feeds], on)
    for seed in _SEEDS:
        yield subject.nudged(feeds, on, by, seed)


def _repeats(item: Compared, side: int, again: Sequence[Array], scale: Scale) -> bool:
    own = (item.reference, item.candidate)[side]
    with np.errstate(invalid="ignore"):
        off = np.abs(flat(again[item.positions[side]]) - own)
    return not (off > scale.floor * scale.unit * np.abs(own).max(initial=0.0)).any()


def _largest(still: Sequence[Array], moved: Sequence[Array], position: int) -> Float64:
    """Infinite where a value left the range."""
    with np.errstate(invalid="ignore", over="ignore"):
        largest: Float64 = np.abs(flat(moved[position]) - flat(still[position])).max(axis=0, initial=0.0)
    return np.where(np.isnan(largest), np.inf, largest)


def _is_faithful(
    subject: Subject, feeds: Feeds, side: int, outputs: Sequence[Compared], scale: Scale
) -> bool:
    """True if what the model gave lies near what it gives in float64; False where that cannot be told."""
    wide = subject.outputs64(feeds)
    if wide is None:
        return False
    for item in outputs:
        own, exact = (item.reference, item.candidate)[side], flat(wide[item.positions[side]])
        finite = np.isfinite(own)
        size = np.where(finite, np.abs(own), 0.0).max(axis=0, initial=0.0)
        with np.errstate(invalid="ignore", over="ignore"):
            off = np.where(finite, np.abs(own - exact), 0.0)
        if exact.shape != own.shape or not (off <= scale.floor * scale.unit * size + _TINY).all():
            return False
    return True
