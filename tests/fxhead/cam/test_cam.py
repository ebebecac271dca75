"""``fxhead cam``: the maps are those of the paper, whatever the model came in; all files, or none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from fxexport import export_onnx
from fxhead.cam.find_images import find_images
from fxhead.cam.labels import choose_classes, read_labels
from fxhead.cam.overlay import ColourScale, overlay
from fxhead.cam.run_images import box_of
from fxhead.inputs.images import ImageSize, Preparation, cropped
from fxhead.inputs.preset import Preset, find_preset
from fxhead.source import Source
from fxpasses import rewrite
from fxpasses.errors import FxHeadError, InputError
from onnx_files import classifier, outputs, weights

Run = Callable[..., Any]
Written = Callable[[], set[str]]

SIZE = ("--size", "24,16")
HOW = Preparation(resize=24, crop=16, mean=(0.0,) * 3, std=(1.0,) * 3)
ORIENTATION = 0x0112


def pixels(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def photos(folder: Path) -> Path:
    """Three images of different sizes."""
    (folder / "photos").mkdir()
    for index, (height, width) in enumerate(((40, 60), (50, 30), (33, 33))):
        Image.fromarray(pixels(height, width, seed=index)).save(folder / "photos" / f"{index}.png")
    return Path("photos")


def load(path: str = "model.pt") -> nn.Module:
    module: nn.Module = torch.load(path, weights_only=False)
    return module.eval()


def prepared(photos: Path, **options: Any) -> Tensor:
    """As torchvision's own transform prepares them."""
    preset = ImageClassification(
        crop_size=16, resize_size=24, interpolation=InterpolationMode.BILINEAR, **options
    )
    images = (Image.open(path).convert("RGB") for path in sorted(photos.iterdir()))
    return torch.stack([preset(image) for image in images])


def maps_of_the_paper(net: nn.Module, x: Tensor) -> Tensor:
    """M_c(x, y) = Σ_k w_k^c f_k(x, y), in float64, and the bias at every place.

    Source:
        Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, equation (2).
    """
    net = net.double()
    with torch.no_grad():
        features = net.features(x.double())
        summed = sum(net.fc.weight[:, k, None, None] * features[:, None, k] for k in range(features.shape[1]))
        return summed + net.fc.bias[:, None, None]


def test_maps_are_those_of_the_paper(run: Run, net: Path, photos: Path) -> None:
    done = run("cam", "model.pt", "photos", "-o", "out", *SIZE, "--batch", "2", "--json")
    assert done.code == 0, done.err
    x = prepared(photos)
    expected = maps_of_the_paper(load(), x)
    with np.load("out/maps.npz") as arrays:
        found = dict(arrays)
    assert found["maps"].dtype == found["logits"].dtype == np.float32
    assert found["maps"].shape == (3, 3, 16, 16)
    classes = expected.mean((2, 3)).argsort(1, descending=True)[:, :3]
    np.testing.assert_array_equal(found["classes"], classes)
    chosen = torch.stack([maps[own] for maps, own in zip(expected, classes, strict=True)])
    # 27 products for a feature, 8 for a score: far fewer roundings than this
    scale = 64 * np.finfo(np.float32).eps * float(expected.abs().max())
    np.testing.assert_allclose(found["maps"], chosen, rtol=0, atol=scale)
    with torch.no_grad():
        np.testing.assert_allclose(found["logits"], load()(x), rtol=0, atol=scale)
    np.testing.assert_array_equal(found["images"], [f"photos/{index}.png" for index in range(3)])
    np.testing.assert_array_equal(found["sizes"], [(40, 60), (50, 30), (33, 33)])
    for index, image in enumerate(done.document["images"]):
        first = image["classes"][0]
        row, column = divmod(int(chosen[index, 0].argmax()), 16)
        left, top, right, bottom = found["boxes"][index]
        cell = (right - left) / 16, (bottom - top) / 16
        assert first["peak_at"] == pytest.approx(
            [left + (column + 0.5) * cell[0], top + (row + 0.5) * cell[1]]
        )
        assert first["index"] == classes[index, 0]
        assert first["peak"] == pytest.approx(float(chosen[index, 0].max()), rel=1e-5)


def test_pictures_of_one_run_never_share_a_name(folder: Path) -> None:
    (folder / "x").mkdir()
    given = ("a.png", "x/a.png", "a.2.png", "x/A.gif", "A.2.png", "é.png", "x/E\u0301.png")
    for name in given:
        Path(name).touch()
    names = [image.picture for image in find_images(given)]
    kept = {unicodedata.normalize("NFC", name.casefold()) for name in names}
    assert len(kept) == len(given), names
    assert names[:3] == ["a.cam.png", "a.2.cam.png", "a.2.2.cam.png"]


def test_labels_come_from_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        with pytest.raises(FxHeadError, match="no regular file"):
            read_labels(tmp_path / name)


def test_a_model_gives_the_same_maps_from_every_file(run: Run, net: Path, photos: Path) -> None:
    module, x = load(), torch.randn(2, 3, 16, 16)
    torch.export.save(
        torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("n")},)), "m.pt2"
    )
    torch.export.save(torch.export.export(module, (x,)), "batch-of-2.pt2")
    export_onnx(module, x, "linear.onnx")
    dense = rewrite(module, to="dense", outputs=("logits", "map")).module
    export_onnx(dense, torch.randn(2, 3, 20, 20), "dense.onnx", dynamic_size=True)
    assert run("rewrite", "model.pt", "--to", "dense", "--with-map", "-o", "dense.pt").code == 0
    torch.save(module.state_dict(), "weights.pth")
    sources = (
        ("model.pt",),
        ("m.pt2",),
        ("batch-of-2.pt2",),
        ("model.pt", "--trace", "export", "--batch", "2"),
        ("dense.pt",),
        ("linear.onnx",),
        ("dense.onnx",),
        ("nets:build", "--weights", "weights.pth"),
    )
    found = []
    for index, (source, *options) in enumerate(sources):
        done = run("cam", source, "photos", "-o", f"out{index}", *SIZE, "--classes", "4,0", *options)
        assert done.code == 0, (source, done.err)
        with np.load(f"out{index}/maps.npz") as arrays:
            np.testing.assert_array_equal(arrays["classes"], [[4, 0]] * 3)
            found.append(arrays["maps"])
    for maps in found[1:]:
        np.testing.assert_allclose(maps, found[0], rtol=1e-5, atol=1e-6)


def test_the_same_command_gives_the_same_bytes(run: Run, net: Path, photos: Path) -> None:
    for out in ("one", "two"):
        assert run("cam", "model.pt", "photos", "-o", out, *SIZE, "--top", "1").code == 0
    names = {path.name for path in Path("one").iterdir()}
    assert names == {"0.cam.png", "1.cam.png", "2.cam.png", "sheet.png", "maps.npz"}
    for name in names:
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes(), name
    assert run("cam", "model.pt", "photos", "-o", "one", *SIZE, "--top", "1").code == 2  # they exist
    assert run("cam", "model.pt", "photos", "-o", "one", *SIZE, "--top", "1", "--force").code == 0


def test_images_of_every_kind_are_drawn(run: Run, net: Path, folder: Path) -> None:
    (folder / "many").mkdir()
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(pixels(40, 60)).save("many/turned.jpg", exif=exif)
    Image.fromarray(pixels(40, 60, 1)).save("many/grey.png")
    Image.fromarray(pixels(40, 60, 4)).save("many/alpha.png")
    Image.fromarray(pixels(40, 60, 4)).convert("CMYK").save("many/cmyk.jpg")
    Image.fromarray(pixels(40, 60)).quantize(16).save("many/palette.png", transparency=bytes(16))
    Image.fromarray(pixels(40, 60, 1).astype(np.uint16) * 257).save("many/deep.png")
    Image.fromarray(pixels(8, 300)).save("many/grey.gif")
    done = run("cam", "model.pt", "many", "-o", "out", *SIZE, "--top", "1", "--json")
    assert done.code == 0, done.err
    images = {Path(image["path"]).name: image for image in done.document["images"]}
    assert len(images) == 7
    assert images["turned.jpg"]["size"] == [60, 40]
    assert {Path(images[name]["picture"]).name for name in ("grey.gif", "grey.png")} == {
        "grey.cam.png",
        "grey.2.cam.png",
    }
    with np.load("out/maps.npz") as arrays:
        names = [Path(str(name)).name for name in arrays["images"]]
        deep, grey = (arrays["maps"][names.index(name)] for name in ("deep.png", "grey.png"))
    np.testing.assert_array_equal(deep, grey)
    for image in images.values():
        with Image.open(image["picture"]) as picture:
            assert picture.height > 300
            assert picture.width > 600


@pytest.mark.parametrize(
    "name", ["$x_1$.png", "[bold]b.png", "a" * 200 + ".png", os.fsdecode(b"\xff\x1b.png")]
)
def test_images_may_have_any_name(run: Run, net: Path, folder: Path, name: str) -> None:
    Image.fromarray(pixels(20, 20)).save(folder / name)
    done = run("cam", "model.pt", name, *SIZE, "--top", "1")
    assert done.code == 0, done.err
    assert "class " in done.out
    assert Path("fxhead-cam", f"{Path(name).stem}.cam.png").is_file()
    with np.load("fxhead-cam/maps.npz") as arrays:
        assert arrays["images"] == [name]


def test_a_damaged_image_leaves_nothing(run: Run, net: Path, photos: Path, written: Written) -> None:
    whole = Path("photos/1.png").read_bytes()
    Path("photos/1.png").write_bytes(whole[: len(whole) // 2])
    done = run("cam", "model.pt", "photos", "-o", "out", *SIZE, "--batch", "1")
    assert (done.code, done.out) == (2, "")
    assert "photos/1.png: cannot be read as an image" in done.err
    assert written() == {"photos"}


def test_a_head_that_is_not_affine_has_no_maps(run: Run, photos: Path, written: Written) -> None:
    done = run("cam", "torchvision:mobilenet_v3_small", "photos", "-o", "out")
    assert done.code == 1
    assert "NONLINEAR" in done.out
    assert "no maps" in done.out
    assert written() == {"photos"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("model.pt", "gone.png"), "gone.png: no such file"),
        (("model.pt", "nets.py"), "nets.py: cannot be read as an image"),
        (("model.pt", "photos", "--classes", "5"), "the model has 5 classes"),
        (("model.pt", "photos", "--labels", "two.txt"), "2 labels for 5 classes"),
        (("model.pt", "photos", "--labels", "gone.txt"), "gone.txt: cannot be read"),
        (("model.pt", "photos", "--size", "16x0"), "sides lie between"),
        (("model.pt", "photos", "--mean", "1,2"), "2 values for 3 channels"),
        (("model.pt", "photos", "-o", "nets.py"), "is no folder"),
        (("torchvision:resnet19", "photos"), "resnet1"),
        (("model.pt", "photos", "--classes", "cat"), "there is no class 'cat'; give its number"),
        (("wrong.onnx", "photos"), "the mean of the map is not what the model gives"),
        (("hidden.onnx", "photos"), "is no affine function of a pooled map"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    run: Run, net: Path, photos: Path, arguments: tuple[str, ...], says: str
) -> None:
    Path("two.txt").write_text("cat\ndog\n")
    write_onnx("wrong.onnx", outputs=("logits", "map"))
    write_onnx("hidden.onnx", outputs=("logits",))
    done = run("cam", *arguments, *([] if "--size" in arguments else SIZE))
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert not Path("fxhead-cam").exists()


@pytest.mark.parametrize("outputs", [("logits", "map"), ("logits",)])
def test_a_dense_file_is_its_own_map(run: Run, net: Path, photos: Path, outputs: tuple[str, ...]) -> None:
    """At the size that is asked for, where the file leaves it open."""
    write_onnx("dense.onnx", outputs=outputs, last="Identity")
    done = run("cam", "dense.onnx", "photos", *SIZE, "--mean", "0", "--std", "1")
    assert done.code == 0, done.err
    with np.load("fxhead-cam/maps.npz") as arrays:
        expected = prepared(photos, mean=(0.0,) * 3, std=(1.0,) * 3).sum(1).numpy()
        for index, (own, maps) in enumerate(zip(arrays["classes"], arrays["maps"], strict=True)):
            np.testing.assert_array_equal(own, [0, 1])  # the sum, and its negative
            np.testing.assert_allclose(maps, [expected[index], -expected[index]], rtol=1e-6)
    assert "leaves its shape open; give --size" in run("cam", "dense.onnx", "photos", "-o", "other").err


def test_a_file_of_no_images_is_told(run: Run, photos: Path, folder: Path) -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,8] bytes) => (float[N,8] y) { y = Relu(bytes) }'
    )
    onnx.save(onnx.parser.parse_model(text), "vectors.onnx")
    done = run("cam", "vectors.onnx", "photos")
    assert done.code == 2
    assert "input 'bytes' has 2 axes, an image has four" in done.err


@pytest.mark.parametrize("head", ["y", "z", "1"])
def test_a_files_head_is_moved_before_its_pool(run: Run, photos: Path, folder: Path, head: str) -> None:
    """One of two, the other with a softmax behind it; weights lie in another file, one the other way."""
    w, v = weights(5, 8), weights(8, 4)
    body = (
        "p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, w) "
        "d = Dropout(f) q = MatMul(d, v) z = Softmax<axis=1>(q)"
    )
    model = classifier(body, {"w": w, "v": v}, dims="N,3,16,16", result="float[N,5] y, float[N,4] z")
    onnx.save(model, "net.onnx", save_as_external_data=True, location="net.data", size_threshold=64)
    done = run("cam", "net.onnx", "photos", *SIZE, "--mean", "0", "--std", "1", "--top", "9", "--head", head)
    assert done.code == 0, done.err
    stem = classifier("y = Identity(r)", {}, dims="N,3,16,16", result="float[N,8,14,14] y")
    (features,) = outputs(stem, prepared(photos, mean=(0.0,) * 3, std=(1.0,) * 3).numpy())
    wanted = np.einsum("oc,nchw->nohw", w if head == "y" else v.T, features)
    with np.load("fxhead-cam/maps.npz") as arrays:
        for index, (own, maps) in enumerate(zip(arrays["classes"], arrays["maps"], strict=True)):
            np.testing.assert_allclose(maps, wanted[index][own], rtol=1e-4, atol=1e-5)
    assert "choose one with --head" in run("cam", "net.onnx", "photos", *SIZE, "-o", "other").err


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("p = GlobalMaxPool(r) f = Flatten(p) y = Gemm<transB=1>(f, w)", "'p' takes a maximum or a sum"),
        (
            "p = GlobalAveragePool(r) f = Flatten(p) t = Sqrt(w) y = Gemm<transB=1>(f, t)",
            "its weight is computed in the graph",
        ),
        ("p = GlobalAveragePool(r) f = Flatten(p) t = Relu(f) y = Gemm<transB=1>(t, w)", "'t' stands"),
        ("f = Flatten(r) y = Gemm<transB=1>(f, v)", "which no pool collapses; pool the map to a fixed size"),
    ],
)
def test_why_a_files_head_has_no_map_is_told(run: Run, photos: Path, body: str, says: str) -> None:
    constants = {"w": weights(5, 8), "v": weights(5, 8 * 16 * 16)}
    onnx.save(classifier(body, constants, dims="N,3,16,16"), "net.onnx")
    done = run("cam", "net.onnx", "photos", *SIZE)
    assert (done.code, done.out) == (2, "")
    assert "output 'y' is no affine function of a pooled map: " in done.err
    assert says in done.err


@pytest.mark.parametrize("size", [SIZE, ()])
@pytest.mark.parametrize("is_open", [False, True])
def test_a_file_that_takes_channels_last(
    run: Run, photos: Path, is_open: bool, size: tuple[str, ...]
) -> None:
    """As Keras has its images: the maps are those of the file that takes them first."""
    body, constants = "p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, w)", {"w": weights(5, 8)}
    for name, dims in (("first", "N,3,16,16"), ("last", "N,H,W,3" if is_open else "N,16,16,3")):
        model = classifier(body, constants, dims=dims)
        if name == "last":
            model.graph.node[0].input[0] = "turned"
            model.graph.node.insert(0, helper.make_node("Transpose", ["x"], ["turned"], perm=[0, 3, 1, 2]))
        onnx.save(model, f"{name}.onnx")
        given = SIZE if is_open else size
        done = run("cam", f"{name}.onnx", "photos", *given, "--classes", "0,1,2,3,4", "-o", name)
        assert done.code == 0, done.err
    assert "input 1x16x16x3" in done.out
    with np.load("first/maps.npz") as first, np.load("last/maps.npz") as last:
        np.testing.assert_allclose(last["maps"], first["maps"], rtol=1e-5, atol=1e-6)


def test_a_file_whose_pool_comes_last_has_its_map_there(run: Run, photos: Path) -> None:
    body = "c = Conv(r, w) a = Relu(c) p = GlobalAveragePool(a) y = Flatten(p)"
    model = classifier(body, {"w": weights(5, 8, 1, 1)}, dims="N,3,16,16")
    onnx.save(model, "net.onnx")
    done = run("cam", "net.onnx", "photos", *SIZE, "--mean", "0", "--std", "1", "--classes", "0,1,2,3,4")
    assert done.code == 0, done.err
    wanted = outputs(model, prepared(photos, mean=(0.0,) * 3, std=(1.0,) * 3).numpy())[0]
    with np.load("fxhead-cam/maps.npz") as arrays:
        np.testing.assert_allclose(arrays["maps"].mean((2, 3)), wanted, rtol=1e-4, atol=1e-5)
        assert arrays["maps"].min() == 0  # behind the activation


def test_a_size_that_the_model_does_not_take_is_named(run: Run, photos: Path) -> None:
    """As of the first torchvision's ResNets: a fixed pool, and a view that needs one place behind it."""
    torch.save(nn.Sequential(nn.Conv2d(3, 8, 3), nn.AvgPool2d(7, 1), nn.Flatten(), nn.Linear(8, 2)), "net.pt")
    done = run("cam", "net.pt", "photos", "--size", "10")
    assert (done.code, done.out) == (2, "")
    assert "does not say which input shape it takes, and does not run on 10x10; give it" in done.err
    assert run("cam", "net.pt", "photos", "--size", "9").code == 0


def test_a_layer_that_does_not_run_is_one_line(run: Run, photos: Path) -> None:
    model = nn.Sequential(nn.Softmax(2**40), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    torch.save(model, "odd.pt")
    done = run("cam", "odd.pt", "photos", *SIZE, "--input-shape", "1x3x16x16")
    assert done.code == 2
    assert "does not run on a batch of" in done.err.splitlines()[-1]


@pytest.mark.parametrize("damage", ["elsewhere", "missing", "short", "no type"])
def test_weights_that_are_not_there_are_one_line(damage: str, run: Run, photos: Path) -> None:
    w = weights(5, 8)
    body = "p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, w)"
    model = classifier(body, {"w": w}, dims="N,3,16,16", result="float[N,5] y")
    tensor = max(model.graph.initializer, key=lambda item: len(item.raw_data))
    if damage == "short":
        tensor.raw_data = tensor.raw_data[:-4]
    elif damage == "no type":
        model.graph.input[0].type.tensor_type.elem_type = 0
    else:
        location = "sub/../../../etc/passwd" if damage == "elsewhere" else "no.data"
        onnx.external_data_helper.set_external_data(tensor, location)
        tensor.ClearField("raw_data")
    Path("net.onnx").write_bytes(model.SerializeToString())
    cam = ("cam", "net.onnx", "photos", *SIZE, "--mean", "0", "--std", "1")
    for command in (cam, ("check", "net.onnx", "net.onnx")):
        done = run(*command)
        assert (done.code, done.err.count("error:")) == (2, 1), done.err
        assert "report it" not in done.err


def write_onnx(path: str, outputs: tuple[str, ...], last: str = "Relu") -> None:
    """A graph whose logits are ``last`` of the mean of its map."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["map"]),
        helper.make_node("GlobalAveragePool", ["map"], ["pooled"]),
        helper.make_node(last, ["pooled"], ["high"]),
        helper.make_node("Flatten", ["high"], ["logits"]),
    ]
    value = helper.make_tensor_value_info
    shapes = {"logits": ["n", 2], "map": ["n", 2, "h", "w"]}
    weight = np.array([1.0, -1.0], np.float32).reshape(2, 1, 1, 1).repeat(3, 1)
    graph = helper.make_graph(
        nodes,
        "net",
        [value("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [value(name, TensorProto.FLOAT, shapes[name]) for name in outputs],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)


@pytest.mark.parametrize(
    "content",
    [
        "cat\nwhite  dog\nant, red\n",
        json.dumps(["cat", "white dog", "ant, red"]),
        json.dumps({"0": ["n1", "cat"], "2": ["n3", "ant, red"], "1": ["n2", "white dog"]}),
        json.dumps({"cat": 0, "ant, red": 2, "white dog": 1}),
    ],
    ids=["lines", "list", "imagenet", "class_to_idx"],
)
def test_labels_are_read_in_every_form(tmp_path: Path, content: str) -> None:
    path = tmp_path / "labels"
    path.write_text(content)
    labels = read_labels(path)
    assert labels == ("cat", "white dog", "ant, red")
    assert choose_classes(("White Dog,0", "ant, red", "1"), labels, 3) == (1, 0, 2)


@pytest.mark.parametrize(
    "content",
    [
        *("", "cat\n\ndog\n", "[1, 2]", '{"1": "cat"}', "{", "\ud800"),
        '{"0": "cat", "0": "dog", "1": "elk"}',
        "cat\n" + "x" * 1_001,
        json.dumps(["cat", "x " * 10**6]),
    ],
    ids=["empty", "hole", "numbers", "from-1", "brace", "half", "twice", "long", "long-in-json"],
)
def test_what_are_no_labels_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "labels"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(FxHeadError):
        read_labels(path)


def test_an_unknown_label_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'goldfish'"):
        choose_classes(("goldfsh",), ["goldfish", *map(str, range(100))], 101)


def test_torchvisions_models_get_torchvisions_preparation() -> None:
    found = find_preset(Source.parse("torchvision:efficientnet_v2_s"), None)
    assert (found.size, found.interpolation, found.labels) == (
        ImageSize(resize=384, crop=384),
        "bilinear",
        (),
    )
    named = find_preset(Source.parse("torchvision:efficientnet_b1"), "IMAGENET1K_V1")
    assert (named.size, named.interpolation) == (ImageSize(resize=256, crop=240), "bicubic")
    assert named.labels[1] == "goldfish"
    assert find_preset(Source.parse("nets:build"), None) == Preset()


def test_weights_in_a_file_get_the_preparation_of_their_architecture(run: Run, photos: Path) -> None:
    torch.save(models.shufflenet_v2_x1_5().state_dict(), "weights.pth")
    done = run(
        "cam",
        "weights.pth",
        "photos/0.png",
        "--arch",
        "torchvision:shufflenet_v2_x1_5",
        "--top",
        "1",
        "--json",
    )
    assert done.code == 0, done.err
    assert done.document["preparation"]["resize"] == 232
    assert done.document["preparation"]["crop"] == 224


def test_settings_beside_the_model_are_none_of_matplotlib_s(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("font.size: 77\n")
    code = "from fxhead.extras import require_extra; require_extra('cam')\n"
    code += "import matplotlib; print(matplotlib.rcParams['font.size'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() != "77.0"


def test_matplotlib_that_is_not_installed_is_named(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = run("cam", "nets:build", "photos")
    assert done.code == 2
    assert "matplotlib is not installed; run pip install 'fxhead[cam]'" in done.err


@pytest.mark.parametrize(("width", "height"), [(60, 40), (40, 60), (33, 100)])
def test_the_box_is_where_the_crop_was(width: int, height: int) -> None:
    """Pixels that say where they are still say it in the crop."""
    image = Image.merge(
        "RGB",
        [
            Image.fromarray(np.broadcast_to(2.0 * np.arange(width)[None], (height, width)).astype(np.uint8)),
            Image.fromarray(
                np.broadcast_to(2.0 * np.arange(height)[:, None], (height, width)).astype(np.uint8)
            ),
            Image.new("L", (width, height)),
        ],
    )
    crop = np.asarray(cropped(image, HOW), np.float64) / 2
    left, top, right, bottom = box_of(width, height, HOW)
    middles = (np.arange(16) + 0.5) / 16
    for axis, low, high in ((0, left, right), (1, top, bottom)):
        said = crop[8, :, 0] if axis == 0 else crop[:, 8, 1]
        np.testing.assert_allclose(said, low + middles * (high - low) - 0.5, atol=0.55)


def test_an_overlay_is_as_bright_as_its_image_and_coloured_by_its_score() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, 20:] = 255
    scores = np.array([[0.0, 0.0], [1.0, 1.0]], np.float32)
    drawn = overlay(image, scores, ColourScale.of(scores)).astype(int)
    (dark_low, light_low), (dark_high, light_high) = drawn[0, [0, -1]], drawn[-1, [0, -1]]
    # viridis goes from violet to yellow
    assert dark_low[2] > dark_low[1]
    assert dark_high[1] > dark_high[2]
    for dark, light in ((dark_low, light_low), (dark_high, light_high)):
        assert (light > dark).all()
    assert drawn.max() < 256
    flat = np.full((2, 2), 3.0, np.float32)
    assert overlay(image, flat, ColourScale.of(flat)).shape == (40, 40, 3)
