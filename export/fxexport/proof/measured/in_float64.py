"""Whether two models that are one but for constants differ, where their own types may hide it: in float64.

Where one weight is another number the function most often is another, if by less than rounding shows; but it
need not be: a number may be multiplied by zero, added to what a norm or a softmax takes away again, or undone
by another one. So both are evaluated in float64, on the samples and on changed ones. What lies further apart
there than the roundings of float64 can take it, as each model shows when its weights and inputs are nudged by
some of them, is not one function.

Where operators differ, and both hold the same tensors, float64 tells as well what a small factor hides: a
function that is left out of a branch which is scaled by 1e-6.

What a model does in float64 counts only where it does the same in its own types, inside too: one that adds
12582912 and takes it away again to round to integers is another function there.

Numbers that moved, as a factor does from one layer to the next, were rounded anew, and their functions differ
by that. It is told from a number that was changed by its size: were they changed to no purpose, the outputs
would lie as many times further apart than other roundings of these numbers take them as the numbers do.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from fxexport.language.compare import ConstantPair, FoldedConstant
from fxexport.numerics.bounds import Float64
from fxexport.numerics.evaluate import flat
from fxexport.proof.measured.faithful import is_faithful
from fxexport.proof.measured.far_apart import Compared, witness_of
from fxexport.proof.measured.search import Attempt, changed_samples
from fxexport.proof.pairing.derivation import Derived, is_other
from fxexport.proof.pairing.outputs import Pair
from fxexport.results import Failure
from fxexport.subjects.samples import Samples
from fxexport.subjects.subject import Adjustment, Feed, Subject
from fxexport.terms.arrays import nudge
from fxexport.terms.term import Array
from fxexport.witness import Witness

_UNIT = 2.0**-53
_FLOOR = 2.0**-44
"""Of an output's largest value: what other orders of summation may leave."""
_FLOOR_OF_OPERATORS = 2.0**-36
"""The same where operators differ, which may hold other numbers that are there for safety alone: 1e-12."""
_NUDGE, _FACTOR = 16, 16.0
"""By how many units weights and inputs are changed, and how many times as far outputs may lie apart."""
_SCALAR = 2.0**-22
"""By what share single numbers are changed where operators differ."""
_TINY = 2.0**-900
_MOST_POWER = 8
_APART = "in float64 the two models give other values"

_LAST = 2.0
"""Of numbers that moved all are changed by more than a unit in the last place, which is two roundings."""
_LESS, _MOST = 8.0, 16.0
"""So many times less than numbers do outputs differ if they moved, and so many roundings of them at most."""
_SEEDS = (0, 1)
_OTHERS = frozenset({"float16", "bfloat16", "float64"})
_ENOUGH = 8
"""On so many inputs that is seen, each of which takes four further evaluations."""

_SMALL, _LARGE, _WORK = 2**24, 2**28, 2**30
"""So many numbers are computed and read at most: for each of two samples, for one, for all changed ones."""
_BY_FILES = 8
"""How many times as long ONNX's reference evaluator takes for one: a second for some ten million."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """What two models show in float64.

    Attributes:
        failures: in what they differ, on ``witness``; empty where no input shows a difference.
        witness: the input that shows it.
        tried: on how many inputs they were evaluated; 0 where that cannot be done.
        is_moved: whether they differ, but by no more than other roundings of the numbers that differ.
        is_folded: whether constants are folded, whose roundings hide what is smaller.
    """

    failures: tuple[Failure, ...] = ()
    witness: Witness | None = None
    tried: int = 0
    is_moved: bool = False
    is_folded: bool = False

    def __str__(self) -> str:
        """What was seen, as a clause."""
        if not self.tried:
            return "nothing shows in float64 what they do, which cannot be evaluated here"
        if self.is_moved:
            return "in float64 outputs lie no further apart than if these numbers were rounded anew"
        more = ", beyond roundings of folds" if self.is_folded else ""
        return f"no input shows a difference, even in float64{more}"


def seen_in_float64(pair: Pair, samples: Samples, derived: Derived) -> Seen:
    """The first input on which the two differ in float64, or how many show no difference."""
    tried, moved, is_unknown = 0, 0, False
    for attempt in affordable(pair.subjects, samples, has_ties=not derived.leaves_ties):
        if derived.unrelated and not abs(attempt.power) <= _MOST_POWER:
            # of large numbers float64 keeps what float32 rounds away, on purpose or not
            continue
        batch = [attempt.samples.ordered(side.input_names).batch(0, attempt.rows) for side in pair.subjects]
        sides = _Sides(pair=pair, batch=(batch[0], batch[1]))
        with np.errstate(all="ignore"):
            outputs = sides.compared(leaves_ties=derived.leaves_ties)
            if outputs is None:
                if tried:
                    continue
                return Seen()
            failures = sides.apart(outputs, derived, is_changed=attempt.is_changed)
            if failures and not sides.are_faithful:
                is_unknown |= not attempt.is_extreme
                continue
            tried += 1
            if failures and not derived.unrelated and sides.are_roundings(outputs, derived.constants):
                moved, failures = moved + 1, []
        if failures:
            made = f"{attempt.made}, in float64"
            witness = witness_of(pair, failures[0], sides.batch, made)
            witness = dataclasses.replace(witness, is_wide=True)
            told = tuple(dataclasses.replace(item, what=f"{_APART}, on {attempt.made}") for item in failures)
            return Seen(failures=told, witness=witness, tried=tried)
        if moved == _ENOUGH:
            break
    if is_unknown and not moved:
        return Seen()
    return Seen(tried=tried, is_moved=moved > 0, is_folded=bool(derived.folds))


def hold_the_same(subjects: tuple[Subject, Subject]) -> bool:
    """Whether two files hold the same tensors, bit for bit, but for single numbers and in any order.

    Then neither of them has rounded what the other one holds. A module's code may hold numbers, too.
    """
    if (
        any(side.dialect != "onnx" for side in subjects)
        or max(side.parameter_count for side in subjects) > _LARGE
    ):
        return False
    left, right = (
        collections.Counter(
            (array.size, array.dtype.name, zlib.crc32(np.sort(array, axis=None).tobytes()))
            for _, read in side.tensors()
            if (array := read()).size > 1
        )
        for side in subjects
    )
    return left == right


def affordable(
    subjects: tuple[Subject, Subject], samples: Samples, *, has_ties: bool, most: int = _WORK
) -> Iterator[Attempt]:
    """The samples and changed ones, as many as can be evaluated in float64: ``most`` numbers of these."""
    if len({side.dialect for side in subjects}) > 1 and any(_OTHERS & side.kinds for side in subjects):
        return  # a file has in these types the numbers that a module's code has in float32, here
    work = max(_work(side) for side in subjects)
    attempts = changed_samples(subjects, samples, 2 if work < _SMALL else 1, has_ties=has_ties)
    if work <= _LARGE:
        yield from itertools.islice(attempts, 1 + most // work)


def _work(subject: Subject) -> int:
    numbers = subject.parameter_count + subject.cell_count + 1
    return numbers * (_BY_FILES if subject.dialect == "onnx" else 1)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Sides:
    """Two models and a batch for each."""

    pair: Pair
    batch: tuple[Feed, Feed]

    def compared(self, *, leaves_ties: bool) -> list[Compared] | None:
        """The outputs of both; None where one of them cannot be evaluated."""
        left, right = (self._outputs(side) for side in (0, 1))
        if left is None or right is None:
            return None
        found = []
        for name, i, j in self.pair.outputs:
            a, b = flat(left[i]), flat(right[j])
            if a.shape != b.shape:
                return None
            if not (leaves_ties and left[i].dtype.kind == "i"):
                found.append(Compared(name=name, positions=(i, j), reference=a, candidate=b))
        return found

    def _outputs(self, side: int, adjust: Adjustment | None = None) -> tuple[Array, ...] | None:
        return self.pair.subjects[side].outputs64([self.batch[side]], adjust)

    def apart(self, outputs: Sequence[Compared], derived: Derived, *, is_changed: bool) -> list[Failure]:
        """One failure for each output that differs by more than roundings of float64, and of folds.

        Where operators differ, which may round single numbers in their own type, by more than that, too.
        Where one model's value is no number the other's has to be none, on samples as they are given: of
        larger ones the evaluator of files takes a softmax's logarithm past the end of all numbers.
        """
        folds, is_of_operators = derived.folds, bool(derived.unrelated)
        floor = _FLOOR_OF_OPERATORS if is_of_operators else _FLOOR
        allowed = [np.full_like(item.reference, floor * _largest(item.reference) + _TINY) for item in outputs]
        if not _beyond(outputs, allowed, is_changed=is_changed):
            return []
        for side in (0, 1):
            moved = self._nudged(side, has_scalars=is_of_operators)
            if moved is None:
                return []
            for item, most in zip(outputs, allowed, strict=True):
                own = (item.reference, item.candidate)[side]
                move = np.abs(flat(moved[item.positions[side]]) - own).max(axis=0)
                most += _FACTOR * np.where(np.isnan(move), np.inf, move)
        rounded = self._rounded(outputs, folds) if folds else None
        if rounded is None:
            return [] if folds else _beyond(outputs, allowed, is_changed=is_changed)
        units = 2 * max(1.0, *(fold.largest_ulp for fold in folds))
        allowed = [most + units * own for most, own in zip(allowed, rounded, strict=True)]
        return _beyond(outputs, allowed, is_changed=is_changed)

    @functools.cached_property
    def are_faithful(self) -> bool:
        """Whether float64 tells what both do in their own types."""
        return all(map(is_faithful, self.pair.subjects, self.batch, self.pair.on))

    def _nudged(self, side: int, *, has_scalars: bool = False) -> tuple[Array, ...] | None:
        """Outputs with every weight and input off by some roundings of float64.

        And every single number by some of float32, if ``has_scalars``.
        """
        rng = np.random.Generator(np.random.PCG64(side))
        subject = self.pair.subjects[side]

        def adjust(name: str | None, array: Array) -> Array:
            if name is not None and array.size == 1 and has_scalars:
                return nudge(array, _SCALAR, rng)
            is_nudged = name is None or (array.size > 1 and subject.is_weight(name))
            return nudge(array, _NUDGE * _UNIT, rng) if is_nudged else array

        return self._outputs(side, adjust)

    def are_roundings(self, outputs: Sequence[Compared], constants: Sequence[ConstantPair]) -> bool:
        """Whether the numbers that differ moved: outputs lie as far apart as other roundings take them."""
        shares = [pair.difference.share / pair.unit if pair.unit else np.inf for pair in constants]
        units = max(shares)
        if min(shares) <= _LAST or units == np.inf or not any(map(is_other, constants)):
            return False
        moved = self._rounded(outputs, constants)
        most = min(_MOST, units / _LESS)
        return moved is not None and all(
            _largest(item.candidate - item.reference) <= most * own
            for item, own in zip(outputs, moved, strict=True)
        )

    def _rounded(
        self, outputs: Sequence[Compared], constants: Sequence[ConstantPair | FoldedConstant]
    ) -> list[float] | None:
        """How far other roundings of what constants are made of take each output; None where none runs."""
        largest = [0.0 for _ in outputs]
        for side in (0, 1):
            changes = _roundings(self.pair.subjects, constants, side)
            for seed in _SEEDS if changes else ():
                moved = self._outputs(side, functools.partial(_rounded, changes, seed))
                if moved is None:
                    return None
                for place, item in enumerate(outputs):
                    own = (item.reference, item.candidate)[side]
                    move = _largest(flat(moved[item.positions[side]]) - own)
                    largest[place] = max(largest[place], move)
        return largest


Masks = dict[str, tuple[Array, float]]
"""Of each stored tensor which numbers differ, and their unit roundoff."""


def _rounded(masks: Masks, seed: int, name: str | None, array: Array) -> Array:
    """Those of a stored tensor that differ from the other model's, each rounded in another way."""
    if name is None or name not in masks:
        return array
    mask, unit = masks[name]
    rng = np.random.Generator(np.random.PCG64([seed, *name.encode()]))
    rounded: Array = array * (1 + unit * mask * rng.choice((-1.0, 1.0), array.shape))
    return rounded


def _roundings(
    subjects: tuple[Subject, Subject], constants: Sequence[ConstantPair | FoldedConstant], side: int
) -> Masks:
    found: Masks = {}
    has_code = any(subject.dialect == "module" for subject in subjects)
    for pair in constants:
        own, others = (
            {name: array for name in pair.stored[at] if (array := subjects[at].stored(name)) is not None}
            for at in (side, 1 - side)
        )
        masks = {name: _differing(array, [*others.values()]) for name, array in own.items()}
        is_own = isinstance(pair, ConstantPair) and bool(pair.left and pair.right) and has_code
        is_own = is_own and not any(mask.any() for mask in masks.values())
        if is_own:  # it is a number in code that is another one
            masks = {name: np.ones(array.shape, bool) for name, array in own.items()}
        found |= {name: (mask, pair.unit) for name, mask in masks.items()}
    return found


def _differing(array: Array, others: Sequence[Array]) -> Array:
    """Which numbers differ from the nearest of the others, some of which may have their axes in reverse."""
    plain = [extent for extent in array.shape if extent != 1]
    arranged = (
        x.reshape(array.shape)
        for other in others
        for x in (other, other.T)
        if [extent for extent in x.shape if extent != 1] == plain
    )
    every = np.ones(array.shape, bool)
    return min((x != array for x in arranged), key=np.count_nonzero, default=every)


def _beyond(outputs: Sequence[Compared], allowed: Sequence[Float64], *, is_changed: bool) -> list[Failure]:
    failures = []
    for item, most in zip(outputs, allowed, strict=True):
        finite = [np.isfinite(array) for array in (item.reference, item.candidate)]
        excess = np.where(finite[0] & finite[1], np.abs(item.candidate - item.reference) - most, 0.0)
        excess = np.where((finite[0] != finite[1]) & (not is_changed), np.inf, excess)
        failure = item.furthest(excess, most, _APART, "candidate")
        failures += [] if failure is None else [failure]
    return failures


def _largest(values: Float64) -> float:
    return float(np.where(np.isfinite(values), np.abs(values), 0.0).max(initial=0.0))
