"""Whether a model is in float64 the function that it is in its own types, at every value inside it.

What relies on roundings is another one: ``(x + 12582912) - 12582912`` rounds to integers in float32 and does
nothing in float64, and a logarithm of what underflows is finite there. Outputs do not tell where such a value
is scaled by 1e-6 before it is added to others. So each value has to lie where roundings may take it, as it
shows when weights and inputs are changed by some of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fxexport.numerics.bounds import FP32, precision_of
from fxexport.onnx_graph.evaluated import is_float
from fxexport.proof.measured.far_apart import Scale
from fxexport.subjects.subject import Adjustment, BatchError, Feed, Subject
from fxexport.terms.arrays import nudge
from fxexport.terms.term import Array

_FACTOR, _FLOOR = 16.0, 4.0
"""How many times as far as each cell moved it may lie off, and how many units of the value's largest cell."""
_SEEDS = (0, 1, 2)


def is_faithful(subject: Subject, feed: Feed, provider: str) -> bool:
    """True if every operator gives on a batch in its own type what it gives in float64, but for roundings.

    A module of which that cannot be told is presumed to: it may call other operators for other types.
    """
    try:
        own, exact = subject.values(feed, provider), subject.values64(feed)
    except BatchError:
        return False
    if own is None or exact is None or not own.keys() <= exact.keys():
        return subject.dialect == "module"
    floats = {name: value for name, value in own.items() if is_float(value)}
    if not all(floats[name].shape == exact[name].shape for name in floats):
        return False
    moved = _movements(subject, feed, {name: exact[name] for name in floats})
    return all(_is_near(value, exact[name], moved[name]) for name, value in floats.items())


def _movements(subject: Subject, feed: Feed, exact: Mapping[str, Array]) -> dict[str, Array]:
    """How far each cell of each value moves where weights and inputs are off by roundings of its types."""
    known = (precision_of(kind) for kind in subject.kinds)
    scale = max((Scale.of(item) for item in (FP32, *known) if item is not None), key=lambda item: item.unit)
    largest = {name: np.zeros_like(value) for name, value in exact.items()}
    for seed in _SEEDS:
        moved = subject.values64(feed, _nudging(subject, scale.nudge * scale.unit, seed)) or {}
        for name, value in exact.items():
            if name in moved and moved[name].shape == value.shape:
                off = np.abs(moved[name] - value)
                np.maximum(largest[name], np.where(np.isfinite(off), off, 0.0), out=largest[name])
    return largest


def _nudging(subject: Subject, by: float, seed: int) -> Adjustment:
    """What changes inputs and weights; an exponent that is no integer would make numbers of none."""
    rng = np.random.Generator(np.random.PCG64(seed))

    def adjust(name: str | None, array: Array) -> Array:
        is_nudged = name is None or (array.size > 1 and subject.is_weight(name))
        return nudge(array, by, rng) if is_nudged else array

    return adjust


def _is_near(own: Array, exact: Array, move: Array) -> bool:
    """Whether each cell of a value lies no further off than roundings may take it."""
    precision, own = precision_of(own.dtype.name), own.astype(np.float64)
    finite = np.isfinite(exact)
    if precision is None or not np.isfinite(own[finite]).all():
        return False
    size = np.abs(exact[finite]).max(initial=0.0)
    most = _FACTOR * move[finite] + _FLOOR * precision.result * size + precision.store_tiny
    is_near = bool((np.abs(own - exact)[finite] <= most).all())
    return is_near and np.array_equal(own[~finite], exact[~finite], equal_nan=True)
