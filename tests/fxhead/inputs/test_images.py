"""``check --inputs FOLDER``: images prepared as torchvision does it, none of them skipped in silence."""

from __future__ import annotations

import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from fxexport.subjects.samples import InputSpec
from fxhead.files.digests import digest_file
from fxhead.inputs.images import ImageRows, ImageSize, Preparation, decoded, list_images, preparation
from fxpasses.errors import FxHeadError, InputError
from fxpasses.wall.wall import walled

Run = Callable[..., Any]
SPEC = InputSpec(name="x", shape=(3, 28, 28), dtype="float32")
ORIENTATION = 0x0112


def pixels(height: int = 40, width: int = 60, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with images of every usual kind, one of them in a subfolder."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    Image.fromarray(pixels()).save(folder / "b.png")
    Image.fromarray(pixels(channels=1)).save(folder / "a-grey.png")
    Image.fromarray(pixels(channels=4)).save(folder / "c-alpha.png")
    Image.fromarray(pixels(channels=4)).convert("CMYK").save(folder / "d-cmyk.jpg")
    Image.fromarray(pixels()).convert("P").save(folder / "e-palette.gif")
    Image.fromarray(pixels(300, 20)).save(folder / "f-tall.BMP")
    Image.fromarray(pixels()).save(folder / "more" / "g.webp", lossless=True)
    return folder


def rows(folder: Path, spec: InputSpec = SPEC, **options: Any) -> ImageRows:
    given = {"size": None, "mean": (), "std": ()} | options
    return ImageRows(list_images(folder), spec, preparation(spec, **given))


def test_images_are_prepared_as_torchvision_prepares_them(photos: Path) -> None:
    preset = ImageClassification(crop_size=28, resize_size=32, interpolation=InterpolationMode.BILINEAR)
    found = rows(photos)
    names = list_images(photos).images
    assert found.shape == (7, 3, 28, 28)
    for index, name in enumerate(names):
        with Image.open(photos / name) as image:
            expected = preset(image.convert("RGB")).numpy()
        np.testing.assert_array_equal(found[index : index + 1][0], expected, err_msg=name)


def test_order_is_sorted_and_goes_into_subfolders(photos: Path) -> None:
    (photos / "notes.txt").write_text("no image")
    (photos / ".hidden").write_text("")
    files = list_images(photos)
    assert files.images == (
        "a-grey.png",
        "b.png",
        "c-alpha.png",
        "d-cmyk.jpg",
        "e-palette.gif",
        "f-tall.BMP",
        "more/g.webp",
    )
    assert files.others == (".hidden", "notes.txt")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_upright(tmp_path: Path, orientation: int) -> None:
    turned = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    upright = pixels(28, 28)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(np.ascontiguousarray(turned(upright))).save(tmp_path / "photo.png", exif=exif)
    raw = InputSpec(name="x", shape=(3, 28, 28), dtype="uint8")
    (found,) = rows(tmp_path, raw, size=ImageSize(resize=28, crop=28))[0:1]
    np.testing.assert_array_equal(found, upright.transpose(2, 0, 1))


def test_a_photo_gets_finer_and_not_for_ever(tmp_path: Path) -> None:
    """A scan of a hundred bytes goes over all pixels again, inside of one call."""
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (2000, 2000), "blue").save(path, progressive=True)
    content = path.read_bytes()
    how = Preparation(resize=8, crop=(8, 8), mean=(), std=())
    assert decoded(path, "RGB", how).size == (2000, 2000)
    scan = content[content.rfind(b"\xff\xda") : -2]
    path.write_bytes(content[:-2] + scan * 600 + content[-2:])
    with pytest.raises(FxHeadError, match="goes over its 2000x2000 pixels"):
        decoded(path, "RGB", how)


def test_sixteen_bits_are_those_of_eight(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 8
    grey = pixels(28, 28, channels=1)
    deep = Image.fromarray(np.minimum(grey.astype(np.uint32) * 257 + 100, 65535).astype(np.uint16))
    deep.save(tmp_path / "deep.png", exif=exif)
    raw = InputSpec(name="x", shape=(1, 28, 28), dtype="uint8")
    (found,) = rows(tmp_path, raw, size=ImageSize(resize=28, crop=28))[0:1]
    np.testing.assert_array_equal(found[0], np.rot90(grey, 1))


def test_a_palette_with_transparency_is_read(tmp_path: Path) -> None:
    image = Image.fromarray(pixels(28, 28)).quantize(16)
    image.save(tmp_path / "palette.png", transparency=bytes(range(0, 256, 16)))
    raw = InputSpec(name="x", shape=(3, 28, 28), dtype="uint8")
    (found,) = rows(tmp_path, raw, size=ImageSize(resize=28, crop=28))[0:1]
    np.testing.assert_array_equal(found.transpose(1, 2, 0), np.asarray(image.convert("RGB")))


def test_a_model_of_one_channel_gets_grey(photos: Path) -> None:
    spec = InputSpec(name="x", shape=(1, 28, 28), dtype="float32")
    found = rows(photos, spec)
    assert found.shape == (7, 1, 28, 28)
    values = found[0:7]
    assert values.min() >= 0.0
    assert values.max() <= 1.0
    halved = rows(photos, spec, mean=(0.5,), std=(0.5,))[0:7]
    np.testing.assert_allclose(halved, (values - 0.5) / 0.5, atol=1e-6)


def test_a_model_of_pixels_gets_pixels(photos: Path) -> None:
    spec = InputSpec(name="x", shape=(3, 28, 28), dtype="uint8")
    assert rows(photos, spec)[0:7].dtype == np.uint8
    with pytest.raises(InputError, match="pixels as they are"):
        rows(photos, spec, mean=(0.5,))


def corrupt(folder: Path) -> str:
    data = (folder / "b.png").read_bytes()
    (folder / "broken.png").write_bytes(data[: len(data) // 2])
    return "broken.png"


def no_image(folder: Path) -> str:
    (folder / "text.jpg").write_text("no image")
    return "text.jpg"


def empty(folder: Path) -> str:
    (folder / "empty.png").touch()
    return "empty.png"


def deep(folder: Path) -> str:
    Image.fromarray(np.zeros((40, 40), np.float32)).save(folder / "deep.tiff")
    return "deep.tiff"


@pytest.mark.parametrize("damage", [corrupt, no_image, empty, deep], ids=lambda damage: damage.__name__)
def test_an_image_that_cannot_be_used_is_an_error(photos: Path, damage: Callable[[Path], str]) -> None:
    name = damage(photos)
    found = rows(photos)
    with pytest.raises(FxHeadError) as caught:
        found[0 : found.shape[0]]
    assert caught.value.where == str(photos / name)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="libtiff is found on Linux alone")
def test_a_damaged_tiff_says_nothing_beside_the_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(pixels()).save(tmp_path / "odd.tiff", compression="tiff_lzw")
    content = (tmp_path / "odd.tiff").read_bytes()
    (tmp_path / "odd.tiff").write_bytes(content[:8] + b"\x7f" * 200 + content[208:])
    with pytest.raises(FxHeadError, match="cannot be read as an image"), walled("odd.tiff"):
        decoded(tmp_path / "odd.tiff", "RGB", Preparation(resize=32, crop=28, mean=(0.0,), std=(1.0,)))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "magic", [b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\xc5\xd0\xd3\xc6", b"8BPS", b"SIMPLE", b"icns"]
)
@pytest.mark.parametrize("command", ["cam", "check"])
def test_no_other_format_is_read_whatever_the_name_says(
    run: Run, net: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, magic: bytes, command: str
) -> None:
    """Pillow would start a program that is called gs, from wherever PATH says, for the first two."""
    ran = photos.parent / "ran"
    programs = photos.parent / "bin"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {ran}\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    Image.fromarray(pixels()).save(photos / "evil.eps")
    content = (photos / "evil.eps").read_bytes()
    (photos / "evil.eps").unlink()
    (photos / "evil.png").write_bytes(magic + content[content.index(b"\n") + 1 :])
    given = ("model.pt", "photos") if command == "cam" else ("model.pt", "model.pt", "--inputs", "photos")
    done = run(command, *given, "--size", "24,16")
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith("fxhead: error: photos/evil.png: cannot be read as an image")
    assert not ran.exists()


def header_of_png(width: int, height: int) -> bytes:
    """A file that says how large the image is, and has nothing of it."""
    chunks = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b"")):
        chunks += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return chunks


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("size", "says"),
    [
        ((12_000, 12_000), "has 12000x12000 pixels"),
        ((1, 20_000_000), "long and narrow"),
        ((200_000, 1), "narrow"),
    ],
)
def test_an_image_is_measured_before_it_is_decoded(
    photos: Path, size: tuple[int, int], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "large.png").write_bytes(header_of_png(*size))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(FxHeadError, match=says):
        decoded(photos / "large.png", "RGB", Preparation(resize=32, crop=28, mean=(0.0,), std=(1.0,)))


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def nothing(path: Path) -> None:
    path.symlink_to("nowhere")


def a_folder(path: Path) -> None:
    path.mkdir()
    path.rename(path.with_suffix(".x"))
    path.symlink_to(path.with_suffix(".x"))


@pytest.mark.parametrize("make", [pipe, device, nothing, a_folder], ids=lambda make: make.__name__)
def test_only_regular_files_are_images(
    run: Run, net: Path, photos: Path, make: Callable[[Path], None]
) -> None:
    make(photos / "odd.png")
    for command in (("cam", "model.pt", "photos"), ("check", "model.pt", "model.pt", "--inputs", "photos")):
        done = run(*command, "--size", "24,16")
        if make is a_folder:  # folders are gone through, links to them are not
            assert done.code == 0, done.err
            continue
        assert done.code == 2
        assert done.err.splitlines()[-1].startswith("fxhead: error: photos/odd.png: is ")
    with pytest.raises(FxHeadError):
        digest_file(photos / "odd.png")


@pytest.mark.parametrize(
    ("spec", "options", "says"),
    [
        (InputSpec(name="x", shape=(4, 28, 28), dtype="float32"), {}, "one or three channels"),
        (InputSpec(name="x", shape=(28,), dtype="float32"), {}, "one or three channels"),
        (InputSpec(name="x", shape=(3, 28, 28), dtype="int64"), {}, "one or three channels"),
        (InputSpec(name="x", shape=(3, None, None), dtype="float32"), {}, "give --size"),
        (SPEC, {"size": ImageSize(resize=32, crop=20)}, "the model takes 28x28"),
        (SPEC, {"mean": (0.1, 0.2)}, "2 values for 3 channels"),
        (SPEC, {"std": (0.1, 0.2, 0.0)}, "give positive numbers"),
        (SPEC, {"std": (float("nan"),)}, "give positive numbers"),
        (SPEC, {"std": (1e-320,)}, "give positive numbers"),
        (SPEC, {"mean": (1e39,)}, "is no number to standardise with"),
        (SPEC, {"mean": (0.5, float("nan"), 0.5)}, "is no number to standardise with"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_images_cannot_be_made_for_is_refused(
    photos: Path, spec: InputSpec, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError) as caught:
        rows(photos, spec, **options)
    assert says in str(caught.value)


def test_a_check_runs_on_every_image(run: Run, net: Path, photos: Path) -> None:
    options = ("--inputs", str(photos), "--size", "24,16", "--providers", "cpu")
    (photos / "notes.txt").write_text("no image")
    done = run("check", "model.pt", "nets:build", "--input-shape", "1x3x16x16", *options)
    assert "7 images of" in done.out
    assert "shorter side 24, centre 16x16, x 3x16x16 float32; 1 other file left out" in done.out
    document = run("check", "model.pt", "model.pt", "--json", *options).document
    assert document["inputs"]["samples"] == 7
    assert document["inputs"]["preparation"]["crop"] == 16
    assert {item["samples"] for item in document["check"]["statistics"]} == {7}
    one = photos / "b.png"
    told = ("--inputs", str(one), *options[2:], "-o", "one.json")
    assert "1 image of" in run("check", "model.pt", "model.pt", *told).out
    assert "reproduced: " in run("check", "--replay", "one.json", "--trust").out
    Image.fromarray(pixels(20, 300)).save(one)
    assert run("check", "--replay", "one.json", "--trust").code == 1


@pytest.mark.parametrize(
    ("folder_of", "options", "says"),
    [
        (lambda photos: photos / "more" / "none", (), "no such file"),
        (lambda photos: photos.parent / "empty", (), "holds no images (0 other files)"),
        (lambda photos: photos, ("--size", "big"), "is no size"),
        (lambda photos: photos, ("--size", "16x0"), "sides lie between"),
        (lambda photos: photos, ("--size", "99999"), "sides lie between"),
        (lambda photos: photos, ("--mean", "0.5;0.5"), "are no numbers"),
        (lambda photos: photos, ("--mean", "0.485,0.456,406"), "is not of pixels from 0 to 1"),
    ],
    ids=["gone", "empty", "size", "crop", "huge", "mean", "unscaled"],
)
def test_folders_and_options_that_do_not_work_are_refused(
    run: Run, net: Path, photos: Path, folder_of: Callable[[Path], Path], options: tuple[str, ...], says: str
) -> None:
    (photos.parent / "empty").mkdir()
    done = run(
        "check", "model.pt", "model.pt", "--inputs", str(folder_of(photos)), "--providers", "cpu", *options
    )
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert "Traceback" not in done.err


def test_floats_of_half_precision_are_made(photos: Path) -> None:
    spec = InputSpec(name="x", shape=(3, 28, 28), dtype="float16")
    found = rows(photos, spec)[0:2]
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, rows(photos)[0:2].astype(np.float16))
    assert torch.from_numpy(found).isfinite().all()
