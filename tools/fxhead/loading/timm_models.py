"""Models of timm, by name and without its downloads: built here, weights from a file."""

from __future__ import annotations

from typing import Any

from torch import nn

from fxhead.extras import import_extra
from fxpasses.errors import InputError, suggest


def build_timm(name: str, where: str, **options: Any) -> nn.Module:
    """The freshly built model.

    Raises:
        InputError: timm is not installed, or has no such model.
    """
    timm = import_extra("timm", where)
    if not timm.is_model(name):
        raise InputError(f"timm has no model {name!r}", where=where, fix=suggest(name, timm.list_models()))
    module: nn.Module = timm.create_model(name, pretrained=False, **options)
    return module


def timm_config(name: str) -> dict[str, Any]:
    """How the model was trained to see images, by timm's own names; empty where timm does not say it."""
    timm = import_extra("timm", f"timm:{name}")
    config = timm.models.get_pretrained_cfg(name, allow_unregistered=True) if timm.is_model(name) else None
    return {} if config is None else dict(config.to_dict())
