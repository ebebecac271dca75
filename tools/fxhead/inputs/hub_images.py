"""How images are prepared for a model of a hub, from what timm and transformers write beside it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fxhead.extras import import_extra
from fxhead.inputs.class_names import class_name
from fxhead.inputs.images import ImageSize
from fxhead.inputs.preset import Preset
from fxhead.loading.hub_folders import HubFolder
from fxpasses.errors import FileError, InputError, brief
from fxpasses.wall.wall import lowered

_RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""As Pillow numbers them."""
_WARPED_FROM = 384
"""ConvNeXt's processor cuts nothing off from this size on."""

_PLAIN = ("EfficientNet", "Beit", "MobileNetV2", "MobileViT")
"""Processors with a ``resize`` or ``_preprocess`` of their own that resizes and cuts as all do."""


def folder_preset(folder: HubFolder) -> Preset:
    """What the texts of a folder say of images and classes.

    Raises:
        FileError: they say what is no size, number or name.
    """
    try:
        if folder.is_timm:
            labels = tuple(_timm_labels(folder))
            return dataclasses.replace(timm_preset(folder.timm_config), labels=labels)
        own = Preset() if not folder.images else _transformers_preset(folder.images)
        return dataclasses.replace(own, labels=class_names(folder.config.get("id2label")))
    except (FileError, InputError):
        raise
    except Exception as error:  # whatever a processor makes of values that it does not expect
        what = f"says what is no way to prepare images ({brief(error)})"
        raise FileError(what, where=str(folder.path), fix="fetch the folder again, whole") from error


def class_names(found: Any) -> tuple[str, ...]:
    """Names of classes from a list, or from a dict by number; none where they say only the number."""
    if isinstance(found, dict):
        found = [found[number] if number in found else found[str(number)] for number in range(len(found))]
    names = tuple(map(class_name, found or ()))
    is_counted = all(name in (f"LABEL_{i}", f"class{i}", str(i)) for i, name in enumerate(names))
    return () if is_counted else names


def timm_preset(config: Mapping[str, Any]) -> Preset:
    """What timm's configuration of a model says; nothing where it has no square size.

    Source:
        ``timm.data.transforms_factory.transforms_imagenet_eval``.
    """
    size = config.get("input_size")
    if not size:
        return Preset()
    _, height, width = map(int, size)
    share, mode = config.get("crop_pct") or 1.0, config.get("crop_mode") or "center"
    how = config.get("interpolation")
    is_whole = height != width or (mode == "squash" and share == 1)
    return Preset(
        size=ImageSize(resize=0, crop=(height, width))
        if is_whole
        else ImageSize(resize=math.floor(height / share), crop=height),
        mean=tuple(map(float, config.get("mean", ()))),
        std=tuple(map(float, config.get("std", ()))),
        interpolation=how if how in _RESAMPLING else "bicubic",
        unknown=None if mode == "center" or is_whole else f"timm's crop mode {mode!r}",
    )


def _timm_labels(folder: HubFolder) -> Sequence[str]:
    """The folder's own names, else ImageNet's where there are as many classes."""
    own = {**folder.timm_config, **folder.config}
    names, told = class_names(own.get("label_names")), own.get("label_descriptions") or {}
    if names:
        return [class_name(told.get(name, name)) for name in names]
    data = import_extra("timm", str(folder.path)).data
    subset = data.infer_imagenet_subset({"num_classes": own.get("num_classes")})
    info = None if subset is None else data.ImageNetInfo(subset)
    return () if info is None else [info.index_to_description(n) for n in range(info.num_classes())]


def _transformers_preset(images: Mapping[str, Any]) -> Preset:
    name = str(images.get("image_processor_type") or images.get("feature_extractor_type") or "")
    kind = re.sub(r"(ImageProcessor(Fast|Pil)?|FeatureExtractor)$", "", name)
    transformers = import_extra("transformers", "preprocessor_config.json")
    with lowered():  # imports it
        found = getattr(transformers, f"{kind}ImageProcessor", None)
    if found is None:
        return Preset(unknown=f"the processor {name!r}")
    how = found.from_dict(dict(images))
    size = _size(kind, how)
    factor = 255.0 * (how.rescale_factor if how.do_rescale else 1.0)
    offset = 1.0 if how.do_rescale and getattr(how, "rescale_offset", False) else 0.0
    is_plain = kind == "MobileViT" or not how.do_normalize  # which standardises nothing
    mean, std = ([0.0], [1.0]) if is_plain else (how.image_mean, how.image_std)
    twice = kind == "EfficientNet" and how.include_top
    return Preset(
        size=size,
        mean=tuple((float(value) + offset) / factor for value in mean),
        std=tuple(float(value) * (float(value) if twice else 1.0) / factor for value in std),
        interpolation=dict(enumerate(_RESAMPLING))[int(how.resample)],  # -1 is none of them
        is_truncated=True,
        is_bgr=bool(getattr(how, "do_flip_channel_order", False)),
        unknown=f"the processor {name!r} as it is set" if size is None else None,
    )


def _size(kind: str, how: Any) -> ImageSize | None:
    """What the processor resizes and cuts, or None where that is none of our ways.

    Source:
        ``resize`` and ``_preprocess`` of the processors in ``transformers.models``.
    """
    edge, whole = how.size.shortest_edge, (how.size.height, how.size.width)
    cut = (how.crop_size.height, how.crop_size.width) if how.do_center_crop else None
    own = {"resize", "_preprocess"} & {*vars(type(how))}
    if not how.do_resize or how.size.longest_edge or not (edge or all(whole)):
        return None
    if kind == "ConvNext":
        is_cut = edge < _WARPED_FROM
        resize, crop = (int(edge / how.crop_pct), edge) if is_cut else (0, (edge, edge))
        return ImageSize(resize=resize, crop=crop)
    if kind == "Levit" and edge:
        edge = int(256 / 224 * edge)
    elif kind == "PoolFormer" and edge:
        edge = int(edge / how.crop_pct)
    elif own and kind not in _PLAIN:
        return None
    if edge:
        return None if cut is None else ImageSize(resize=edge, crop=cut if cut[0] != cut[1] else cut[0])
    return ImageSize(resize=0, crop=whole) if cut in (None, whole) else ImageSize(resize=whole, crop=cut)
