"""Models of timm, by name and without its downloads: built here, weights from a file."""

from __future__ import annotations

from typing import Any

from torch import nn

from fxpasses.errors import InputError, suggest
from fxpasses.wall.wall import lowered


def build_timm(name: str, num_classes: int | None) -> nn.Module:
    """The freshly built model.

    Raises:
        InputError: timm is not installed, or has no such model.
    """
    timm = import_timm(f"timm:{name}")
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


def timm_config(name: str) -> dict[str, Any]:
    """How the model was trained to see images, by timm's own names; empty where timm does not say it."""
    timm = import_timm(f"timm:{name}")
    config = timm.models.get_pretrained_cfg(name, allow_unregistered=True) if timm.is_model(name) else None
    return {} if config is None else dict(config.to_dict())


def import_timm(where: str) -> Any:
    """The library.

    Raises:
        InputError: it is not installed.
    """
    try:
        with lowered():  # it looks around as it is imported
            import timm
    except ImportError as error:
        raise InputError(
            "timm is not installed", where=where, fix="run pip install 'fxhead[timm]'"
        ) from error
    return timm
