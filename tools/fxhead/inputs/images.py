"""Samples from a folder of images, prepared as torchvision's classification presets do it.

Each image is turned upright (EXIF), converted to RGB, or to grey where the model has one channel, resized
so that its shorter side is ``resize``, cropped in the centre to ``crop`` × ``crop``, scaled to 0 … 1 and
standardised. A model that takes uint8 gets the pixels as they are after the crop.

Source:
    ``torchvision.transforms._presets.ImageClassification``.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fxexport.subjects.samples import InputSpec
from fxexport.untrusted.archive import open_regular
from fxhead.inputs.quiet_tiff import silence_libtiff
from fxpasses.errors import FileError, InputError, brief

if TYPE_CHECKING:
    from PIL import Image

Array = NDArray[Any]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LARGEST = 4096
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What the suffixes stand for, as Pillow calls it."""
_MOST_PIXELS = 2**27
_MOST_SCANNED = 2**31
"""Pixels that are decoded, those that come again in a finer scan counted again; one call decodes all."""
_JPEG_SCAN = b"\xff\xda"
_BLOCK_BYTES = 2**20
_PRESET_CROP, _PRESET_RESIZE = 224, 256
_FLOAT32 = np.finfo(np.float32)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageSize:
    """How large images are made: see ``Preparation``."""

    resize: int | tuple[int, int]
    crop: int | tuple[int, int]

    @property
    def extents(self) -> tuple[int, int]:
        """Height and width of the sample."""
        return (self.crop, self.crop) if isinstance(self.crop, int) else self.crop

    @property
    def meant(self) -> tuple[tuple[int, int], ...]:
        """Heights and widths that it may stand for: ``256,128`` is a crop, or both."""
        if isinstance(self.resize, int) and isinstance(self.crop, int):
            return self.extents, (self.resize, self.crop)
        return (self.extents,)

    def of_input(self, height: int | None, width: int | None) -> ImageSize:
        """The same for an input: ``256,128`` are height and width where a model takes 256x128."""
        is_input = (height, width) == (self.resize, self.crop) and height != width
        return ImageSize(resize=0, crop=(height or 0, width or 0)) if is_input else self


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Preparation(ImageSize):
    """How an image becomes a sample.

    Attributes:
        resize: the shorter side after resizing, or height and width to which the whole image is resized; 0
            where these are those of ``crop``.
        crop: both sides after cropping, or height and width.
        mean: subtracted from each channel, after scaling to 0 … 1.
        std: divided by.
        is_bgr: whether the channels are blue, green and red, of which mean and deviation are, too.
        is_truncated: whether a cut that cannot be central begins before the middle, as transformers does it,
            and not at the even pixel, as torchvision does.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_bgr: bool = False
    is_truncated: bool = False

    def __str__(self) -> str:
        return self.told()

    def told(self, interpolation: str = "") -> str:
        """The sizes in words."""
        how = f" ({interpolation})" if interpolation else ""
        height, width = self.extents
        if not self.resize:
            text = f"whole, resized to {height}x{width}{how}"
        elif isinstance(self.resize, int):
            text = f"shorter side {self.resize}{how}, centre {height}x{width}"
        else:
            text = f"whole, resized to {self.resize[0]}x{self.resize[1]}{how}, centre {height}x{width}"
        return f"{text}, blue first" if self.is_bgr else text

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, top, right and lower edge of what is cut from a resized image.

        Source:
            ``center_crop`` of ``torchvision.transforms.functional`` and of ``transformers``.
        """
        high, wide = self.extents
        left, top = (
            int(spare / 2) if self.is_truncated or spare < 0 else round(spare / 2)
            for spare in (width - wide, height - high)
        )
        return left, top, left + wide, top + high

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Height and width of an image before it is cut.

        Source:
            ``torchvision.transforms.functional._compute_resized_output_size``.
        """
        if not isinstance(self.resize, int):
            return self.resize
        if not self.resize:
            return self.extents
        longer = int(self.resize * max(width, height) / min(width, height))
        return (longer, self.resize) if width <= height else (self.resize, longer)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageFiles:
    """What lies in a folder, subfolders included, in sorted order.

    Attributes:
        images: files with the suffix of an image, relative to it.
        others: all other files.
    """

    folder: Path
    images: tuple[str, ...]
    others: tuple[str, ...]


def holds_images(path: Path) -> bool:
    """Whether it is a folder, or one file with the suffix of an image."""
    return path.is_dir() or path.suffix.lower() in SUFFIXES


def list_images(folder: Path) -> ImageFiles:
    """The files of a folder, or one alone.

    Raises:
        FileError: it cannot be read, holds no image, or holds a pipe or device under the name of one.
    """

    def refuse(error: OSError) -> None:
        reason = error.strerror or str(error)
        where = str(error.filename or folder)
        raise FileError(f"cannot be read ({reason})", where=where, fix="check its permissions") from error

    if folder.is_file():
        return ImageFiles(folder=folder.parent, images=(folder.name,), others=())
    paths = [
        Path(place, name).relative_to(folder).as_posix()
        for place, _, names in os.walk(folder, onerror=refuse)
        for name in names
    ]
    images = tuple(sorted(name for name in paths if name.lower().endswith(SUFFIXES)))
    if not images:
        raise FileError(
            f"holds no images ({len(paths)} other files)",
            where=str(folder),
            fix=f"give a folder with files ending in {', '.join(SUFFIXES)}",
        )
    for name in images:
        if not (folder / name).is_file():
            what = "is no regular file" if (folder / name).exists() else "is a link to nothing"
            raise FileError(what, where=str(folder / name), fix="take it out of the folder")
    others = tuple(sorted(set(paths).difference(images)))
    return ImageFiles(folder=folder, images=images, others=others)


def resized_from(crop: int) -> int:
    """The shorter side after resizing that goes with a crop, in the proportion of torchvision's presets."""
    return round(crop * _PRESET_RESIZE / _PRESET_CROP)


def preparation(
    spec: InputSpec, *, size: ImageSize | None, mean: tuple[float, ...], std: tuple[float, ...]
) -> Preparation:
    """How images are prepared for an input; a size that is not given is the model's own.

    Raises:
        InputError: the input is no batch of images, or an option does not fit it.
    """
    shape = spec.shape or (None, None, None)
    channels, height, width = shape if len(shape) == 3 else (0, 0, 0)
    if channels not in (1, 3) or spec.dtype not in ("float16", "float32", "float64", "uint8"):
        raise InputError(
            f"input {spec.name!r} takes no images of one or three channels first", fix="give an .npz file"
        )
    if size is None:
        size = _own_size(height, width)
    if size is None:
        raise InputError(
            f"input {spec.name!r} does not say how large it is", where="--inputs", fix="give --size"
        )
    size = size.of_input(height, width)
    if any(own not in (None, extent) for own, extent in zip((height, width), size.extents, strict=True)):
        shown = "x".join(map(str, size.extents))
        raise InputError(f"the model takes {height}x{width}", where=f"--size {shown}", fix="leave it out")
    if spec.dtype == "uint8" and (mean or std):
        raise InputError("the model takes pixels as they are", where="--mean, --std", fix="leave them out")
    known = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.0,), (1.0,))
    chosen = mean or known[0], std or known[1]
    for option, values in zip(("--mean", "--std"), chosen, strict=True):
        if len(values) not in (1, channels):
            what = f"{len(values)} values for {channels} channels"
            raise InputError(what, where=option, fix="give one for all channels, or one each")
        least = float(_FLOAT32.tiny if option == "--std" else _FLOAT32.min)
        if not all(least <= value <= float(_FLOAT32.max) for value in values):  # as pixels are float32 then
            raise InputError("is no number to standardise with", where=option, fix="give positive numbers")
    is_raw = spec.dtype == "uint8"
    return Preparation(
        resize=size.resize,
        crop=size.crop,
        mean=() if is_raw else chosen[0],
        std=() if is_raw else chosen[1],
    )


def _own_size(height: int | None, width: int | None) -> ImageSize | None:
    """The size that goes with a model's input: a crop where that is square, else the whole image."""
    if height is None or width is None:
        return None
    if height == width:
        return ImageSize(resize=resized_from(height), crop=height)
    return ImageSize(resize=0, crop=(height, width))


class ImageRows:
    """The images of a folder as samples, each decoded when it is read."""

    def __init__(self, files: ImageFiles, spec: InputSpec, how: Preparation) -> None:
        channels = (spec.shape or (3,))[0] or 3
        self._files, self._how, self._mode = files, how, "RGB" if channels == 3 else "L"
        self.shape: tuple[int, ...] = (len(files.images), channels, *how.extents)
        self.dtype: np.dtype[Any] = np.dtype(spec.dtype)

    def __getitem__(self, rows: slice, /) -> Array:
        return np.stack([self._sample(name) for name in self._files.images[rows]])

    def _sample(self, name: str) -> Array:
        image = decoded(self._files.folder / name, self._mode, self._how)
        crop = cropped(image, self._how)
        return standardised(crop, self._how, self.dtype)


def cropped(image: Image.Image, how: Preparation, interpolation: str = "bilinear") -> Image.Image:
    """The image resized, and cut square from its centre where it is not taken whole."""
    from torchvision.transforms import InterpolationMode, functional

    resized = functional.resize(image, [*how.resized(*image.size)], InterpolationMode(interpolation))
    crop: Image.Image = resized.crop(how.box(*resized.size))  # black beyond its edges
    return crop


def standardised(crop: Image.Image, how: Preparation, dtype: np.dtype[Any]) -> Array:
    """``[C, H, W]`` of what ``cropped`` gave: scaled to 0 … 1 and standardised, or the pixels for uint8."""
    from torchvision.transforms import functional

    pixels = functional.pil_to_tensor(crop)
    pixels = pixels.flip(0) if how.is_bgr else pixels
    if dtype == np.uint8:
        return np.asarray(pixels.numpy())
    scaled = functional.convert_image_dtype(pixels)
    values: Array = functional.normalize(scaled, list(how.mean), list(how.std)).numpy()
    return values.astype(dtype)


def decoded(path: Path, mode: str, how: Preparation) -> Image.Image:
    """The image upright and in ``mode`` (``"RGB"`` or ``"L"``), transparency left out.

    Raises:
        FileError: it is damaged, no image, of more than 16 bits a channel, or too large.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        # Pillow on its own would look for any format it knows, and start Ghostscript for one of them
        with open_regular(path) as file, Image.open(file, formats=_FORMATS) as image:
            _require_moderate(image.size, how.resize if isinstance(how.resize, int) else 0, path)
            if image.format in ("JPEG", "MPO"):
                _require_few_scans(file, image.size, path)
            if image.format == "TIFF":
                silence_libtiff()
            is_16_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
            upright = ImageOps.exif_transpose(image)
            if is_16_bit:
                return Image.fromarray(_eight_bits(np.asarray(upright))).convert(mode)
            if image.mode.startswith(("I", "F")):
                raise FileError(
                    "has more than 16 bits a channel", where=str(path), fix="convert it to 8 bits first"
                )
            # from a palette with transparency, Pillow goes to RGB by way of RGBA only
            return (upright.convert("RGBA") if image.mode == "P" else upright).convert(mode)
    except FileError:
        raise
    except Exception as error:  # decoders of damaged files raise anything
        is_other = isinstance(error, UnidentifiedImageError)
        why = f"it is none of {', '.join(_FORMATS)}" if is_other else brief(error)
        raise FileError(
            f"cannot be read as an image ({why})",
            where=str(path),
            fix="repair it or take it out of the folder",
        ) from error


def _require_few_scans(file: BinaryIO, size: tuple[int, int], path: Path) -> None:
    """Returns where a JPEG goes over its pixels as often as one does that gets finer, and not for ever."""
    start, scans, last = file.tell(), 0, b""
    file.seek(0)
    while block := file.read(_BLOCK_BYTES):
        scans += (last + block).count(_JPEG_SCAN)
        last = block[-1:]
    file.seek(start)
    if scans * size[0] * size[1] > _MOST_SCANNED:
        what = f"goes over its {size[0]}x{size[1]} pixels {scans:,} times, more than the limit"
        raise FileError(what, where=str(path), fix="save it again")


def _require_moderate(size: tuple[int, int], resize: int, path: Path) -> None:
    """Returns where the image fits in memory as it is and as it will be resized, by its header alone."""
    short, long = sorted(size)
    shown = f"{size[0]}x{size[1]}"
    if short * long > _MOST_PIXELS:
        raise FileError(
            f"has {shown} pixels, more than {_MOST_PIXELS:,}", where=str(path), fix="make it smaller"
        )
    if resize * resize * long > _MOST_PIXELS * max(short, 1):
        raise FileError(
            f"is {shown}, so long and narrow that resized to {resize} it has more than "
            f"{_MOST_PIXELS:,} pixels",
            where=str(path),
            fix="cut it, or give a smaller --size",
        )


def _eight_bits(values: Array) -> NDArray[np.uint8]:
    """Values of 16 bits as the nearest of 8."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
