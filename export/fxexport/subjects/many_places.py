"""Features for a site that works at many places: spread over them, and its results gathered from there.

Rows ``[R, K]`` fill the places of as many samples as they need; what is left over is zero. A convolution
whose window has several cells reads each row alone, in the first window that no padding reaches.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from fxexport.onnx_graph.shapes import BATCH
from fxexport.terms.arrays import numpy_of, tensor_of
from fxexport.terms.term import Array, Shape, SiteWeights, Spots, Window
from fxpasses.errors import InternalError

_CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)


def spread(affine: SiteWeights, features: Array) -> Array:
    """What the operator reads, so that it applies the site to each row of ``features``.

    Shapes:
        features: [R, K], columns as those of the weight.
    """
    rows = features if affine.columns is None else features[:, affine.columns]
    spots = _spots(affine)
    if spots.window is not None:
        return _in_windows(rows, spots, spots.window)
    free, count = _free(spots, len(rows)), rows.shape[1]
    full = np.zeros((math.prod(free), count), rows.dtype)
    full[: len(rows)] = rows
    return np.ascontiguousarray(np.moveaxis(full.reshape(*free, count), -1, spots.axis))


def collected(affine: SiteWeights, result: Array, rows: int) -> Array:
    """``[R, O]`` of what the operator gives for ``spread`` features."""
    spots = _spots(affine)
    if spots.window is not None:
        for axis in range(result.ndim - 2):
            result = result.take(_first(spots.window, axis)[0], axis=2)
        return np.ascontiguousarray(result)
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
    kernel = matrix.reshape(len(matrix), fed.shape[1], *affine.kernel_size)
    window = spots.window
    if window is None:
        return _CONVOLUTIONS[rank - 1](fed, kernel, bias)
    pads = list(window.pads)
    return _CONVOLUTIONS[rank - 1](fed, kernel, bias, list(window.strides), pads, list(window.dilations))


def _spots(affine: SiteWeights) -> Spots:
    if affine.spots is None:
        raise InternalError(f"{affine.weight_name!r} is no site at many places")
    return affine.spots


def _free(spots: Spots, rows: int) -> Shape:
    """Extents of the other dimensions, with as large a batch as ``rows`` need."""
    free = [extent for axis, extent in enumerate(spots.extents) if axis != spots.axis]
    batch = next((axis for axis, extent in enumerate(free) if extent % BATCH == 0), 0)
    free[batch] = free[batch] // BATCH if free[batch] % BATCH == 0 else 1
    free[batch] *= -(-rows // math.prod(free))
    return tuple(free)


def _in_windows(rows: Array, spots: Spots, window: Window) -> Array:
    channels = spots.extents[1]
    starts = [_first(window, axis)[1] for axis in range(len(window.kernel_size))]
    reaches = [
        dilation * (kernel - 1) + 1
        for kernel, dilation in zip(window.kernel_size, window.dilations, strict=True)
    ]
    sides = [start + reach for start, reach in zip(starts, reaches, strict=True)]
    full = np.zeros((len(rows), channels, *sides), rows.dtype)
    places = tuple(slice(s, None, step) for s, step in zip(starts, window.dilations, strict=True))
    full[(slice(None), slice(None), *places)] = rows.reshape(len(rows), channels, *window.kernel_size)
    return full


def _first(window: Window, axis: int) -> tuple[int, int]:
    """Number of the first result whose window lies inside the map, and the window's first cell."""
    number = -(-window.pads[axis] // window.strides[axis])
    return number, number * window.strides[axis] - window.pads[axis]
