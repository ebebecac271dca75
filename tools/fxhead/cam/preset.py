"""How images are prepared for a model: as it was trained on them, where that is known, or as asked."""

from __future__ import annotations

import dataclasses

from fxexport.subjects.samples import InputSpec
from fxhead.inputs.images import ImageSize, Preparation, preparation
from fxhead.loading.timm_models import timm_images
from fxhead.source import Source, SourceKind
from fxpasses.errors import InputError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """What is known of a model's images; None and empty where nothing is.

    Attributes:
        size: how large images are made.
        mean: subtracted from each channel.
        std: divided by.
        interpolation: of the resizing.
        labels: names of the classes.
    """

    size: ImageSize | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    interpolation: str = "bilinear"
    labels: tuple[str, ...] = ()

    def prepared(self, spec: InputSpec) -> Preparation:
        """The preparation for an input.

        Raises:
            InputError: the input takes no images, or a value does not fit it.
        """
        shape = spec.shape or ()
        if len(shape) != 3:
            takes = "x".join(["N", *map(str, shape)])
            raise InputError(f"input {spec.name!r} takes {takes}, not images", fix="give a model of images")
        return preparation(spec, size=self.size, mean=self.mean, std=self.std)


def find_preset(source: Source, weights: str | None) -> Preset:
    """What torchvision or timm says of its own model, or nothing.

    The transform is that of the named weights, else that of the default ones; labels only of weights that
    are named, as fresh weights and those in a file know no classes by these names.
    """
    if source.kind is SourceKind.TIMM:
        known = timm_images(source.name)
        return (
            Preset()
            if known is None
            else Preset(
                size=ImageSize(resize=known.resize, crop=known.crop),
                mean=known.mean,
                std=known.std,
                interpolation=known.interpolation,
            )
        )
    if source.kind is not SourceKind.TORCHVISION:
        return Preset()
    from torchvision.models import get_model_weights, list_models

    from fxhead.cam.private_names import ImageClassification

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
