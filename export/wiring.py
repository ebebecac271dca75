"""Layer 2: every weight sits in its place, shown on inputs for which floating point is exact.

**One-hot probes, the real weights.** Features ``s·e_i`` with ``s`` a power of two. Every product is
``s·w`` (exact: only the exponent changes; ``s`` is chosen so that nothing overflows) or ``±0``. Sums of
zeros and one other number are exact in any order, and the bias is added with one rounding whether it comes
first or last, fused or not: the result is ``fl(s·w_oi + b_o)`` in every summation order, so it must be
equal, bit for bit, to that number computed outside of the runtime. ``s`` is large, so that the bias does
not hide the low bits of ``w``; a probe with all features zero shows the bias itself. After ``K + 1`` probes
every weight was seen in its place. It holds for fp32 and fp64 GEMM and direct convolution. It does not
hold for Winograd and FFT convolution, nor where operands are rounded first (TF32).

**Small integers, where one-hot is too many.** Weights in ``{−4 … 4}`` and features in ``{−1, 0, 1}`` are
put in: every partial sum is an integer below ``2²⁴``, exact in any order and precision down to TF32's
operands (``4 < 2¹¹``). For two different linear maps, a random feature vector tells them apart with
probability at least 2/3 (Freivalds: some coefficient differs; fix the other features, at most one of the
three values of its feature gives equality), so 64 probes miss a wrong wiring with probability below
``3⁻⁶⁴ < 10⁻³⁰``. One-hot probes on a sample of the features run as well.

Zeros compare equal whatever their sign.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from export.results import Failure
from export.terms import Affine, Array

_EXHAUSTIVE_LIMIT = 2**31
"""Most multiply-adds (K · K · O) that one-hot probing of a whole site may take."""
_SAMPLED = 64
_INTEGER_PROBES = 64
_CHUNK = 2**24
"""Most floats of a chunk of probes, features or results."""
_HEADROOM = 60
"""Binary exponent of the largest scaled weight."""
_LARGEST = 100
"""Largest binary exponent of a feature, well inside fp32."""

RunSite = Callable[[Array, Array | None], Array]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What probing one site on one provider showed.

    Attributes:
        probes: feature vectors that were run.
        failure: the first weight out of place, or None.
        gap: why the probes prove nothing, or None.
    """

    probes: int
    failure: Failure | None = None
    gap: str | None = None


def probe_site(affine: Affine, run: RunSite, rng: np.random.Generator) -> ProbeResult:
    """What probing the site showed; ``run`` takes features ``[N, K]`` and a weight to put in, or None."""
    weight = affine.weight
    if weight.dtype not in (np.float32, np.float64):
        return ProbeResult(probes=0, gap=f"{affine.weight_name!r} is {weight.dtype}: probes need float32")
    bias = np.zeros(len(weight), weight.dtype) if affine.bias is None else affine.bias
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        return ProbeResult(probes=0, gap=f"{affine.weight_name!r} holds NaN or infinity")
    out, count = weight.shape
    is_exhaustive = count * count * out <= _EXHAUSTIVE_LIMIT
    columns = np.arange(count) if is_exhaustive else np.linspace(0, count - 1, _SAMPLED).astype(np.int64)
    probes = 0
    for features, expected in _one_hot(weight, bias, columns):
        failure = _difference(affine, expected, run(features, None))
        probes += len(features)
        if failure is not None:
            return ProbeResult(probes=probes, failure=failure)
    if is_exhaustive:
        return ProbeResult(probes=probes)
    if not affine.is_plain:
        return ProbeResult(probes=probes, gap=f"{affine.weight_name!r} is too large and has a factor alpha")
    given = rng.integers(-4, 5, weight.shape, dtype=np.int8).astype(weight.dtype)
    features = rng.integers(-1, 2, (_INTEGER_PROBES, count), dtype=np.int8).astype(weight.dtype)
    failure = _difference(affine, features @ given.T, run(features, given))
    return ProbeResult(probes=probes + _INTEGER_PROBES, failure=failure)


def _one_hot(weight: Array, bias: Array, columns: NDArray[np.int64]) -> Iterator[tuple[Array, Array]]:
    """Chunks of features and the results that are due; the first row of the first chunk is all zero."""
    # not abs(weight), which is a copy of it
    largest = float(max(weight.max(initial=0.0), -weight.min(initial=0.0)))
    exponent = min(_LARGEST, _HEADROOM - math.frexp(largest)[1])
    scale = 1.0 if largest == 0.0 else math.ldexp(1.0, exponent)
    out, count = weight.shape
    rows = max(1, _CHUNK // max(out, count))
    yield np.zeros((1, count), weight.dtype), bias[np.newaxis].copy()
    for start in range(0, len(columns), rows):
        part = columns[start : start + rows]
        features = np.zeros((len(part), count), weight.dtype)
        features[np.arange(len(part)), part] = scale
        yield features, weight[:, part].T * weight.dtype.type(scale) + bias


def _difference(affine: Affine, expected: Array, found: Array) -> Failure | None:
    if expected.shape != found.shape:
        return Failure(what=f"the site gives {found.shape}, not {expected.shape}", name=affine.weight_name)
    different = ~(expected == found)
    if not different.any():
        return None
    row, column = (int(axis) for axis in np.unravel_index(int(np.argmax(different)), different.shape))
    return Failure(
        what=f"the head alone gives another value for probe {row} in class {column}",
        name=affine.weight_name,
        index=(row, column),
        expected=float(expected[row, column]),
        found=float(found[row, column]),
    )


def seeded(seed: int) -> np.random.Generator:
    """A generator that gives the same probes every time."""
    return np.random.Generator(np.random.PCG64(seed))
