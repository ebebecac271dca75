"""A map lies where the image does, or is refused: whatever a flip of the features is written as."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torchvision
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from fxhead.cam.places import require_places
from fxpasses.errors import InputError

SIZE = (96, 64)


class Attention(nn.Module):
    """Squeeze-and-excitation: what is anywhere is felt everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((2, 3), keepdim=True)).sigmoid()


def backbone() -> nn.Module:
    torch.manual_seed(0)
    steps: list[nn.Module] = []
    for channels in (3, 16, 16):
        steps += [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, 16, 3, 2), nn.BatchNorm2d(16), nn.SiLU()]
        steps.append(Attention())
    model = nn.Sequential(*steps, nn.Conv2d(16, 16, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(16, 5, 1))
    model(torch.randn(8, 3, *SIZE))  # the batch norms have seen data
    return model.eval()


KEPT: dict[str, Callable[[Tensor], Tensor]] = {
    "as they are": lambda f: f,
    "channels shuffled": lambda f: f.view(len(f), -1, 5, *f.shape[2:]).transpose(1, 2).flatten(1, 2),
    "channels last and back": lambda f: (f.permute(0, 2, 3, 1) * 2).permute(0, 3, 1, 2),
    "turned and turned back": lambda f: (f.rot90(1, (2, 3)) + 1).rot90(3, (2, 3)),
    "finer": lambda f: F.interpolate(f, scale_factor=2),
    "everything sees everything": lambda f: f.mean((2, 3), keepdim=True).expand_as(f),
    "one row": lambda f: f.mean(2, keepdim=True),
    "within a frame of one place": lambda f: F.pad(f, (1, 1, 1, 1)),  # as of SqueezeNet 1.0's own padding
    "without its outermost places": lambda f: f[:, :, 1:-1, 1:-1],
}
MOVED: dict[str, Callable[[Tensor], Tensor]] = {
    "flip": lambda f: f.flip(3),
    "index": lambda f: f[:, :, torch.arange(f.shape[2] - 1, -1, -1)],
    "gather": lambda f: f.gather(3, torch.arange(f.shape[3] - 1, -1, -1).expand_as(f)),
    "stack of slices": lambda f: torch.stack([*f.unbind(2)][::-1], 2),
    "turn": lambda f: f.rot90(1, (2, 3)),
    "axes exchanged": lambda f: f.transpose(2, 3),
    "rows and columns read as columns and rows": lambda f: f.flatten(2).unflatten(2, f.shape[:1:-1]),
    "roll": lambda f: f.roll(3, 2),
    "mean with its flip": lambda f: f + f.flip(3),
    "columns shuffled": lambda f: f[..., [2, 0, 3, 1]],
    "crop to a corner": lambda f: f[:, :, :3],
    "padded at one side": lambda f: F.pad(f, (0, 0, 0, 6)),
    "padded at one side by two": lambda f: F.pad(f, (0, 2)),
    "within a frame of two places": lambda f: F.pad(f, (2, 2, 2, 2), value=1.0),
    "repeated at its end": lambda f: F.pad(f, (0, 0, 0, 2), mode="replicate"),
    "roll by one": lambda f: f.roll(1, 2),
    "roll by one back": lambda f: f.roll(-1, 3),
    "two halves of a batch of parts": lambda f: torch.cat([f[:, :, 3:], f[:, :, :3]], 2),
}


def features_of(move: Callable[[Tensor], Tensor]) -> Callable[[np.ndarray], np.ndarray]:
    model = backbone()

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return move(model(torch.from_numpy(images))).numpy()

    return run


def image() -> np.ndarray:
    """One that is not the same everywhere: dark above, with a bright corner."""
    made = np.random.default_rng(0).normal(0, 0.3, (3, *SIZE)).astype(np.float32)
    made[:, : SIZE[0] // 2] -= 1
    made[:, -20:, -20:] += 3
    return made


@pytest.mark.parametrize("name", KEPT)
def test_places_that_are_the_images_are_taken(name: str) -> None:
    require_places(features_of(KEPT[name]), image(), "head")


@pytest.mark.parametrize("name", MOVED)
def test_places_that_are_others_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="its places are others than the image's"):
        require_places(features_of(MOVED[name]), image(), "head")


def test_a_map_of_four_places_is_told_by_more_than_one_exchange() -> None:
    """Each place sees nearly the whole image: one exchange alone found a third of such models elsewhere."""
    small = np.ascontiguousarray(image()[:, :64, :64])
    for seed in (3, 6, 7):
        torch.manual_seed(seed)
        model = torchvision.models.resnet18(num_classes=5).eval()
        scores = nn.Sequential(*list(model.children())[:-2], nn.Conv2d(512, 5, 1))

        def run(images: np.ndarray, scores: nn.Module = scores) -> np.ndarray:
            with torch.inference_mode():
                return scores(torch.from_numpy(images)).numpy()

        require_places(run, small, "head")


def test_an_image_of_one_colour_tells_nothing() -> None:
    require_places(features_of(MOVED["flip"]), np.zeros((3, *SIZE), np.float32), "head")


@pytest.mark.parametrize("scale", [1e-6, 1e-40, np.inf])
def test_a_map_of_rounding_alone_tells_nothing(scale: float) -> None:
    """As fresh EfficientNets have them: features of 1e-40 beside a bias, or none."""
    run, bias = features_of(MOVED["flip"]), np.float32(0.5 if scale == 1e-6 else 0)
    require_places(
        lambda images: (run(images) * np.float32(scale) + bias).astype(np.float32), image(), "head"
    )


def written(nodes: list[onnx.NodeProto], **constants: np.ndarray) -> None:
    """A file that convolves, then has ``nodes`` from ``features`` to ``moved``, and a head on their mean."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(8, 3, 3, 3)), "fc": rng.normal(size=(8, 4)), "b": np.zeros(4)}
    values = {name: value.astype(np.float32) for name, value in weights.items()} | constants
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], strides=[2, 2]),
            helper.make_node("Relu", ["c"], ["features"]),
            *nodes,
            helper.make_node("ReduceMean", ["moved", "axes"], ["pooled"], keepdims=0),
            helper.make_node("Gemm", ["pooled", "fc", "b"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [
            numpy_helper.from_array(value, name)
            for name, value in (values | {"axes": np.array([2, 3])}).items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, "net.onnx")
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save("image.png")


def test_a_file_that_turns_its_features_over_is_refused(run: Callable[..., Any], folder: Path) -> None:
    ends = {"a": np.array([-1]), "z": np.array([-1000]), "axis": np.array([3]), "step": np.array([-1])}
    written([helper.make_node("Slice", ["features", *ends], ["moved"])], **ends)
    done = run("cam", "net.onnx", "image.png")
    assert (done.code, done.out) == (2, "")
    assert "its places are others than the image's" in done.err


def test_features_of_no_declared_shape_have_a_map(run: Callable[..., Any], folder: Path) -> None:
    """As the older exporter writes ``F.pad``: nothing says how many axes its result has."""
    pads = [helper.make_node("Cast", ["pads"], ["cast"], to=TensorProto.INT64)]
    written(
        [*pads, helper.make_node("Pad", ["features", "cast"], ["moved"])], pads=np.array([0] * 8, np.int32)
    )
    done = run("cam", "net.onnx", "image.png")
    assert done.code == 0, done.err
