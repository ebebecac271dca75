"""Whether two models lie further apart than each of them rounds, which float64 tells.

No bound of a whole model tells a hundred-thousandth from rounding (``far_apart``), since sums in another
order may leave as much. In float64 they leave nothing. Each model is run in its own types and in float64 on
the same input: the distance of the two runs is what it rounds there, whatever it does. Where the two models
lie several times that distance apart in float64 they are apart in their own types, too, and not by rounding.

A model that is another function in float64, as one that rounds by adding 1.5 · 2^23, lies far from itself
there, and nothing follows.
"""

from __future__ import annotations

import dataclasses
import itertools
import zlib

import numpy as np

from fxexport.numerics.bounds import Float64
from fxexport.numerics.evaluate import flat
from fxexport.proof.measured.far_apart import Compared, witness_of
from fxexport.proof.measured.in_float64 import affordable
from fxexport.proof.measured.search import Found
from fxexport.proof.pairing.derivation import Derived
from fxexport.proof.pairing.outputs import Pair
from fxexport.results import Failure
from fxexport.subjects.samples import Samples
from fxexport.subjects.subject import BatchError, Feed
from fxexport.terms.arrays import nudge
from fxexport.terms.term import Array

_UNIT = 2.0**-24
_FLOOR = 2.0**-20
"""Of an output's largest value: what numbers in code and approximations of functions may leave."""
_OWN, _MOVED = 2.0, 16.0
"""How many times what each model rounds, and what a unit of its weights and inputs moves it, is allowed."""
_TINY = 2.0**-110
_LONG = {"float32", "float64"}
_MOST, _WORK = 16, 2**26
"""So many inputs are tried, and of all but the first so many numbers are computed and read."""
_APART = "the two models lie further apart than each of them rounds"


def seen_beyond_rounding(pair: Pair, samples: Samples, derived: Derived) -> Found:
    """The first input on which the two lie further apart than they round, or how many show nothing."""
    tried = 0
    attempts = affordable(pair.subjects, samples, has_ties=not derived.leaves_ties, most=_WORK)
    for attempt in itertools.islice((item for item in attempts if not item.is_extreme), _MOST):
        first, second = (
            attempt.samples.ordered(side.input_names).batch(0, attempt.rows) for side in pair.subjects
        )
        with np.errstate(all="ignore"):
            failures = _apart(pair, (first, second))
        if failures is None:
            break
        tried += 1
        if failures:
            told = tuple(dataclasses.replace(item, what=f"{_APART}, on {attempt.made}") for item in failures)
            witness = witness_of(pair, failures[0], (first, second), attempt.made)
            return Found(failures=told, witness=witness, tried=tried)
    return Found(tried=tried)


def _apart(pair: Pair, batch: tuple[Feed, Feed]) -> list[Failure] | None:
    """One failure for each output that differs so; None where one of the two cannot be evaluated."""
    sides = [*zip(pair.subjects, batch, pair.on, strict=True)]
    left, right = (subject.outputs64([feed]) for subject, feed, _ in sides)
    if left is None or right is None:
        return None
    try:
        own = [subject.rerun([feed], on) for subject, feed, on in sides]
    except BatchError:
        return []
    failures = []
    moved: list[tuple[Array, ...] | None] = []
    for name, i, j in pair.outputs:
        wide, runs = (flat(left[i]), flat(right[j])), (flat(own[0][i]), flat(own[1][j]))
        kinds = {own[0][i].dtype.name, own[1][j].dtype.name}
        if not kinds <= _LONG or wide[0].shape != wide[1].shape:
            continue
        rounded = sum(map(_distance, wide, runs))
        size = float(np.abs(wide[0]).max(initial=0.0))
        apart = np.abs(wide[0] - wide[1])
        allowed = _FLOOR * size + _OWN * rounded + _TINY
        if not (apart > allowed).any():
            continue
        moved = moved or [subject.outputs64([feed], _nudged) for subject, feed, _ in sides]
        for place, value, outputs in zip((i, j), wide, moved, strict=True):
            allowed += np.inf if outputs is None else _MOVED * _distance(value, flat(outputs[place]))
        item = Compared(name=name, positions=(i, j), reference=runs[0], candidate=runs[1])
        failure = item.furthest(apart - allowed, np.full_like(apart, rounded), _APART, "candidate")
        failures += [] if failure is None else [failure]
    return failures


def _distance(wide: Float64, other: Float64) -> float:
    """How far a model's output lies from what it is in float64; infinite where it is no number."""
    off = np.abs(wide - other).max(initial=0.0) if wide.shape == other.shape else np.inf
    return float(off) if np.isfinite(off) else np.inf


def _nudged(name: str | None, array: Array) -> Array:
    """Stored numbers and inputs off by a unit, the same way at each call."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32((name or "").encode())))
    return nudge(array, _UNIT, rng)
