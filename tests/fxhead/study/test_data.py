"""The images of a study, built in or from a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fxhead.study.data import Images, load_digits, load_folder
from fxpasses.errors import FileError, InputError


def nothing() -> None:
    pass


def test_the_digits_are_halved_class_by_class(digits: Images) -> None:
    assert digits.fit_images.shape == (898, 1, 8, 8)
    assert digits.held_out_images.shape == (899, 1, 8, 8)
    fit, held_out = (np.bincount(labels) for labels in (digits.fit_labels, digits.held_out_labels))
    assert len(fit) == 10
    assert np.abs(fit - held_out).max() <= 1
    everything = np.concatenate([digits.fit_images, digits.held_out_images]).reshape(1797, -1)
    assert len(np.unique(everything, axis=0)) == 1797  # none is in both halves


def test_what_is_trained_on_is_standardised(digits: Images) -> None:
    assert digits.fit_images.dtype == np.float32
    assert digits.fit_images.mean() == pytest.approx(0, abs=1e-5)
    assert digits.fit_images.std() == pytest.approx(1, abs=1e-5)
    assert abs(digits.held_out_images.mean()) > 1e-5  # by the other half's mean, not its own


def test_the_fingerprint_is_of_the_values() -> None:
    first, again, other = load_digits(0).describe(), load_digits(0).describe(), load_digits(1).describe()
    assert first == again
    assert first.sha256 != other.sha256
    assert (first.fit, first.held_out, first.image_shape) == (898, 899, (1, 8, 8))


def test_a_folder_is_read(image_folder: Path) -> None:
    seen: list[None] = []
    images = load_folder(image_folder, 8, 0, lambda: seen.append(None))
    assert len(seen) == 16
    assert images.classes == ("dark", "light")
    assert images.fit_images.shape == images.held_out_images.shape == (8, 3, 8, 8)
    assert images.channels == 3
    brightness = images.held_out_images.mean(axis=(1, 2, 3))
    assert ((brightness > 0) == images.held_out_labels).all()
    assert images.fit_images.mean(axis=(0, 2, 3)) == pytest.approx(0, abs=1e-5)


def test_what_is_wrong_with_a_folder_is_said(image_folder: Path) -> None:
    with pytest.raises(FileError, match="holds no classes of images"):
        load_folder(image_folder / "gone", 8, 0, nothing)
    with pytest.raises(FileError, match="holds no classes of images"):
        load_folder(image_folder / "dark", 8, 0, nothing)
    (image_folder / "dark" / "0.png").write_bytes(b"not a picture")
    with pytest.raises(FileError, match=r"0\.png: cannot be read as an image"):
        load_folder(image_folder, 8, 0, nothing)
    for path in [*(image_folder / "dark").iterdir()][:5]:
        path.unlink()
    (image_folder / "dark" / "0.png").unlink(missing_ok=True)
    with pytest.raises(InputError, match="class 'dark' has fewer than 4 images"):
        load_folder(image_folder, 8, 0, nothing)
    for path in (image_folder / "dark").iterdir():
        path.unlink()
    (image_folder / "dark").rmdir()
    with pytest.raises(InputError, match="one class"):
        load_folder(image_folder, 8, 0, nothing)
