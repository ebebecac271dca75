"""Models of timm, by name and without its downloads: built here, weights from a file."""

from __future__ import annotations

from typing import Any

from torch import nn

from fxhead.extras import import_extra
from fxpasses.errors import InputError, brief, suggest


def build_timm(name: str, where: str, **options: Any) -> nn.Module:
    """The freshly built model.

    Raises:
        InputError: timm is not installed, or has no such model.
    """
    timm = import_extra("timm", where)
    if not timm.is_model(name):
        raise InputError(f"timm has no model {name!r}", where=where, fix=suggest(name, timm.list_models()))
    _known_config(timm, name, where)
    module: nn.Module = timm.create_model(name, pretrained=False, **options)
    return module


def timm_config(name: str) -> dict[str, Any]:
    """How the model was trained to see images, by timm's own names; empty where timm does not say it."""
    timm = import_extra("timm", f"timm:{name}")
    config = _known_config(timm, name, f"timm:{name}") if timm.is_model(name) else None
    return {} if config is None else dict(config.to_dict())


def _known_config(timm: Any, name: str, where: str) -> Any:
    """How timm trained the model, if at all.

    Raises:
        InputError: the name has a tag behind its dot that timm does not know.
    """
    try:
        return timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError as error:
        fix = f"leave it out: {name.partition('.')[0]}"
        raise InputError(f"timm knows no such tag ({brief(error)})", where=where, fix=fix) from error
