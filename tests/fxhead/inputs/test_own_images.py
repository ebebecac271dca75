"""What a pickled module itself says of its images and classes: ultralytics, timm and transformers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from fxhead.inputs.images import ImageSize
from fxhead.inputs.own_images import own_preset
from fxhead.inputs.preset import Preset

Run = Callable[..., Any]
PACKAGE = '''
import torch
from torch import nn


class Classify(nn.Module):
    """As its eval mode gives it: probabilities, and the logits beside them."""

    def __init__(self):
        super().__init__()
        self.pool, self.drop = nn.AdaptiveAvgPool2d(1), nn.Dropout(p=0.0, inplace=True)
        self.linear = nn.Linear(8, 3)

    def forward(self, x):
        if isinstance(x, list):
            x = torch.cat(x, 1)
        x = self.linear(self.drop(self.pool(x).flatten(1)))
        return x if self.training else (x.softmax(1), x)


class ClassificationModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), Classify())
        self.names = {0: "ant", 1: "bee", 2: "wasp"}
        self.args = {"imgsz": 32, "task": "classify"}

    def forward(self, x):
        for layer in self.model:
            x = layer(x)
        return x
'''


@pytest.fixture
def checkpoint(folder: Path) -> Iterator[str]:
    """A file as ultralytics writes it, of a package that is called so."""
    tasks = folder / "ultralytics/nn/tasks.py"
    tasks.parent.mkdir(parents=True)
    for path in (tasks, tasks.parent / "__init__.py", tasks.parents[1] / "__init__.py"):
        path.write_text(PACKAGE if path is tasks else "")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        from ultralytics.nn.tasks import ClassificationModel

        torch.manual_seed(0)
        torch.save({"epoch": 3, "model": ClassificationModel().eval(), "ema": None}, "best.pt")
        yield "best.pt"
    for name in [name for name in sys.modules if name.partition(".")[0] == "ultralytics"]:
        del sys.modules[name]


def test_ultralytics_classes_and_images_are_its_own(run: Run, checkpoint: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Path("photos").mkdir()
    Image.fromarray(pixels).save("photos/photo.png")
    done = run("cam", checkpoint, "photos/photo.png", "--allow", "ultralytics", "--json")
    assert done.code == 0, done.err
    assert done.document["preparation"] == {
        "resize": 32, "crop": 32, "mean": [0.0], "std": [1.0], "is_bgr": False, "is_truncated": False,
        "interpolation": "bilinear",
    }  # fmt: skip
    module = torch.load(checkpoint, weights_only=False)["model"]
    image = Image.fromarray(pixels).resize((40, 32), Image.Resampling.BILINEAR).crop((4, 0, 36, 32))
    _, logits = module(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255)
    best = int(logits.argmax())
    first = done.document["images"][0]["classes"][0]
    assert first["label"] == module.names[best]
    assert first["logit"] == pytest.approx(float(logits[0, best]), rel=1e-4)
    done = run("inspect", checkpoint, "--allow", "ultralytics", "--json")
    assert [head["name"] for head in done.document["heads"]] == ["model.2.linear"]
    assert done.document["model"]["images"]["labels"] == ["ant", "bee", "wasp"]
    assert done.document["model"]["input_origin"] == "metadata"
    done = run("check", checkpoint, checkpoint, "--allow", "ultralytics", "--inputs", "photos", "--json")
    assert done.code == 0, done.err
    assert done.document["inputs"]["preparation"]["mean"] == [0.0]


def test_what_timm_and_transformers_leave_in_their_modules() -> None:
    model = timm.create_model("test_resnet")
    assert own_preset(model).mean == tuple(model.pretrained_cfg["mean"])
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4], depths=[1], id2label={0: "a", 1: "b"}
    )
    assert own_preset(transformers.ResNetForImageClassification(config)).labels == ("a", "b")


@pytest.mark.parametrize(
    ("names", "args", "labels", "edge"),
    [
        ({0: "10", 1: "2"}, {"imgsz": 64}, ("10", "2"), 64),
        ({0: "0", 1: "1"}, {"imgsz": [64, 64]}, (), 224),  # names that only count are none
        (["a", "b"], None, ("a", "b"), 224),
    ],
)
def test_names_and_sizes_of_other_kinds(names: Any, args: Any, labels: Any, edge: int) -> None:
    module = type("ClassificationModel", (nn.Module,), {"__module__": "ultralytics.nn.tasks"})()
    module.names, module.args = names, args
    assert own_preset(module) == Preset(
        size=ImageSize(resize=edge, crop=edge), mean=(0.0,), std=(1.0,), labels=labels
    )
    module.names = {3: "c"}
    assert own_preset(module) == Preset()
    assert own_preset(nn.Linear(2, 2)) == Preset()
