"""A batch norm behind a convolution beside a convolution alone: whether it was folded into the weights.

In evaluation a batch norm is ``y = s·x + t`` for each channel. What ``s`` and ``t`` are is read off the
operator itself: its result is ``t`` for 0 and ``s·2⁶⁰`` for ``2⁶⁰``, up to a few roundings. Folding gives
``s·W`` and ``s·b + t``. Tools compute them in different orders, so equality holds up to rounding only.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from fxexport.numerics.bounds import Float64
from fxexport.terms.term import Array, Kind, Term

_LARGE = 2.0**60
_NEAR = 2.0**-19
"""Relative difference that orders of folding leave: some ten roundings."""
_CANCELLED = 2.0**-14
"""The same for ``s·b + t``, in which large terms may cancel."""

_NORMS = ("BatchNormalization", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "batch_norm")
_CONVOLUTIONS = ("Conv", "Conv1d", "Conv2d", "Conv3d", "conv1d", "conv2d", "conv3d")

Run = Callable[[Term, Term, Array], Array | None]


def is_fold(operators: tuple[str, str, str]) -> bool:
    """True for the names of a norm, of what it reads, and of what may be both in one."""
    norm, source, other = operators
    return norm in _NORMS and source in _CONVOLUTIONS and other in _CONVOLUTIONS


def folded_apart(norm: Term, source: Term, other: Term, run: Run) -> tuple[float, float] | None:
    """A weight as folding gives it and as it is, where they differ by more than rounding; else None.

    Raises:
        ValueError: the norm does not run alone, or the convolutions are not of one shape.
    """
    scale, shift = _scale_and_shift(norm, source, run)
    weight, bias = _parameters(source, len(scale))
    found_weight, found_bias = _parameters(other, len(scale))
    if weight.shape != found_weight.shape:
        raise ValueError("the convolutions are not of one shape")
    expected = weight * scale[:, np.newaxis]
    largest = np.abs(expected).max(axis=1, keepdims=True)
    expected_bias = bias * scale + shift
    limit = _CANCELLED * float((np.abs(bias * scale) + np.abs(shift)).max(initial=0.0)) + _NEAR * largest
    return _worst(expected, found_weight, _NEAR * largest) or _worst(
        expected_bias[:, np.newaxis], found_bias[:, np.newaxis], limit
    )


def _worst(expected: Float64, found: Float64, limit: Float64) -> tuple[float, float] | None:
    excess = np.abs(expected - found) - limit
    if not (np.isnan(excess) | (excess > 0)).any():
        return None
    index = int(np.argmax(np.where(np.isnan(excess), np.inf, excess)))
    return float(expected.reshape(-1)[index]), float(found.reshape(-1)[index])


def _scale_and_shift(norm: Term, source: Term, run: Run) -> tuple[Float64, Float64]:
    shape = source.shape
    if shape is None or len(shape) < 2:
        raise ValueError("the norm's channels are unknown")
    results = []
    for value in (0.0, _LARGE):
        result = run(norm, source, np.full((2, *shape), value, np.float32))
        if result is None or result.size != 2 * math.prod(shape):
            raise ValueError("the norm does not run alone")
        results.append(result.astype(np.float64).reshape(2, shape[0], -1)[0, :, 0])
    return results[1] / _LARGE, results[0]


def _parameters(term: Term, channels: int) -> tuple[Float64, Float64]:
    """``[O, K]`` and ``[O]`` of a convolution; functions hold their constants as operands."""
    held = [
        *term.constants,
        *(c for item in term.operands if item.kind is Kind.CONSTANT for c in item.constants),
    ]
    weights = [array for array in held if array.ndim >= 2]
    biases = [array for array in held if array.shape == (channels,)]
    if len(weights) != 1 or len(weights[0]) != channels or len(biases) > 1:
        raise ValueError("it is no convolution with constant weights")
    bias = biases[0].astype(np.float64) if biases else np.zeros(channels)
    return weights[0].astype(np.float64).reshape(channels, -1), bias
