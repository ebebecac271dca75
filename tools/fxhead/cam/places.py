"""Whether the places of a map are those of the image: measured, as a flip can be spelled in any way.

A model that flips, turns, rolls, crops or pads its features before it averages them has a map that lies
elsewhere than the image under it, and its logits do not tell. So pixels are exchanged in the first, the
middle and the last third of the image along each axis: the map has to change where they were, as much at one
end as at the other, and as far out as it reaches. One exchange tells that of 7 x 7 places; of 2 x 2 its log
odds vary by 0.35 around 0.2, so that a fault is believed of several only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fxpasses.errors import InputError

_Array = NDArray[np.float64]
_Run = Callable[[NDArray[Any]], NDArray[Any]]
_THIRDS = 3
_CLEAR = 0.5
"""Of log odds: below it a map has no places to speak of, as where everything looks at everything.

Eight families of torchvision, fresh weights: 3.5 and more along the same axis, 0.5 and less across it; with
features rolled or shuffled, or averaged with their flip, less than a third of what the other axis has.
"""
_ONE_SIDED = np.log(3)
"""How much more one end of the image changes the map than the other: 0.5 there, 1.5 cropped to a corner."""
_SHARP = 0.15
"""How far apart both ends are on the map, of what they are on the image, where its middle can be found."""
_OFF_CENTRE, _OFF_CENTRE_CELLS = 0.1, 1.2
"""How far the image's middle is from the map's, of the whole and in places, whichever is more.

Nine families have up to 0.8 places of 7, as strides and paddings shift a map themselves (ResNet-18: 0.6);
rolled by one place, or padded by one at one side, most have more than 1.2.
"""
_FRAME_CELLS = 1.0
"""How far places that nothing changes, around all others, may shift these."""
_EXCHANGES = 8
"""All together, where the first one finds a map elsewhere."""
_WHAT = (
    "its places are others than the image's: features are flipped, turned, moved, cropped or padded before it"
)


def require_places(run: _Run, image: NDArray[Any], what: str) -> None:
    """Returns where a map lies as the image ``[C, H, W]`` does, as far as can be told from this one.

    ``run`` gives the maps ``[N, K, h, w]`` of images; one place along an axis tells nothing of that.

    Raises:
        InputError: it does not.
    """
    generator = np.random.default_rng(0)
    changes = _changes(run, image, generator)
    if changes is None or not _is_elsewhere(changes):
        return
    for _ in range(_EXCHANGES - 1):
        further = _changes(run, image, generator)
        changes = changes if further is None else changes + further
    if _is_elsewhere(changes):
        raise InputError(f"{what} has no map: {_WHAT}", where="cam", fix="give the model without that")


def _changes(run: _Run, image: NDArray[Any], generator: np.random.Generator) -> _Array | None:
    """How much each place of the map changes ``[axis, third, h, w]``; None if by no more than rounding."""
    maps = run(_probes(image, generator)).astype(np.float64)
    if not np.isfinite(maps).all():
        return None
    differences = np.abs(maps[1:] - maps[0])
    if differences.max() <= _noise(maps):
        return None
    changes: _Array = differences.sum(1).reshape(2, _THIRDS, *maps.shape[2:])
    return changes


def _is_elsewhere(changes: _Array) -> bool:
    """Whether the map changes at other places than the image."""
    odds = np.zeros((2, 2))
    measured = [axis for axis in (0, 1) if changes.shape[2 + axis] > 1]
    profiles = {axis: changes.sum(3 - axis) for axis in measured}  # each [third, place on the map]
    for axis, profile in profiles.items():
        odds[:, axis] = [_log_odds(thirds[[0, -1]]) for thirds in profile]
    largest = np.abs(odds).max()
    if largest < _CLEAR:
        return False
    if min(odds[axis, axis] for axis in measured) < largest / 3:
        return True
    is_moved = any(_is_moved(profile[axis]) for axis, profile in profiles.items())
    return is_moved or _is_framed(changes.sum((0, 1)) > 0)


def _probes(image: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
    """The image's own pixels in any order, and with others in each third of each axis."""
    pixels = image.reshape(len(image), -1)
    shuffled = [pixels[:, generator.permutation(pixels.shape[1])].reshape(image.shape) for _ in range(2)]
    probes = [shuffled[0]]
    for axis in (1, 2):
        extent, third = image.shape[axis], max(image.shape[axis] // _THIRDS, 1)
        for start in (0, (extent - third) // 2, extent - third):
            probes.append(shuffled[0].copy())
            at = (*[slice(None)] * axis, slice(start, start + third))
            probes[-1][at] = shuffled[1][at]
    return np.stack(probes)


def _noise(maps: _Array) -> float:
    """How much a map changes by rounding at most, or in numbers of few digits."""
    kind = np.finfo(np.float32)
    return float(max(np.sqrt(kind.eps) * np.abs(maps).max(), kind.tiny))


def _log_odds(ends: _Array) -> float:
    """By how much the first end changes the first half of the map more than the last end does."""
    half, tiny = ends.shape[1] // 2, np.finfo(np.float64).tiny
    first, last = (np.maximum(part.sum(1), tiny) for part in (ends[:, :half], ends[:, -half:]))
    return float(np.log(first[0]) + np.log(last[1]) - np.log(first[1]) - np.log(last[0]))


def _is_moved(thirds: _Array) -> bool:
    """Whether the ends are unequal in what they change, or the middle is not in the middle of it."""
    sums, length = np.maximum(thirds.sum(1), np.finfo(np.float64).tiny), thirds.shape[1]
    first, middle, last = thirds @ ((np.arange(length) + 0.5) / length) / sums
    reach = (last - first) * _THIRDS / (_THIRDS - 1)
    most = max(_OFF_CENTRE, _OFF_CENTRE_CELLS / length)
    is_one_sided = abs(np.log(sums[0] / sums[-1])) > _ONE_SIDED
    return bool(is_one_sided or (reach > _SHARP and abs(middle - 0.5) > most * reach))


def _is_framed(changed: NDArray[np.bool_]) -> bool:
    """Whether the places that change are a smaller rectangle of all, and stand elsewhere for it."""
    inner = tuple(slice(at.min(), at.max() + 1) for at in changed.nonzero())
    shifts = [
        abs((part.start + place) / extent - place / (part.stop - part.start)) * extent
        for part, extent in zip(inner, changed.shape, strict=True)
        for place in (0.5, part.stop - part.start - 0.5)  # the first and the last of them
    ]
    return bool(changed[inner].all() and max(shifts) >= _FRAME_CELLS)
