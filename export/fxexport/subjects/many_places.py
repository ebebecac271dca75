"""Features for a site that works at many places: spread over them, and its results gathered from there.

Rows ``[R, K]`` fill the places of as many samples as they need; what is left over is zero.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from fxexport.terms.arrays import numpy_of, tensor_of
from fxexport.terms.term import Array, Shape, SiteWeights, Spots
from fxpasses.errors import InternalError

_CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)


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


def run_eagerly(
    affine: SiteWeights, features: Array, weight: Array | None, device: torch.device, *, has_bias: bool
) -> Array:
    """``[N, O]`` of a site by torch's own operator, linear or convolution as the site is written.

    For a module that is compared as what it exports to: the site's node is none of its graph.
    """
    given = affine.weight if weight is None else weight
    stored = given if affine.columns is None else given[:, affine.columns]
    matrix = tensor_of(np.array(stored)).to(device)
    bias = None
    if affine.bias is not None and has_bias and weight is None:
        bias = tensor_of(np.array(affine.bias)).to(device)
    with torch.no_grad():
        if affine.spots is None:
            rows = features if affine.columns is None else features[:, affine.columns]
            return numpy_of(functional.linear(tensor_of(rows).to(device), matrix, bias))
        fed = tensor_of(spread(affine, features)).to(device)
        result = _applied(affine, fed, matrix, bias)
    return collected(affine, numpy_of(result), len(features))


def _applied(
    affine: SiteWeights, fed: torch.Tensor, matrix: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    spots, rank = _spots(affine), fed.dim() - 2
    if not affine.kernel_size:
        moved = functional.linear(fed.movedim(spots.axis, -1), matrix, bias)
        return moved.movedim(-1, spots.axis)
    return _CONVOLUTIONS[rank - 1](fed, matrix.reshape(len(matrix), -1, *affine.kernel_size), bias)


def _spots(affine: SiteWeights) -> Spots:
    if affine.spots is None:
        raise InternalError(f"{affine.weight_name!r} is no site at many places")
    return affine.spots


def _free(spots: Spots, rows: int) -> Shape:
    """Extents of the other dimensions, with as large a batch as ``rows`` need."""
    batch, *others = [extent for axis, extent in enumerate(spots.extents) if axis != spots.axis]
    return (batch * -(-rows // (batch * math.prod(others))), *others)
