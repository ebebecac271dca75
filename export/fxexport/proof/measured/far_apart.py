"""Outputs without a bound: whether they lie further apart than rounding can explain.

Where two models are built differently, no bound holds for their difference. But a model shows by itself
how it magnifies small errors: its inputs are changed by 16 units roundoff, and its outputs move by some
distance. Rounding inside the model moves them by about as much. Outputs of two models that lie 64 times
that distance apart, and 1024 units roundoff of the largest output, are not one function; what lies nearer
together proves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fxexport.numerics.bounds import Float64
from fxexport.results import Failure
from fxexport.subjects.subject import BatchError, Feeds, Subject
from fxexport.terms.term import Array

_NUDGE = 16
_FACTOR = 64


def far_apart(
    reference: Subject,
    outputs: Sequence[tuple[str, int, Array, Array]],
    feeds: Feeds,
    provider: str,
    unit: float,
    parting: str | None,
) -> list[Failure]:
    """One failure for each output that differs by more than rounding.

    Args:
        reference: the model that is run again.
        outputs: name, position in the reference, and both models' values.
        feeds: the batches that gave them.
        provider: where the reference runs.
        unit: unit roundoff of the model's type.
        parting: where the two graphs part, for the message.
    """
    moved = _moved(reference, feeds, provider, unit)
    failures = []
    for name, position, a, b in outputs:
        expected, found = (np.asarray(side, np.float64).reshape(len(side), -1) for side in (a, b))
        if moved is None or expected.shape != found.shape or not np.isfinite(expected).all():
            continue
        again = np.asarray(moved[position], np.float64).reshape(expected.shape)
        natural = max(_largest(again - expected), _NUDGE * unit * _largest(expected))
        failure = _failure(name, expected, found, _FACTOR * natural, parting)
        failures.extend([] if failure is None else [failure])
    return failures


def _failure(
    name: str, expected: Float64, found: Float64, bound: float, parting: str | None
) -> Failure | None:
    distance = np.where(np.isfinite(found), np.abs(found - expected), np.inf)
    if not distance.size or float(distance.max()) <= bound:
        return None
    index = tuple(int(axis) for axis in np.unravel_index(int(np.argmax(distance)), distance.shape))
    where = "" if parting is None else f"; {parting}"
    return Failure(
        what=f"the two models give other values, and not by rounding{where}",
        side="candidate",
        name=name,
        index=index,
        expected=float(expected[index]),
        found=float(found[index]),
        bound=bound,
    )


def _moved(reference: Subject, feeds: Feeds, provider: str, unit: float) -> tuple[Array, ...] | None:
    rng = np.random.Generator(np.random.PCG64(0))
    nudged = [
        tuple(
            x * (1 + _NUDGE * unit * rng.choice((-1.0, 1.0), x.shape)).astype(x.dtype)
            if x.dtype.kind == "f"
            else x
            for x in feed
        )
        for feed in feeds
    ]
    try:
        return reference.rerun(nudged, provider)
    except BatchError:
        return None


def _largest(values: Float64) -> float:
    return float(np.abs(values).max(initial=0.0))
