"""Functions in float64, with how far a rounded result may lie from them.

**Elementwise.** For a function ``f`` with Lipschitz constant ``L``:
``|fl(f(x̂)) − f(x)| ≤ L·|x̂ − x| + r(x̂)``, where ``r`` bounds the rounding of one evaluation. ReLU and ReLU6
are exact (``r = 0``). Hard sigmoid and hard swish ``x·clip(x/6 + 1/2)`` have at most five roundings, each
of at most ``u (1 + |x|)``, the latter multiplied by ``|x|``; 8 are allowed. For exp-based ones no provider
states its accuracy: ``r`` **assumes** at most 32 units roundoff of 1 (sigmoid, tanh) or of ``|x|`` (SiLU,
GELU), which the kernels known to us meet.

**Softmax** over ``n`` scores. Where every score is off by at most ``e``, each ``exp(x_i)`` and their sum
change by a factor within ``exp(±e)``, so ``p_i`` by one within ``exp(±2e)``. An evaluation subtracts the
maximum (relative error ``u·R`` of the exponential, ``R`` the range of the scores), takes the exponential
(32 units, as above), adds up to ``n`` of them, divides and stores: a factor within
``exp(±(2 u R + (64 + n + 4) u))``. What underflows is at most ``n + 4`` smallest normal numbers.

**Steps.** Rounding to integers, and holding them between two, never falls where its argument rises. So the
result lies between those at both ends of the argument's interval: it is known exactly but where a place
between two integers lies within. The argument is a quotient, rounded once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np

from fxexport.numerics.bounds import Float64, Interval, Precision
from fxexport.terms.term import Array

_OWN = 1 + 2.0**-40
"""Factor that makes up for the float64 rounding of a bound."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """One elementwise function.

    Attributes:
        function: the function in float64.
        lipschitz: a Lipschitz constant over the reals.
        rounding: error of one evaluation in units roundoff, as a function of ``|x|``.
    """

    function: Callable[[Float64], Float64]
    lipschitz: float
    rounding: Callable[[Float64], Float64]


def _exact(size: Float64) -> Float64:
    return np.zeros_like(size)


def _sigmoid(x: Float64) -> Float64:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _erf(x: Float64) -> Float64:
    return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x), np.float64)


def _hard_sigmoid(x: Float64) -> Float64:
    return np.clip(x / 6.0 + 0.5, 0.0, 1.0)


ACTIVATIONS: Mapping[str, Activation] = {
    "relu": Activation(function=lambda x: np.maximum(x, 0.0), lipschitz=1.0, rounding=_exact),
    "relu6": Activation(function=lambda x: np.clip(x, 0.0, 6.0), lipschitz=1.0, rounding=_exact),
    "hardsigmoid": Activation(
        function=_hard_sigmoid, lipschitz=1.0 / 6.0, rounding=lambda x: 8.0 * (1.0 + x)
    ),
    "hardswish": Activation(
        function=lambda x: x * _hard_sigmoid(x), lipschitz=1.5, rounding=lambda x: 8.0 * x * (1.0 + x)
    ),
    "sigmoid": Activation(function=_sigmoid, lipschitz=0.25, rounding=lambda x: np.full_like(x, 32.0)),
    "tanh": Activation(function=np.tanh, lipschitz=1.0, rounding=lambda x: np.full_like(x, 32.0)),
    "silu": Activation(function=lambda x: x * _sigmoid(x), lipschitz=1.1, rounding=lambda x: 32.0 * x),
    "gelu": Activation(
        function=lambda x: 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0))),
        lipschitz=1.13,
        rounding=lambda x: 32.0 * x,
    ),
}


def apply_activation(name: str, x: Interval, precision: Precision) -> Interval:
    """Interval of the named elementwise function of ``x``."""
    activation = ACTIVATIONS[name]
    size = np.abs(x.value) + x.error
    rounding = activation.rounding(size) * precision.coarsest
    lost = 0.0 if activation.rounding is _exact else 8.0 * precision.store_tiny
    # subnormals may be flushed by a function that is exact otherwise
    error = activation.lipschitz * x.error + rounding + lost + precision.tiny
    return Interval(value=activation.function(x.value), error=error * _OWN)


def quantized_interval(x: Interval, scale: Float64, zero: Array, precision: Precision) -> Interval:
    """Interval of ``x`` as integers: ``saturate(round(x / scale) + zero)``."""
    ends = np.iinfo(zero.dtype)
    quotient = x.value / scale
    off = (x.error / scale + precision.coarsest * (np.abs(quotient) + x.error / scale)) * _OWN

    def step(argument: Float64) -> Float64:
        return np.asarray(np.clip(np.rint(argument) + zero, ends.min, ends.max), np.float64)

    value = step(quotient)
    return Interval(value=value, error=np.maximum(step(quotient + off) - value, value - step(quotient - off)))


def dequantized_interval(x: Interval, scale: Float64, zero: Array, precision: Precision) -> Interval:
    """Interval of integers as the reals that they stand for: ``(x - zero) · scale``."""
    value = (x.value - zero) * scale
    error = x.error * scale
    error = error + precision.coarsest * (np.abs(value) + error) + precision.store_tiny
    return Interval(value=value, error=error * _OWN)


def softmax_interval(x: Interval, precision: Precision) -> Interval:
    """Interval of the softmax over the last axis.

    Shapes:
        x and result: [N, C].
    """
    value = np.exp(x.value - x.value.max(axis=-1, keepdims=True))
    value /= value.sum(axis=-1, keepdims=True)
    off = x.error.max(axis=-1, keepdims=True)
    spread = np.ptp(x.value, axis=-1, keepdims=True) + 2 * off
    unit, count = precision.coarsest, x.value.shape[-1]
    with np.errstate(over="ignore"):  # an infinite bound says that nothing is known
        rate = np.expm1(2 * off + (2 * spread + 68 + count) * unit)
        error = value * rate + (count + 4) * precision.store_tiny * (1 + rate)
    return Interval(value=value, error=error * _OWN + count * 2.0**-50 * value)
