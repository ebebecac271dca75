"""Models of timm, by name and without its downloads: built here, weights from a file."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from fxpasses.errors import InputError, suggest


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TimmImages:
    """How timm prepares images for a model; ``resize`` is the shorter side, from which ``crop`` is cut."""

    resize: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str


def build_timm(name: str, num_classes: int | None) -> nn.Module:
    """The freshly built model.

    Raises:
        InputError: timm is not installed, or has no such model.
    """
    timm = _timm(name)
    if not timm.is_model(name):
        raise InputError(
            f"timm has no model {name!r}", where=f"timm:{name}", fix=suggest(name, timm.list_models())
        )
    options = {} if num_classes is None else {"num_classes": num_classes}
    module: nn.Module = timm.create_model(name, pretrained=False, **options)
    return module


def refuse_weights(name: str, weights: str) -> None:
    """Raises the error of weights that would have to be downloaded.

    Raises:
        InputError: always.
    """
    raise InputError(
        f"{weights!r} is no file of weights, and timm's are not downloaded here",
        where="--weights",
        fix=f"fetch model.safetensors from https://huggingface.co/timm/{name} and name it",
    )


def timm_images(name: str) -> TimmImages | None:
    """How the model was trained to see images; None where timm does not say it, or has no such model."""
    timm = _timm(name)
    config: Any = (
        timm.models.get_pretrained_cfg(name, allow_unregistered=True) if timm.is_model(name) else None
    )
    size = getattr(config, "input_size", None)
    if not size or size[1] != size[2]:
        return None
    crop = int(size[2])
    return TimmImages(
        resize=round(crop / (config.crop_pct or 1.0)),
        crop=crop,
        mean=tuple(config.mean),
        std=tuple(config.std),
        interpolation=config.interpolation if config.interpolation in ("bilinear", "bicubic") else "bicubic",
    )


def _timm(name: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise InputError(
            "timm is not installed", where=f"timm:{name}", fix="run pip install 'fxhead[timm]'"
        ) from error
    return timm
