"""Features for a site that works at many places: spread over them, and its results gathered from there.

Rows ``[R, K]`` fill the places of as many samples as they need; what is left over is zero.
"""

from __future__ import annotations

import math

import numpy as np

from fxexport.terms.term import Array, Shape, SiteWeights, Spots
from fxpasses.errors import InternalError


def spread(affine: SiteWeights, features: Array) -> Array:
    """What the operator reads, so that it applies the site to each row of ``features``.

    Shapes:
        features: [R, K], columns as those of the weight.
    """
    rows = features if affine.columns is None else features[:, affine.columns]
    spots = _spots(affine)
    free, count = _free(spots, len(rows)), rows.shape[1]
    full = np.zeros((math.prod(free), count), rows.dtype)
    full[: len(rows)] = rows
    return np.ascontiguousarray(np.moveaxis(full.reshape(*free, count), -1, spots.axis))


def collected(affine: SiteWeights, result: Array, rows: int) -> Array:
    """``[R, O]`` of what the operator gives for ``spread`` features."""
    spots = _spots(affine)
    flat = np.moveaxis(result, spots.axis, -1).reshape(-1, result.shape[spots.axis])
    return np.ascontiguousarray(flat[:rows])


def _spots(affine: SiteWeights) -> Spots:
    if affine.spots is None:
        raise InternalError(f"{affine.weight_name!r} is no site at many places")
    return affine.spots


def _free(spots: Spots, rows: int) -> Shape:
    """Extents of the other dimensions, with as large a batch as ``rows`` need."""
    batch, *others = [extent for axis, extent in enumerate(spots.extents) if axis != spots.axis]
    return (batch * -(-rows // (batch * math.prod(others))), *others)
