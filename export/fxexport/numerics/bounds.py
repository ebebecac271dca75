r"""Rigorous bounds on rounding errors, computed in float64 from the data that went in.

Notation: ``u`` is a unit roundoff, ``fl`` a rounded result, ``n`` the length of a dot product.

**Lemma** (Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., §3.1). If ``|δ_i| ≤ u`` then
``∏ (1 + δ_i)`` over ``n`` factors is ``1 + θ`` with ``|θ| ≤ (1 + u)^n − 1 =: growth(n, u)``. It is at most
Higham's ``γ_n = n·u / (1 − n·u)``, and finite where ``n·u ≥ 1`` and ``γ_n`` says nothing, as it is for 2048
sums in fp16.

**Dot product with a bias** (§3.1). ``n`` products and ``n`` additions, in *any* order and with or without
fused multiply-add: each term passes at most one product and ``n`` additions, so
``|fl(w·x + b) − (w·x + b)| ≤ growth(n + 1, u) (|w|·|x| + |b|)``. Factors ``alpha`` and ``beta`` cost a term
three roundings more (one where they are folded into the weights here, two in the provider); ``n + 4``
covers all. It holds for GEMM, direct and im2col convolution, blocked or split over threads. It does
**not** hold for Winograd and FFT convolution, which are other sums.

**Tensor cores** add several products at once, aligned to the largest and cut off, so that a step loses up
to ``u`` of the largest operand rather than of its own result. As that is at most ``u`` of the sum of
absolute values so far, the same recursion and bound hold with the unit of the cut, ``2⁻²²`` with a guard
bit for the carry (Fasi, Higham, Mikaitis, Pranesh, *Numerical behavior of NVIDIA tensor cores*, 2021).

**Rounded operands** (TF32: 10 bits are kept of both operands, rounded or cut off, ``u_in = 2⁻¹⁰``). Each
product gains ``(1 + δ)(1 + δ')``, at most ``1 + d`` with ``d = 2 u_in + u_in²``; with the above,
``|error| ≤ growth(n + 4, u) ((1 + d) |w|·|x| + |b|) + d |w|·|x|``.

**Underflow.** An operation may also lose up to the smallest normal number ``η`` where results are flushed
to zero, and a product up to ``η |w|`` or ``η |x|`` where subnormal operands are: together at most
``η (4n + 4 + Σ|w| + Σ|x|)``, times ``1 + growth``. Half precision is held in registers in which its
subnormals are normal, and stored with gradual underflow or flushed: ``store_tiny`` for each store.

**Mean of dot products.** A site before its pool: ``mean_p fl(w·x_p + b)``. With ``M`` the mean over positions
of the magnitudes that went in, the sites err by ``growth(n + 4, u) (|w|·M + |b|)`` on average, and the mean
by ``growth(s + 2, u)`` of what it adds up, at most ``|w|·M + |b|`` and the errors so far. A chain of sites
carries the mean of magnitudes and of errors along (``Spread``).

**Storing in half precision.** Sums in fp32 are rounded once more; a bias, a mean or an activation may be
an operator of its own in half precision, so up to two stores (three of a mean: sum, reciprocal, product)
are allowed for.

**Mean over s cells.** ``s − 1`` additions, and a division or a multiplication by a rounded reciprocal
(two roundings): ``|fl(mean) − mean| ≤ growth(s + 2, u) mean|x|``.

**The reference is itself rounded** (float64, ``u_64 = 2⁻⁵³``): its error has the same form, so using
``u + u_64`` in place of ``u`` covers both, as ``growth`` is superadditive in ``u``. The bound is a float64
sum of non-negative terms; ``_widened`` makes up for its own rounding.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fxexport.terms.term import Scaling

Float64 = NDArray[np.float64]
_U64 = 2.0**-53
_TINY64 = 2.0**-1022
_CHUNK = 2**21
"""Most weights that are widened to float64 at a time."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """How a provider computes: the unit roundoffs of its operands, its sums and its results.

    Attributes:
        name: ``fp64``, ``fp32``, ``tf32``, ``fp16`` or ``bf16``; ``fp16 sums`` where sums are rounded too.
        operand: relative error of an operand before it is multiplied (TF32 shortens both; else 0).
        sum: unit roundoff of products and sums.
        result: unit roundoff of the stored result.
        tiny: what an operation may lose by underflow: the smallest normal number of the type of the sums.
        store_tiny: what storing a result may lose by underflow.
        largest: largest finite number of the stored type.
    """

    name: str
    operand: float = 0.0
    sum: float
    result: float
    tiny: float = 2.0**-126
    store_tiny: float = 2.0**-126
    largest: float = (2.0 - 2.0**-23) * 2.0**127

    @property
    def coarsest(self) -> float:
        """Unit roundoff of an operator that is computed in several steps, each of which may be stored."""
        return max(self.sum, self.result)


_SCALED = 6
"""Roundings of a product and a sum with constants: of each, two of its constant, one of a factor of it."""

FP64 = Precision(
    name="fp64",
    sum=2.0**-53,
    result=2.0**-53,
    tiny=_TINY64,
    store_tiny=_TINY64,
    largest=float(np.finfo(np.float64).max),
)
FP32 = Precision(name="fp32", sum=2.0**-24, result=2.0**-24)
TF32 = Precision(name="tf32", operand=2.0**-10, sum=2.0**-22, result=2.0**-24)
FP16 = Precision(name="fp16", sum=2.0**-24, result=2.0**-11, store_tiny=2.0**-14, largest=65504.0)
BF16 = Precision(name="bf16", sum=2.0**-24, result=2.0**-8, largest=(2.0 - 2.0**-7) * 2.0**127)
# gradual underflow in the sums: no kernel that adds in fp16 is known to flush its subnormals
FP16_SUMS = Precision(
    name="fp16 sums", sum=2.0**-11, result=2.0**-11, tiny=2.0**-24, store_tiny=2.0**-14, largest=65504.0
)
BF16_SUMS = dataclasses.replace(BF16, name="bf16 sums", sum=2.0**-8)

_BY_DTYPE = {"float64": FP64, "float32": FP32, "float16": FP16, "bfloat16": BF16}
_LOOSER = {"fp32": TF32, "fp16": FP16_SUMS, "bf16": BF16_SUMS}


def precision_of(dtype: str) -> Precision | None:
    """The precision of arithmetic in a storage type (``"float32"``), or None for other types.

    Half precision is taken to be summed in fp32, which ONNX Runtime's CPU provider (by casts) and PyTorch
    do; see ``looser``.
    """
    return _BY_DTYPE.get(dtype)


def looser(precision: Precision) -> Precision | None:
    """The next weaker claim about a provider, or None: TF32 after fp32, rounded sums after fp32 sums.

    Sums in half precision are what some kernels do (fp16 vector units, split-K reductions on GPUs, tensor
    cores' cut-off sums); what lies within the stronger bound lies within the weaker one.
    """
    return _LOOSER.get(precision.name)


def growth(count: int, unit: float) -> float:
    """``(1 + u)^n − 1`` with ``u + u_64`` for ``u``: relative error of ``count`` roundings.

    Source:
        Higham, *Accuracy and Stability of Numerical Algorithms*, §3.1.
    """
    exponent = count * math.log1p(unit + _U64)
    return math.expm1(exponent) * (1 + 8 * _U64) if exponent < 700.0 else math.inf


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
    rate = growth(count + 4, precision.sum)
    doubled = 2 * precision.operand + precision.operand**2
    value, error = np.empty((len(features.value), out)), np.empty((len(features.value), out))
    stored = np.empty((len(features.value), out))
    size = np.abs(features.value) + features.error
    lost = (4 * count + 4 + size.sum(axis=1, keepdims=True)) * (precision.tiny + _TINY64)
    for part in _row_blocks(out, count):
        wide = np.asarray(weight[part], np.float64)
        offset = np.zeros(len(wide)) if bias is None else np.asarray(bias[part], np.float64)
        product = features.value @ wide.T
        value[:, part] = product + offset
        stored[:, part] = np.abs(product)
        sizes = np.abs(wide).T
        mass = size @ sizes
        lost_here = lost + sizes.sum(axis=0) * precision.tiny
        error[:, part] = rate * ((1 + doubled) * mass + np.abs(offset)) + doubled * mass
        error[:, part] += lost_here * (1 + rate)
        if features.error.any():
            error[:, part] += features.error @ sizes
    stores = 1 if bias is None else 2
    return Interval(value=value, error=_stored(value, error, stored, precision, stores, count))


def scaled_interval(x: Interval, scaling: Scaling, precision: Precision) -> Interval:
    """Interval of ``factor · x + shift`` of each channel; a number may be rounded to the type first.

    Shapes:
        x and result: [N, C, …].
    """
    factor, shift = (
        array.reshape(-1, *[1] * (x.value.ndim - 2)) for array in (scaling.factor, scaling.shift)
    )
    product = factor * x.value
    value, slope = product + shift, np.abs(factor)
    rate = growth(_SCALED, precision.coarsest)
    error = slope * x.error
    error = error + rate * (np.abs(product) + error + np.abs(shift)) + 4 * precision.store_tiny * (1 + slope)
    return Interval(value=value, error=_widened(error, 1))


def mean_interval(cells: Interval, precision: Precision) -> Interval:
    """Interval of the mean over the last axis.

    Shapes:
        cells: [N, C, S]; result: [N, C].
    """
    count = cells.value.shape[-1]
    size = (np.abs(cells.value) + cells.error).mean(axis=-1)
    rate = growth(count + 2, precision.sum)
    error = (
        cells.error.mean(axis=-1) + rate * size + (2 * count + 2) * (precision.tiny + _TINY64) * (1 + rate)
    )
    value = cells.value.mean(axis=-1)
    return Interval(value=value, error=_stored(value, error, size, precision, 3, count))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What is known of a map as a provider computed it, averaged over its positions.

    Attributes:
        mass: ``[N, C]`` bound on the mean of the magnitudes.
        error: ``[N, C]`` bound on the mean of the errors.
        count: how many positions there are.
    """

    mass: Float64
    error: Float64
    count: int


def spread_map(cells: Interval) -> Spread:
    """A map that was observed, or is known to lie in an interval.

    Shapes:
        cells: [N, C, S].
    """
    error = cells.error.mean(axis=-1)
    return Spread(mass=np.abs(cells.value).mean(axis=-1) + error, error=error, count=cells.value.shape[-1])


def spread_affine(x: Spread, weight: NDArray[Any], bias: NDArray[Any] | None, precision: Precision) -> Spread:
    """A site applied at every position; see *Mean of dot products*."""
    sizes = np.abs(np.asarray(weight, np.float64))
    offset = np.zeros(len(sizes)) if bias is None else np.abs(np.asarray(bias, np.float64))
    count = sizes.shape[1]
    rate = growth(count + 4, precision.sum)
    doubled = 2 * precision.operand + precision.operand**2
    mass = x.mass @ sizes.T
    lost = (4 * count + 4 + x.mass.sum(axis=1, keepdims=True) + sizes.sum(axis=1)) * (
        precision.tiny + _TINY64
    )
    error = rate * ((1 + doubled) * mass + offset) + doubled * mass + lost * (1 + rate) + x.error @ sizes.T
    error = _stored(mass + offset, error, mass, precision, 1 if bias is None else 2, count)
    return Spread(mass=mass + offset + error, error=error, count=x.count)


def spread_scaled(x: Spread, scaling: Scaling, precision: Precision) -> Spread:
    """A scale and shift of each channel applied at every position."""
    slope, shift = np.abs(scaling.factor), np.abs(scaling.shift)
    mass = slope * x.mass + shift
    error = (
        slope * x.error + growth(_SCALED, precision.coarsest) * mass + 4 * precision.store_tiny * (1 + slope)
    )
    error = _widened(error, x.count)
    return Spread(mass=mass + error, error=error, count=x.count)


def spread_error(x: Spread, precision: Precision) -> Float64:
    """Bound on the error of the mean over the positions, as the provider takes it."""
    rate = growth(x.count + 2, precision.sum)
    error = x.error + rate * x.mass + (2 * x.count + 2) * (precision.tiny + _TINY64) * (1 + rate)
    return _stored(x.mass, error, x.mass, precision, 3, x.count)


def _row_blocks(out: int, count: int) -> list[slice]:
    rows = max(1, _CHUNK // max(count, 1))
    return [slice(start, start + rows) for start in range(0, out, rows)]


def _stored(
    value: Float64, error: Float64, before: Float64, precision: Precision, stores: int, count: int
) -> Float64:
    """The error after the result, and what came ``before`` its last step, were stored.

    A provider may also store what it sums in: a store of a type that is no coarser is one of the roundings
    that were counted.
    """
    if precision.result > precision.sum or precision.store_tiny > precision.tiny:
        rate = growth(stores, precision.result)
        size = np.maximum(np.abs(value), before)
        error = error + rate * (size + error) + stores * precision.store_tiny * (1 + rate)
    return _widened(error, count)


def _widened(error: Float64, count: int) -> Float64:
    """A bound that covers the float64 rounding of its own computation."""
    widened: Float64 = error * (1 + (4 * count + 64) * _U64)
    return widened
