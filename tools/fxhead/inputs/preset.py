"""How images are prepared for a model: as it was trained on them, where that is known, or as asked."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from fxexport.subjects.samples import InputSpec
from fxhead.inputs.images import LARGEST, ImageSize, Preparation, preparation
from fxhead.loading.hub_folders import read_hub_folder
from fxhead.loading.timm_models import timm_config
from fxhead.source import Source, SourceKind
from fxpasses.errors import InputError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """What is known of a model's images; None and empty where nothing is.

    Attributes:
        unknown: by what they are prepared, where that is none of the ways that are known here.
    """

    size: ImageSize | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    interpolation: str = "bilinear"
    is_bgr: bool = False
    is_truncated: bool = False
    labels: tuple[str, ...] = ()
    unknown: str | None = None

    def __post_init__(self) -> None:
        size = self.size
        resize = 0 if size is None else size.resize
        sides = () if size is None else (*size.extents, *(resize if isinstance(resize, tuple) else (resize,)))
        if not all(0 <= side <= LARGEST for side in sides):
            raise ValueError(f"sides of images lie between 1 and {LARGEST}")

    def prepared(self, spec: InputSpec) -> Preparation:
        """The preparation for an input.

        Raises:
            InputError: the input takes no images, a value does not fit it, or how is not known.
        """
        if self.unknown is not None:
            what = f"the model's images are prepared by {self.unknown}, which is not known here"
            raise InputError(what, fix="prepare them with it, and give an .npz file to check --inputs")
        shape = spec.shape or ()
        if len(shape) != 3:
            takes = "x".join(["N", *map(str, shape)])
            raise InputError(f"input {spec.name!r} takes {takes}, not images", fix="give a model of images")
        how = preparation(spec, size=self.size, mean=self.mean, std=self.std)
        return dataclasses.replace(how, is_bgr=self.is_bgr, is_truncated=self.is_truncated)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        plain = dataclasses.asdict(self)
        return {**(plain.pop("size") or {}), **plain}


def find_preset(
    source: Source, weights: str | None, model: nn.Module | ExportedProgram | None = None
) -> Preset:
    """What torchvision or timm says of its own model, the folder or the module itself, or nothing.

    The transform is that of the named weights, else that of the default ones; labels only of weights that
    are named, as fresh weights and those in a file know no classes by these names.
    """
    # they build on this file
    from fxhead.inputs.hub_images import folder_preset, timm_preset
    from fxhead.inputs.own_images import own_preset

    if source.kind is SourceKind.TIMM:
        return timm_preset(timm_config(source.name))
    if source.kind is SourceKind.FOLDER:
        return folder_preset(read_hub_folder(source))
    if source.kind is SourceKind.FILE:
        return own_preset(model) if isinstance(model, nn.Module) else Preset()
    if source.kind is not SourceKind.TORCHVISION:
        return Preset()
    from torchvision.models import get_model_weights, list_models

    from fxhead.inputs.private_names import ImageClassification

    if source.name not in list_models():
        return Preset()  # which loading it will say
    members = get_model_weights(source.name).__members__
    chosen = members.get(weights or "DEFAULT") or members.get("DEFAULT")
    transform = None if chosen is None else chosen.transforms()
    if not isinstance(transform, ImageClassification):
        return Preset()
    labels = chosen.meta.get("categories", ()) if weights in members else ()
    return Preset(
        size=ImageSize(resize=transform.resize_size[0], crop=transform.crop_size[0]),
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        interpolation=transform.interpolation.value,
        labels=tuple(labels),
    )
