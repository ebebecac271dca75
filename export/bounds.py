r"""Rigorous bounds on rounding errors, computed in float64 from the data that went in.

Notation: ``u`` is the unit roundoff, ``fl`` a rounded result, ``γ_n = n·u / (1 − n·u)`` for ``n·u < 1``.

**Lemma** (Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., Lemma 3.1). If
``|δ_i| ≤ u`` and ``ρ_i = ±1`` then ``∏ (1 + δ_i)^ρ_i = 1 + θ_n`` with ``|θ_n| ≤ γ_n``.

**Dot product with a bias** (§3.1). ``n`` products and ``n`` additions, in *any* order and with or without
fused multiply-add: each term passes at most one product and ``n`` additions, so
``fl(w·x + b) = Σ w_i x_i (1 + θ_{n+1}) + b (1 + θ_{n+1})`` and
``|fl(w·x + b) − (w·x + b)| ≤ γ_{n+1} (|w|·|x| + |b|)``.
It holds for GEMM, direct and im2col convolution, blocked or split over threads. It does **not** hold for
Winograd and FFT convolution, which are other sums.

**Rounded operands** (TF32: both operands rounded to ``u_in`` first). Each product gains
``(1 + δ)(1 + δ')``, at most ``1 + d`` with ``d = 2 u_in + u_in²``; with the above,
``|error| ≤ γ_{n+1} ((1 + d) |w|·|x| + |b|) + d |w|·|x|``.

**Underflow.** With flush-to-zero an operation may also lose up to the smallest normal number ``η``;
``2 n + 2`` operations lose at most ``(2 n + 2) η (1 + γ_{n+1})``.

**Mean over s cells.** ``s − 1`` additions, and a division or a multiplication by a rounded reciprocal
(two roundings): ``|fl(mean) − mean| ≤ γ_{s+1} mean|x|``.

**The reference is itself rounded** (float64, ``u_64 = 2⁻⁵³``): its error has the same form, so using
``u + u_64`` in place of ``u`` covers both, as ``γ`` is superadditive in ``u``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
_U64 = 2.0**-53
_CHUNK = 2**21
"""Most weights that are widened to float64 at a time."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """How a provider computes: the unit roundoffs of its operands, its sums and its results.

    Attributes:
        name: ``fp64``, ``fp32``, ``tf32``, ``fp16`` or ``bf16``.
        operand: relative error of an operand before it is multiplied (TF32 rounds both; else 0).
        sum: unit roundoff of products and sums; for TF32 that of truncation on tensor cores, 2⁻²³.
        result: unit roundoff of the stored result.
        tiny: smallest normal number of the stored type.
    """

    name: str
    operand: float
    sum: float
    result: float
    tiny: float


FP64 = Precision(name="fp64", operand=0.0, sum=2.0**-53, result=2.0**-53, tiny=2.0**-1022)
FP32 = Precision(name="fp32", operand=0.0, sum=2.0**-24, result=2.0**-24, tiny=2.0**-126)
TF32 = Precision(name="tf32", operand=2.0**-11, sum=2.0**-23, result=2.0**-24, tiny=2.0**-126)
FP16 = Precision(name="fp16", operand=0.0, sum=2.0**-11, result=2.0**-11, tiny=2.0**-14)
BF16 = Precision(name="bf16", operand=0.0, sum=2.0**-8, result=2.0**-8, tiny=2.0**-126)
_BY_DTYPE = {"float64": FP64, "float32": FP32, "float16": FP16, "bfloat16": BF16}


def precision_of(dtype: str) -> Precision | None:
    """The precision of arithmetic in a storage type (``"float32"``), or None for other types."""
    return _BY_DTYPE.get(dtype)


def gamma(count: int, unit: float) -> float:
    """``γ_n = n·u / (1 − n·u)``; infinite where ``n·u ≥ 1`` and nothing is known.

    Source:
        Higham, *Accuracy and Stability of Numerical Algorithms*, §3.1.
    """
    product = count * (unit + _U64)
    return product / (1.0 - product) if product < 1.0 else float("inf")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A value computed in float64 and how far the provider's result may lie from it.

    Attributes:
        value: float64 reference.
        error: rigorous bound of the same shape, ``|provider's value − value| ≤ error``.
    """

    value: Float64
    error: Float64


def exactly(value: NDArray[Any]) -> Interval:
    """The interval of a value that was observed, with no error."""
    wide = np.asarray(value, np.float64)
    return Interval(value=wide, error=np.zeros_like(wide))


def affine_interval(
    features: Interval, weight: NDArray[Any], bias: NDArray[Any] | None, precision: Precision
) -> Interval:
    """Interval of ``features @ weight.T + bias`` by the dot product bound of this module.

    Shapes:
        features: [N, K]; weight: [O, K]; bias: [O]; result: [N, O].
    """
    out, count = weight.shape
    rate = gamma(count + 1, precision.sum)
    doubled = 2 * precision.operand + precision.operand**2
    value, error = np.empty((len(features.value), out)), np.empty((len(features.value), out))
    size = np.abs(features.value) + features.error
    is_carried = bool(features.error.any())
    rows = max(1, _CHUNK // max(count, 1))
    for start in range(0, out, rows):
        part = slice(start, start + rows)
        wide = np.asarray(weight[part], np.float64)
        offset = np.zeros(len(wide)) if bias is None else np.asarray(bias[part], np.float64)
        value[:, part] = features.value @ wide.T + offset
        sizes = np.abs(wide).T
        mass = size @ sizes
        error[:, part] = rate * ((1 + doubled) * mass + np.abs(offset)) + doubled * mass
        if is_carried:
            error[:, part] += features.error @ sizes
    error += (2 * count + 2) * precision.tiny * (1 + rate)
    return Interval(value=value, error=_stored(value, error, precision))


def mean_interval(cells: Interval, precision: Precision) -> Interval:
    """Interval of the mean over the last axis.

    Shapes:
        cells: [N, C, S]; result: [N, C].
    """
    count = cells.value.shape[-1]
    rate = gamma(count + 1, precision.sum)
    size = (np.abs(cells.value) + cells.error).mean(axis=-1)
    error = cells.error.mean(axis=-1) + rate * size + (count + 2) * precision.tiny
    value = cells.value.mean(axis=-1)
    return Interval(value=value, error=_stored(value, error, precision))


def _stored(value: Float64, error: Float64, precision: Precision) -> Float64:
    """Adds the rounding of the result to its storage type where that is coarser than the sums."""
    if precision.result <= precision.sum:
        return error * (1 + 16 * _U64)
    return (error + precision.result * (np.abs(value) + error)) * (1 + 16 * _U64)
