"""Layer 2: every weight sits in its place, shown on inputs for which floating point is exact.

**One feature at a time, the real weights, no bias.** Features ``s·e_i`` with ``s`` a power of two and the
bias put to zero. Every product is ``s·w`` (only the exponent changes) or ``±0``, and sums of zeros and one
other number are exact: the result is ``s·w_oi``, bit for bit, in every summation order, fused or not, with
sums in the type itself, in fp32 or wider, in fp64, fp32, fp16 and bf16. After ``K`` probes every weight
was seen in its place. ``s`` puts the largest weight near the top of the type's range; where the smallest
would then give a subnormal number, more scales are run, and a weight is only looked at where its result is
a normal number (so that it is the same with results flushed to zero, and no overflow). A weight that is
subnormal itself may be taken as zero by the hardware; then the layer held and is not proved.

**The bias.** With all features zero the result is ``b``. Where it is added, the result of ``s·e_i`` is
``fl(s·w_oi + b_o)``: one rounding, first or last, fused or not. Sums in fp32 that are rounded to half
precision afterwards give the same: ``24 ≥ 2·11 + 2`` digits make double rounding harmless (Figueroa, *When
is double rounding innocuous?*, 1995). A sample of the columns shows that; one scale makes weights and bias
about equal, so that neither hides the other.

**Small integers, where one at a time is too many.** Integer weights in ``{−a … a}`` are put in, and
features in ``{−1, 0, 1}``, no more than ``m`` of them at a time other than zero, where ``m·a`` is at most
``2^p`` with ``p`` the digits of the type's significand (24 in fp32, 11 in fp16, 8 in bf16): all partial
sums are integers that the type holds exactly, in any order; TF32 keeps 11 digits of an operand, and
``a ≤ 2¹⁰``. For an operator that is another bilinear function of features and weights, some coefficient
of its difference from the right one, a linear form of the weights, is not zero: random weights make it
zero with probability at most ``1/(2a + 1)`` (fix the others: one value of one weight at most does), and
else each round of random features hides it with probability at most 1/3 (Freivalds). So ``f`` sets of
weights with ``r`` rounds each miss it with probability at most ``(1/(2a + 1) + 3^−r)^f``. The sets are
windows of one random sequence, each shifted against the last: the last coefficient of each set's form
stands at a place that no earlier one reaches, so the bound holds as if they were independent.

**Many sites of one form.** In the middle of a network tens of sites differ in nothing but their weights:
the same operator with the same attributes on values of one shape. What it does with weights is shown on
one of them in full, and on each of the others for a sample of the columns, with the bias.

**Where it is not exact.** Operands that are rounded first (TF32) give ``s·w`` up to the rounding of ``w``.
Results that lie within the interval of that precision are accepted, and the layer held, with the reason.
Winograd and FFT convolutions add and subtract what cancels only in exact arithmetic: their results for
k×k kernels may lie near ``s·w`` by the kernel's norm; then the layer was not run, since no bound of ours
covers them.

Zeros compare equal whatever their sign.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fxexport.numerics.bounds import Precision, growth, precision_of
from fxexport.proof.wiring.integers import IntegerPlan, integer_plan, random_integers, sparse_features
from fxexport.results import Failure
from fxexport.terms.term import Array, SiteWeights

_EXHAUSTIVE_LIMIT = 2**33
"""Most multiply-adds (K · K · O) that probing one feature at a time may take."""
_EXHAUSTIVE_LIMIT_AT_PLACES = 2**29
"""The same for a site at many places: a network has tens of them, and one head."""
_LIKELY = 1e-4
"""Probability of passing by chance above which integer probes are no proof."""
_SAMPLED = 16
"""Columns that are looked at together with the bias."""
_CHUNK = 2**24
"""Most numbers of a chunk of probes, features or results."""
_NORM_UNITS = 2.0**8
"""How many units roundoff of a kernel's norm a Winograd or FFT result may be off."""

RunSite = Callable[[Array, Array | None, bool], Array]
"""Features ``[N, K]``, weights to put in or None for the site's own, whether its bias is added."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What probing one site on one provider showed.

    Attributes:
        probes: feature vectors that were run.
        failure: the first weight out of place, or None.
        gap: why the probes prove nothing, or None.
        held: why they are no proof, though nothing is out of place, or None.
        note: what the proof rests on where not every weight was seen by itself, or None.
    """

    probes: int
    failure: Failure | None = None
    gap: str | None = None
    held: str | None = None
    note: str | None = None


def probe_site(
    affine: SiteWeights,
    run: RunSite,
    rng: np.random.Generator,
    claims: Sequence[Precision] = (),
    *,
    is_known: bool = False,
) -> ProbeResult:
    """What probing the site showed.

    Args:
        affine: the site.
        run: runs it alone.
        rng: where integers come from.
        claims: precisions whose intervals are accepted where results are not exact, tightest first; none
            stands for that of the weights' type.
        is_known: whether an operator of the same form and shape was probed in full: then a sample of the
            columns is enough.
    """
    weight, name = affine.weight, affine.weight_name
    own = precision_of(weight.dtype.name)
    if own is None:
        return ProbeResult(probes=0, gap=f"{name!r} is {weight.dtype}: probes need floating point")
    if not _all_finite(weight) or not (affine.bias is None or np.isfinite(affine.bias).all()):
        return ProbeResult(probes=0, gap=f"{name!r} holds NaN or infinity")
    probing = _Probing(affine, run, claims or (own,))
    count = weight.shape[1]
    limit = _EXHAUSTIVE_LIMIT if affine.spots is None else _EXHAUSTIVE_LIMIT_AT_PLACES
    is_exhaustive = count * count * len(weight) <= limit
    sample = np.unique(np.linspace(0, count - 1, min(count, _SAMPLED)).astype(np.int64))
    probing.zero()
    if affine.bias is not None or is_known or not is_exhaustive:
        probing.one_hot(sample, has_bias=affine.bias is not None)
    if is_known:
        probing.note = (
            f"{name!r}: {len(sample)} of {count} columns; another site of its form was probed in full"
        )
    elif is_exhaustive:
        probing.one_hot(np.arange(count), has_bias=False)
    else:
        plan = integer_plan(len(weight), count, weight.dtype.name)
        probing.integers(plan, rng)
        probing.note = (
            f"{name!r}: {len(sample)} of {count} columns one by one, all by small integers,"
            f" which a wrong wiring passes with probability below {plan.miss:.0e}"
        )
        probing.held = probing.held or (probing.note if plan.miss > _LIKELY else None)
    return probing.result()


@dataclasses.dataclass(frozen=True, slots=True)
class _OneHot:
    """Which column each probe looks at, and its feature."""

    columns: NDArray[np.int64]
    scale: float


class _Probing:
    """Probes of one site; stops at the first failure."""

    def __init__(self, affine: SiteWeights, run: RunSite, claims: Sequence[Precision]) -> None:
        self._affine, self._run, self._claims = affine, run, claims
        self._exponents = _exponents(affine.weight)
        self._probes = 0
        self._failure: Failure | None = None
        self.held: str | None = None
        self.gap: str | None = None
        self.note: str | None = None

    def result(self) -> ProbeResult:
        return ProbeResult(
            probes=self._probes, failure=self._failure, gap=self.gap, held=self.held, note=self.note
        )

    def zero(self) -> None:
        """All features zero: the bias itself."""
        weight = self._affine.weight
        features = np.zeros((1, weight.shape[1]), weight.dtype)
        found = self._run(features, None, True)
        self._compare(found, self._bias()[np.newaxis], np.zeros((1, len(weight))))

    def one_hot(self, columns: NDArray[np.int64], *, has_bias: bool) -> None:
        weight = self._affine.weight
        kind = weight.dtype
        beside = (self._beside_bias(),) if has_bias else ()
        for scale in (*beside, *scales(weight, self._exponents)):
            for part in _chunks(columns, max(weight.shape)):
                if self._failure is not None:
                    return
                features = np.zeros((len(part), weight.shape[1]), kind)
                features[np.arange(len(part)), part] = scale
                found = self._run(features, None, has_bias)
                with np.errstate(over="ignore"):  # an overflow is no normal number, and not looked at
                    product = np.ascontiguousarray(weight[:, part].T).astype(np.float64) * scale
                    due = product + self._bias().astype(np.float64) if has_bias else product
                    # one rounding: float64 holds the sum of fp32 numbers with 53 ≥ 2·24 + 2 digits
                    expected = due.astype(kind)
                self._compare(found, expected, product, _OneHot(part, scale))

    def _beside_bias(self) -> float:
        """A scale that makes weights about as large as the bias, so that neither hides the other."""
        difference = _exponents(self._bias())[1] - self._exponents[1]
        reach = math.frexp(self._claims[0].largest)[1] - 2
        return math.ldexp(1.0, max(-reach, min(reach, difference)))

    def integers(self, plan: IntegerPlan, rng: np.random.Generator) -> None:
        weight = self._affine.weight
        for given in random_integers(weight.shape, weight.dtype, plan, rng):
            for features, support in sparse_features(weight.shape[1], weight.dtype, plan, rng):
                if self._failure is not None:
                    return
                product = _integer_product(features, given, support)
                self._compare(self._run(features, given, False), product.astype(weight.dtype), product)

    def _bias(self) -> Array:
        weight = self._affine.weight
        return np.zeros(len(weight), weight.dtype) if self._affine.bias is None else self._affine.bias

    def _compare(self, found: Array, expected: Array, product: Array, one_hot: _OneHot | None = None) -> None:
        """Notes what one run showed; ``product`` is ``s·w`` of each result, in float64."""
        self._probes += len(expected)
        name = self._affine.weight_name
        if expected.shape != found.shape:
            what = f"the site gives {found.shape}, not {expected.shape}"
            self._failure = Failure(what=what, name=name)
            return
        if np.array_equal(found, expected):
            return
        different = ~(found == expected) & _is_normal(product, self._claims[0])
        different &= _is_normal(expected, self._claims[0])
        if not different.any():
            return
        wide, due = found.astype(np.float64), expected.astype(np.float64)
        with np.errstate(invalid="ignore"):  # infinities are no normal numbers, and not looked at
            off = np.where(different, np.abs(wide - due), 0.0)
        if one_hot is None:
            self._failure = _misplaced(name, different, off, wide, due)
            return
        held, gap = self._excuses(off, different, product, one_hot)
        self.held, self.gap = self.held or held, self.gap or gap
        if held is None and gap is None:
            self._failure = _misplaced(name, different, off, wide, due)

    def _excuses(
        self, off: Array, different: NDArray[np.bool_], product: Array, one_hot: _OneHot
    ) -> tuple[str | None, str | None]:
        """Why results that are not exact are no failure: they hold, or they prove nothing."""
        affine, weight = self._affine, self._affine.weight
        name, bias = affine.weight_name, np.abs(self._bias().astype(np.float64))
        tiny = np.abs(weight[:, one_hot.columns].T.astype(np.float64)) < smallest_normal(weight.dtype)
        if not (different & ~(tiny & (off <= np.abs(product)))).any():
            return f"{name!r}: subnormal weights are taken as zero", None
        # exact arithmetic is what every other precision owes
        for claim in (c for c in self._claims if c.operand):
            operand = 2 * claim.operand + claim.operand**2
            rate = growth(4, claim.sum) + growth(2, claim.result)
            bound = (rate + operand) * (np.abs(product) + bias) + 8 * claim.store_tiny
            if (off <= bound).all():
                return f"{name!r}: right within {claim.name} rounding, not bit for bit", None
        if math.prod(affine.kernel_size) > 1:
            norm = one_hot.scale * np.abs(weight).max(axis=1).astype(np.float64) + bias
            if (off <= _NORM_UNITS * self._claims[0].coarsest * norm).all():
                reason = "as by a Winograd or FFT convolution, for which no bound is known"
                return None, f"{name!r}: off by rounding of the whole kernel, {reason}"
        return None, None


def _misplaced(name: str, different: NDArray[np.bool_], off: Array, found: Array, due: Array) -> Failure:
    ranked = np.where(different, np.where(np.isfinite(off), off, np.inf), -1.0)
    row, column = (int(axis) for axis in np.unravel_index(int(np.argmax(ranked)), off.shape))
    return Failure(
        what=f"the head alone gives another value for probe {row} in class {column}",
        name=name,
        index=(row, column),
        expected=float(due[row, column]),
        found=float(found[row, column]),
    )


def scales(weight: Array, exponents: tuple[int, int] | None = None) -> tuple[float, ...]:
    """Powers of two for one feature, so that each weight gives a normal result with one of them.

    ``exponents`` are those of the smallest and the largest weight, where they are known.
    """
    limits = np.finfo(np.float32) if weight.dtype.name == "bfloat16" else np.finfo(weight.dtype)
    bottom = int(limits.minexp)
    # far from overflow where the range is large: kernels may split an operand into parts first
    top = int(limits.maxexp) - 2 if weight.dtype == np.float16 else int(limits.maxexp) // 2
    low, high = exponents or _exponents(weight)
    found = [min(top, top - high)]
    while found[-1] + low - 1 < bottom and found[-1] < top:
        found.append(min(top, found[-1] + top - bottom - 2))
    return tuple(math.ldexp(1.0, exponent) for exponent in found)


def _exponents(array: Array) -> tuple[int, int]:
    """Binary exponents of the smallest and the largest number that is not zero; (0, 0) where all are."""
    largest = float(max(array.max(initial=0), -array.min(initial=0)))
    if largest == 0.0:
        return 0, 0
    smallest = min(
        float(np.abs(part[part != 0]).min(initial=np.inf))
        for part in np.array_split(array.reshape(-1), max(1, array.size // _CHUNK))
    )
    return math.frexp(smallest)[1], math.frexp(largest)[1]


def smallest_normal(kind: np.dtype[Any]) -> float:
    """Smallest normal number of a floating type."""
    return float(np.finfo(np.float32 if kind.name == "bfloat16" else kind).tiny)


def _is_normal(product: Array, precision: Precision) -> NDArray[np.bool_]:
    """Where a number is zero, or is neither flushed to zero nor near overflow."""
    size = np.abs(product).astype(np.float64)
    found: NDArray[np.bool_] = (size == 0) | ((size >= precision.store_tiny) & (size < precision.largest / 2))
    return found


def _integer_product(features: Array, given: Array, support: slice) -> Array:
    """The exact result, in float32: the sums are small integers."""
    part = features[:, support].astype(np.float32)
    rows = max(1, _CHUNK // part.shape[1])
    blocks = [
        part @ given[start : start + rows, support].astype(np.float32, copy=False).T
        for start in range(0, len(given), rows)
    ]
    return np.concatenate(blocks, axis=1).astype(np.float64)


def _chunks(columns: NDArray[np.int64], width: int) -> Iterator[NDArray[np.int64]]:
    rows = max(1, _CHUNK // max(width, 1))
    for start in range(0, len(columns), rows):
        yield columns[start : start + rows]


def _all_finite(array: Array) -> bool:
    """True if no element is NaN or infinite; a minimum and a maximum need no copy of a large array."""
    return bool(np.isfinite(array.min(initial=0)) and np.isfinite(array.max(initial=0)))


def seeded(seed: int) -> np.random.Generator:
    """A generator that gives the same probes every time."""
    return np.random.Generator(np.random.PCG64(seed))
