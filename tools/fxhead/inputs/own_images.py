"""How images are prepared for a module that brings it along, and what it calls its classes."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from fxhead.inputs.hub_images import class_names, timm_preset
from fxhead.inputs.images import LARGEST, ImageSize
from fxhead.inputs.preset import Preset

_ULTRALYTICS = "ultralytics.nn.tasks.ClassificationModel"
_ULTRALYTICS_EDGE = 224


def own_preset(module: nn.Module) -> Preset:
    """What timm, ultralytics and transformers leave in their modules; nothing of any other.

    Source:
        ``timm.models._builder``, ``pretrained_cfg``; ``ultralytics.data.augment.classify_transforms``, and
        ``names`` and ``args`` of its models; ``transformers``' ``config.id2label``.
    """
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    try:
        if kind == _ULTRALYTICS:
            return dataclasses.replace(_ultralytics(module), labels=class_names(module.names))
        if kind.startswith("timm.") and isinstance(found := getattr(module, "pretrained_cfg", None), dict):
            return timm_preset(found)
        if kind.startswith("transformers."):
            return Preset(labels=class_names(getattr(module.config, "id2label", None)))
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError):
        pass  # what stands there is of another kind
    return Preset()


def _ultralytics(module: nn.Module) -> Preset:
    """The shorter side and the cut are one length; pixels are divided by 255 and nothing else."""
    options: Any = getattr(module, "args", None)
    edge = options.get("imgsz") if isinstance(options, dict) else None
    edge = edge if type(edge) is int and 0 < edge <= LARGEST else _ULTRALYTICS_EDGE
    return Preset(size=ImageSize(resize=edge, crop=edge), mean=(0.0,), std=(1.0,))
