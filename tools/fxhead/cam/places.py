"""Whether the places of a map are those of the image: measured, as a flip can be spelled in any way.

A model that flips, turns, rolls, crops or pads its features before it averages them has a map that lies
elsewhere than the image under it, and its logits do not tell. So pixels are exchanged in the first and the
last third of the image along each axis, and the map has to change more at the same side than at the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fxpasses.errors import InputError

_Run = Callable[[NDArray[Any]], NDArray[Any]]
_CLEAR = 0.5
"""Of log odds: below it a map has no places to speak of, as where everything looks at everything.

Eight families of torchvision, fresh weights: 3.5 and more along the same axis, 0.5 and less across it; with
features rolled or shuffled, or averaged with their flip, less than a third of what the other axis has.
"""
_ONE_SIDED = np.log(3)
"""How much more one end of the image changes the map than the other: 0.5 there, 1.5 cropped to a corner."""
_OFF_CENTRE = 0.2
"""How far the middle of both ends is from the map's: 0.1 there, 0.4 padded at one side by five places."""
_WHAT = (
    "its places are others than the image's: features are flipped, turned, moved, cropped or padded before it"
)


def require_places(run: _Run, image: NDArray[Any], what: str) -> None:
    """Returns where a map lies as the image ``[C, H, W]`` does, as far as can be told from this one.

    ``run`` gives the maps ``[N, K, h, w]`` of images; one place along an axis tells nothing of that.

    Raises:
        InputError: it does not.
    """
    maps = run(_probes(image)).astype(np.float64)
    changes = np.abs(maps[1:] - maps[0]).sum(1).reshape(2, 2, *maps.shape[2:])  # axis, end, h, w
    odds, sides = np.zeros((2, 2)), np.zeros((2, 2))
    measured = [axis for axis in (0, 1) if maps.shape[2 + axis] > 1]
    for axis in measured:
        profiles = changes.sum(3 - axis)  # axis of the image, end, place on the map
        odds[:, axis] = [_log_odds(profile) for profile in profiles]
        sides[axis] = _sides(profiles[axis])
    largest = np.abs(odds).max()
    if largest < _CLEAR or not np.isfinite(changes).all():
        return
    own = min(odds[axis, axis] for axis in measured)
    if own < largest / 3 or (sides > (_ONE_SIDED, _OFF_CENTRE)).any():
        raise InputError(f"{what} has no map: {_WHAT}", where="cam", fix="give the model without that")


def _probes(image: NDArray[Any]) -> NDArray[Any]:
    """The image's own pixels in any order, and with others at the first and last third of each axis."""
    generator, pixels = np.random.default_rng(0), image.reshape(len(image), -1)
    shuffled = [pixels[:, generator.permutation(pixels.shape[1])].reshape(image.shape) for _ in range(2)]
    probes = [shuffled[0]]
    for axis in (1, 2):
        third = max(image.shape[axis] // 3, 1)
        for end in (slice(third), slice(-third, None)):
            probes.append(shuffled[0].copy())
            at = (*[slice(None)] * axis, end)
            probes[-1][at] = shuffled[1][at]
    return np.stack(probes)


def _log_odds(profile: NDArray[np.float64]) -> float:
    """By how much the first end changes the first half of the map more than the last end does."""
    half, tiny = profile.shape[1] // 2, np.finfo(np.float64).tiny
    first, last = (np.maximum(part.sum(1), tiny) for part in (profile[:, :half], profile[:, -half:]))
    return float(np.log(first[0]) + np.log(last[1]) - np.log(first[1]) - np.log(last[0]))


def _sides(profile: NDArray[np.float64]) -> tuple[float, float]:
    """How unequal both ends are in what they change, and how far the middle of both is from the map's."""
    sums = np.maximum(profile.sum(1), np.finfo(np.float64).tiny)
    places = (np.arange(profile.shape[1]) + 0.5) / profile.shape[1]
    return abs(float(np.log(sums[0] / sums[1]))), abs(float((profile @ places / sums).sum() - 1))
