"""SOURCE ``timm:NAME``: built here, weights from a file, images as timm says it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from fxhead.inputs.images import ImageSize
from fxhead.inputs.preset import find_preset
from fxhead.loading.load import Loading, load
from fxhead.source import Source

Run = Callable[..., Any]
NAME = "test_resnet.r160_in1k"


@pytest.mark.parametrize("classes", [1000, 7])
def test_weights_and_the_number_of_classes_come_from_a_file(classes: int, folder: Path) -> None:
    model = timm.create_model(NAME, num_classes=classes).eval()
    save_file(model.state_dict(), "model.safetensors")
    loaded = load(Source.parse(f"timm:{NAME}"), Loading(weights="model.safetensors", seed=1)).model
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded(x), model(x))


def test_images_are_prepared_as_timm_says() -> None:
    preset = find_preset(Source.parse(f"timm:{NAME}"), None)
    config = timm.data.resolve_data_config({}, model=timm.create_model(NAME))
    assert preset.mean == config["mean"]
    assert preset.std == config["std"]
    assert preset.interpolation == config["interpolation"]
    crop = config["input_size"][-1]
    assert preset.size == ImageSize(resize=round(crop / config["crop_pct"]), crop=crop)


def test_what_is_not_there_is_told(run: Run, folder: Path) -> None:
    done = run("inspect", "timm:resnet81")
    assert (done.code, done.out) == (2, "")
    assert "timm has no model 'resnet81'" in done.err
    done = run("inspect", "timm:test_resnet.none")
    assert (done.code, "timm knows no such tag" in done.err) == (2, True)
    done = run("inspect", f"timm:{NAME}", "--weights", "DEFAULT")
    assert done.code == 2
    assert f"https://huggingface.co/timm/{NAME}" in done.err


def test_a_model_of_timm_is_inspected(run: Run, folder: Path) -> None:
    done = run("inspect", f"timm:{NAME}", "--json")
    assert done.code == 0, done.err
    assert [site["name"] for site in done.document["sites"]] == ["fc"]
    assert done.document["heads"] == [{"name": "fc", "sites": ["fc"]}]
