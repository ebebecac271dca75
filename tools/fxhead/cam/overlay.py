"""A map over its image: colours for scores, the image's light and shade under them."""

from __future__ import annotations

import dataclasses

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Map = NDArray[np.float32]

COLOURS = "viridis"
"""Perceptually uniform, and told apart by the colour-blind."""
_OPACITY = 0.62
_GREY = (0.15, 0.95)
_LUMINANCE = (0.299, 0.587, 0.114)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ColourScale:
    """The scores that the colours span."""

    low: float
    high: float

    @classmethod
    def of(cls, *maps: Map) -> ColourScale:
        """From the lowest score to the highest; around it where there is only one."""
        low, high = min(float(m.min()) for m in maps), max(float(m.max()) for m in maps)
        margin = 0.0 if high > low else max(abs(low), 1.0) * 1e-3
        return cls(low=low - margin, high=high + margin)

    def bar(self) -> ScalarMappable:
        """What a colour bar shows: the colours as they look over middle grey."""
        colours = _over(mpl.colormaps[COLOURS](np.linspace(0, 1, 256))[:, :3], np.full(256, sum(_GREY) / 2))
        return ScalarMappable(Normalize(self.low, self.high), ListedColormap(colours))


def overlay(image: Pixels, scores: Map, scale: ColourScale) -> Pixels:
    """The image in grey under the colours of its scores.

    Each score is drawn in the middle of its cell of an even grid over the image, and bilinearly between.

    Shapes:
        image: [H, W, 3] or [H, W]; scores: [h, w]; result: [H, W, 3].
    """
    grid = torch.from_numpy(scores)[None, None]
    fine = torch.nn.functional.interpolate(grid, size=image.shape[:2], mode="bilinear", align_corners=False)
    shares = (fine[0, 0].double().numpy() - scale.low) / (scale.high - scale.low)
    colours = mpl.colormaps[COLOURS](shares)[..., :3]
    light = image / 255 if image.ndim == 2 else image @ np.asarray(_LUMINANCE) / 255
    low, high = _GREY
    return np.round(_over(colours, low + (high - low) * light) * 255).astype(np.uint8)


def _over(colours: NDArray[np.float64], grey: NDArray[np.float64]) -> NDArray[np.float64]:
    return _OPACITY * colours + (1 - _OPACITY) * grey[..., None]
