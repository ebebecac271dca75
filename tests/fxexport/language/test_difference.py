"""What two folds of the same norm may differ by, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from fxexport.language.difference import refolded

UNIT = 2.0**-24
WEIGHTS = np.random.default_rng(0).normal(size=(4, 3, 3, 3))
MATRIX = WEIGHTS.reshape(1, 1, 9, 2, 6)
BIAS = np.array([1.0, -0.5, 1e-9, 2.0])


def scaled(array: np.ndarray, at: object, units: float) -> np.ndarray:
    """The array with other numbers there, by so many units."""
    other = array.copy()
    other[at] *= 1 + units * UNIT
    return other


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (WEIGHTS, scaled(WEIGHTS, 1, 4), "weights"),
        (WEIGHTS, scaled(WEIGHTS, ..., -7), "weights"),
        (WEIGHTS, scaled(WEIGHTS, 1, 9), None),
        (WEIGHTS, scaled(WEIGHTS, (1, 0, 0), 2), None),
        (WEIGHTS, scaled(WEIGHTS, (..., 0, 0), 2), None),
        (WEIGHTS[:, :, 0, 0], scaled(WEIGHTS[:, :, 0, 0], 1, 4), None),
        (WEIGHTS, np.where(WEIGHTS == WEIGHTS.max(), np.nan, WEIGHTS), None),
        (MATRIX, scaled(MATRIX, (..., 1, 3), 4), "weights"),
        (MATRIX, scaled(MATRIX, (0, 0, 4), 4), "weights"),
        (MATRIX, scaled(MATRIX, (0, 0, 4, 1, slice(3)), 4), None),
        (BIAS, BIAS + 4 * UNIT, "bias"),
        (BIAS, BIAS + 17 * UNIT, None),
        (BIAS[None, :, None, None], scaled(BIAS, 1, 4)[None, :, None, None], "bias"),
        (np.array(1.0), np.array(1 + UNIT), None),
        (np.ones((1, 1)), np.ones((1, 1)) + UNIT, None),
    ],
)
def test_only_factors_of_channels_are_refolded(
    left: np.ndarray, right: np.ndarray, expected: str | None
) -> None:
    assert refolded(left, right, UNIT) == expected
