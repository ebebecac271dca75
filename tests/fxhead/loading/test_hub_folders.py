"""SOURCE as a folder of a hub: what its texts say is built, prepared for and named; nothing in it is run."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf

from fxexport.subjects.samples import InputSpec
from fxhead.inputs.images import ImageSize, cropped, standardised
from fxhead.inputs.preset import find_preset
from fxhead.loading.load import Loading, load
from fxhead.source import Source
from fxpasses.errors import FileError

Run = Callable[..., Any]
LABELS = ("cat", "dog", "elk")


@pytest.fixture
def timm_folder(folder: Path) -> Path:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3).eval()
    save_for_hf(model, "net", {"label_names": LABELS}, safe_serialization=True)
    return Path("net")


@pytest.fixture
def transformers_folder(folder: Path) -> Path:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], id2label=dict(enumerate(LABELS))
    )
    transformers.ResNetForImageClassification(config).save_pretrained("net")
    transformers.ConvNextImageProcessor(size={"shortest_edge": 32}).save_pretrained("net")
    return Path("net")


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def photograph(path: str, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 11, 3)).astype(np.uint8)
    image = Image.fromarray(coarse).resize((88, 72), Image.Resampling.BICUBIC)
    image.save(path)
    return image


def test_a_folder_of_timm_gives_its_model_its_images_and_its_classes(timm_folder: Path) -> None:
    loaded = load(Source.parse("net"), Loading(seed=1)).model
    model = timm.create_model("test_resnet", num_classes=3).eval()
    model.load_state_dict(loaded.state_dict())
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded(x), model(x))
    torch.manual_seed(0)
    first = timm.create_model("test_resnet", num_classes=3).conv1[0].weight
    assert torch.equal(loaded.conv1[0].weight, first)
    preset = find_preset(Source.parse("net"), None)
    how = timm.data.resolve_data_config({}, model=model)
    crop = how["input_size"][-1]
    assert preset.labels == LABELS
    assert preset.size == ImageSize(resize=int(crop / how["crop_pct"]), crop=crop)
    assert (preset.mean, preset.std, preset.interpolation) == (how["mean"], how["std"], how["interpolation"])


def test_imagenet_s_classes_have_their_names(folder: Path) -> None:
    save_for_hf(timm.create_model("test_resnet"), "net", safe_serialization=True)
    assert find_preset(Source.parse("net"), None).labels[698] == "palace"


def test_a_folder_of_transformers_is_rewritten_proved_and_drawn(run: Run, transformers_folder: Path) -> None:
    done = run("rewrite", "net", "--to", "conv", "--json", "--require", "proved")
    assert done.code == 0, done.err
    assert done.document["model"]["input_shapes"] == [[1, 3, 32, 32]]
    assert done.document["model"]["images"]["labels"] == [*LABELS]
    # what it wrote beside the folder needs neither --allow nor transformers' classes
    done = run("inspect", "net.conv.pt2", "--json")
    assert done.code == 0, done.err
    photograph("photo.png")
    done = run("cam", "net", "photo.png", "--json", "--top", "1")
    assert done.code == 0, done.err
    how = {"resize": 36, "crop": 32, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    how |= {"is_bgr": False, "is_truncated": True}
    assert done.document["preparation"] == how
    assert done.document["images"][0]["classes"][0]["label"] in LABELS
    Path("photos").mkdir()
    photograph("photos/one.png")
    done = run("check", "net", "net.conv.onnx", "--inputs", "photos", "-o", "c.json", "--json")
    assert done.code == 0, done.err
    assert done.document["inputs"]["preparation"] == {k: v for k, v in how.items() if k != "interpolation"}
    done = run("check", "--replay", "c.json")
    assert done.code == 0, done.err
    edit(Path("net/config.json"), finetuning_task="none")
    done = run("check", "--replay", "c.json")
    assert (done.code, "net/config.json" in done.out) == (1, True)


def test_weights_are_found_under_the_names_by_which_transformers_stores_them(run: Run, folder: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    sizes = {"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 1}
    config = transformers.BeitConfig(**sizes, num_attention_heads=2, intermediate_size=16, num_labels=3)
    model = transformers.BeitForImageClassification(config).eval()
    model.save_pretrained("net")
    loaded = load(Source.parse("net")).model
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    done = run("inspect", "net")
    assert done.code == 0, done.err
    assert "Linear(16, 3)" in done.out


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ConvNext", {"size": {"shortest_edge": 32}}),
        ("ConvNext", {"size": {"shortest_edge": 384}}),
        ("Levit", {}),
        ("MobileNetV1", {"do_normalize": False}),
        ("EfficientNet", {"size": {"height": 40, "width": 40}}),
        ("EfficientNet", {"rescale_offset": True, "rescale_factor": 1 / 127.5, "include_top": False}),
        ("MobileNetV2", {}),
        ("ViT", {}),
        ("MobileViT", {}),  # channels reversed, and larger than the image
        ("MobileViT", {"size": {"shortest_edge": 48}, "crop_size": {"height": 32, "width": 32}}),
        ("MobileViT", {"do_flip_channel_order": False, "do_normalize": True}),  # which it does not do
        ("DeiT", {}),
        ("Beit", {"size": {"height": 256, "width": 256}, "do_center_crop": True}),
        (
            "Beit",
            {
                "size": {"height": 64, "width": 48},
                "crop_size": {"height": 32, "width": 40},
                "do_center_crop": True,
            },
        ),
        ("PoolFormer", {}),
        (
            "PoolFormer",
            {"size": {"shortest_edge": 40}, "crop_pct": 0.95, "crop_size": {"height": 40, "width": 40}},
        ),
        ("PoolFormer", {"size": {"height": 40, "width": 40}}),
        ("TextNet", {}),
    ],
)
def test_images_are_prepared_as_the_processor_does(
    transformers_folder: Path, kind: str, settings: dict[str, Any]
) -> None:
    import transformers

    processor = getattr(transformers, f"{kind}ImageProcessor")(**settings)
    processor.save_pretrained("net")
    preset = find_preset(Source.parse("net"), None)
    image = photograph("photo.png")
    wanted = processor(image, return_tensors="np")["pixel_values"][0]
    spec = InputSpec(name="x", shape=wanted.shape, dtype="float32")
    if kind == "TextNet" or (kind, "height" in settings.get("size", {})) == ("PoolFormer", True):
        with pytest.raises(FileError.__base__, match="prepared by the processor"):
            preset.prepared(spec)
        return
    how = preset.prepared(spec)
    found = standardised(cropped(image, how, preset.interpolation), how, np.dtype(np.float32))
    # one grey level: Pillow's and torchvision's resizing round apart
    np.testing.assert_allclose(found, wanted, atol=2.5 / 255 / min(how.std), rtol=0)


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        ("config.json", {"auto_map": {"AutoModel": "evil.Net"}}, "code of its own builds the model"),
        ("config.json", {"model_type": "resnit"}, "did you mean 'resnet'?"),
        ("config.json", {"model_type": 3}, "names neither"),
        ("config.json", {"architecture": "resnit"}, "timm has no model 'resnit'"),
        ("config.json", {"depths": [1, 10**9]}, "no size of a model"),
        ("config.json", {"depths": [1, 10**6]}, "describes a larger model"),
        ("config.json", {"hidden_sizes": [8, 8000]}, "describes a larger model"),
        ("config.json", {"hidden_sizes": 3}, "what cannot be built"),
        ("config.json", {"quantization_config": {"bits": 4}}, "quantised"),
        ("config.json", {"id2label": {"7": "x"}}, "cannot be"),
        (
            "config.json",
            {"id2label": {"0": "x" * 10**6, "1": "y", "2": "z"}},
            "a name of 1,000,000 characters",
        ),
        ("preprocessor_config.json", {"image_mean": "0.5"}, "no way to prepare images"),
        ("preprocessor_config.json", {"resample": 99}, "no way to prepare images"),
        ("preprocessor_config.json", {"resample": -1}, "no way to prepare images"),
        ("preprocessor_config.json", {"size": [[[]]]}, "no way to prepare images"),
        ("preprocessor_config.json", {"auto_map": {}}, "code of its own"),
    ],
)
def test_what_a_folder_may_not_say(
    run: Run, transformers_folder: Path, file: str, changes: dict[str, Any], says: str
) -> None:
    edit(transformers_folder / file, **changes)
    done = run("inspect", "net")
    assert (done.code, done.out) == (2, "")
    assert says in done.err


def test_no_library_tells_what_a_folder_says(
    run: Run, transformers_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be in the folder's own words, whatever a terminal makes of these."""
    told: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", told.append)
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        edit(transformers_folder / "config.json", num_labels=7, id2label={"0": "\x1b[31m"})
        assert run("inspect", "net").code == 2
    finally:
        logger.removeHandler(handler)
    assert told == []


def test_timm_s_factory_is_told_nothing_but_what_is_the_model_s(run: Run, timm_folder: Path) -> None:
    edit(timm_folder / "config.json", model_args={"checkpoint_path": "/etc/passwd"})
    done = run("inspect", "net")
    assert done.code == 2
    assert "model_args.checkpoint_path" in done.err


def test_what_is_not_there_is_told_with_how_to_get_it(run: Run, timm_folder: Path) -> None:
    done = run("inspect", "microsoft/resnet-50")
    assert done.code == 2
    assert "hf download microsoft/resnet-50 --local-dir resnet-50" in done.err
    done = run("inspect", "net/model.safetensors")
    assert (done.code, "give the folder net" in done.err) == (2, True)
    Path("net/model.safetensors").unlink()
    done = run("inspect", "net")
    assert (done.code, "has no model.safetensors" in done.err) == (2, True)
    Path("net/config.json").unlink()
    done = run("inspect", "net")
    assert (done.code, "is a folder without config.json" in done.err) == (2, True)


def test_a_bare_name_for_arch_is_torchvision_s_and_is_said(run: Run, folder: Path) -> None:
    import torchvision

    torch.save(torchvision.models.squeezenet1_1().state_dict(), "w.pt")
    done = run("inspect", "w.pt", "--arch", "squeezenet1_1")
    assert done.code == 0, done.err
    assert "--arch squeezenet1_1 is read as torchvision:squeezenet1_1" in done.err
