"""``fxhead cam`` shows the model's own numbers, of the head that was chosen and at the size that it takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

Run = Callable[..., Any]

HEADS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, give, size=(12, 12)):
        super().__init__()
        torch.manual_seed(0)
        self.give, self.image_size = give, size[0] if size[0] == size[1] else None
        self.conv, self.old, self.new = nn.Conv2d(3, 8, 3), nn.Linear(8, 3), nn.Linear(8, 4)
        self.prior, self.heat = nn.Parameter(torch.randn(4)), nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        f = self.conv(x).relu().mean((2, 3))
        return self.give(self, self.old(f), self.new(f))

class Viewed(Net):
    def forward(self, x):
        f = nn.functional.adaptive_avg_pool2d(self.conv(x).relu(), 1)
        return self.new(f.view(f.size(0), -1))

class Turned(Net):
    def forward(self, x):
        return (super().forward(x) + super().forward(x.flip(3))) / 2

class PoolsLast(Net):
    def forward(self, x):
        return nn.functional.adaptive_avg_pool2d(self.conv(x).relu(), 1).flatten(1)

pools_last = lambda: PoolsLast(None).eval()
class Wide(Net):
    def forward(self, x):
        return self.new(nn.functional.avg_pool2d(self.conv(x).relu(), (10, 28)).flatten(1))

wide = lambda: Wide(None, (12, 30)).eval()
viewed = lambda: Viewed(None).eval()
turned = lambda: Turned(OUTPUTS["plain"]).eval()

OUTPUTS = {
    "both": lambda m, old, new: {"probabilities": new.softmax(1), "logits": new},
    "plain": lambda m, old, new: new,
    "prior": lambda m, old, new: new + m.prior,
    "heated": lambda m, old, new: (new / m.heat * 30).softmax(1),
    "joined": lambda m, old, new: torch.cat([old, new - m.prior], 1),
    "two": lambda m, old, new: (old, new),
    "named": lambda m, old, new: {"age": old, "more": {"kind": new.sigmoid()}},
    "stacked": lambda m, old, new: torch.stack([new, new * m.prior], 1),
    "mean": lambda m, old, new: (new + new.detach() * 3) / 4,
    "clamped": lambda m, old, new: new.clamp(-1, 1),
    "squeezed": lambda m, old, new: new.sigmoid().unsqueeze(1).squeeze(1),
    "ensemble": lambda m, old, new: torch.stack([new, new * 2]).mean(0),
    "centred": lambda m, old, new: new - new.mean(1, keepdim=True),
}

def __getattr__(name):
    if name not in OUTPUTS:
        raise AttributeError(name)
    return lambda: Net(OUTPUTS[name]).eval()
"""
OPTIONS = ("--size", "12,12", "--mean", "0", "--std", "1", "--top", "20", "--force")
BEFORE_SHARES = {"heated": torch.log, "named": torch.logit, "squeezed": torch.logit}


@pytest.fixture
def image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (folder / "heads.py").write_text(HEADS)
    monkeypatch.delitem(__import__("sys").modules, "heads", raising=False)
    monkeypatch.syspath_prepend(str(folder))
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("image.png")
    return Path("image.png")


def given(name: str) -> Any:
    pixels = np.asarray(Image.open("image.png"), np.float32).transpose(2, 0, 1)[None] / 255
    with torch.no_grad():
        return getattr(__import__("heads"), name)()(torch.from_numpy(pixels))


@pytest.mark.parametrize(
    ("name", "head", "is_called", "own"),
    [
        ("prior", None, "new", lambda out: out),
        ("viewed", None, "new", lambda out: out),
        ("both", None, "logits", lambda out: out["logits"]),
        ("heated", None, "new", lambda out: out),
        ("joined", None, "old+new", lambda out: out),
        ("two", "1", "new", lambda out: out[1]),
        ("two", "old", "old", lambda out: out[0]),
        ("named", "more.kind", "more.kind", lambda out: out["more"]["kind"]),
        ("stacked", "1", "new#2", lambda out: out[:, 1]),
        ("mean", None, "new", lambda out: out),
        ("squeezed", None, "new", lambda out: out),
    ],
)
def test_logits_are_the_models_own_and_the_mean_of_the_map(
    run: Run, image: Path, name: str, head: str | None, is_called: str, own: Callable[[Any], torch.Tensor]
) -> None:
    done = run("cam", f"heads:{name}", "image.png", "--json", *OPTIONS, *(["--head", head] if head else []))
    assert done.code == 0, done.err
    assert done.document["head"] == is_called
    found = np.load("fxhead-cam/maps.npz")
    expected = own(given(name))
    logits = found["logits"]
    if name == "heated":
        np.testing.assert_allclose(torch.from_numpy(logits).softmax(1), expected, rtol=1e-4)
    else:
        expected = BEFORE_SHARES.get(name, lambda x: x)(expected)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    order = found["classes"][0]
    assert [*logits[0][order]] == sorted(logits[0], reverse=True)
    np.testing.assert_allclose(found["maps"][0].mean((1, 2)), logits[0][order], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        ("heads:two", (), "the model has 2 heads: 0 (old), 1 (new); choose one with --head"),
        ("heads:two", ("--head", "gone"), "there is no head 'gone'; the model has 0 (old), 1 (new)"),
        ("heads:named", (), "0 (age), 1 (more.kind)"),
        ("heads:clamped", (), "'clamp' stands between the average and the output"),
        ("heads:ensemble", (), "'mean_1' stands between the average and the output"),
        ("heads:centred", (), "'mean_1' stands between the average and the output"),
        ("heads:turned", (), "its places are others than the image's"),
    ],
)
def test_what_is_no_choice_of_a_head_is_refused(
    run: Run, image: Path, source: str, options: tuple[str, ...], says: str
) -> None:
    done = run("cam", source, "image.png", *OPTIONS, *options)
    assert (done.code, done.out) == (2, "")
    assert says in done.err


def test_a_pool_that_comes_last_averages_the_map(run: Run, image: Path) -> None:
    """As SqueezeNet's, behind an activation: nothing has to be moved."""
    done = run("cam", "heads:pools_last", "image.png", *OPTIONS)
    assert done.code == 0, done.err
    found = np.load("fxhead-cam/maps.npz")
    np.testing.assert_allclose(found["logits"], given("pools_last"), rtol=1e-5)
    order = found["classes"][0]
    np.testing.assert_allclose(found["maps"][0].mean((1, 2)), found["logits"][0][order], rtol=1e-5)
    assert found["maps"].min() == 0


def test_inspect_lists_the_heads(run: Run, image: Path) -> None:
    done = run("inspect", "heads:named", "--input-shape", "1x3x12x12", "--json")
    heads = [{"name": "age", "sites": ["old"]}, {"name": "more.kind", "sites": ["new"]}]
    assert done.document["heads"] == heads
    assert "heads: 0 age, 1 more.kind" in run("inspect", "heads:named", "--input-shape", "1x3x12x12").out


@pytest.mark.parametrize(
    "options", [("--size", "12x30"), ("--size", "12,30"), ("--input-shape", "1x3x12x30")], ids=str
)
def test_images_need_not_be_square(run: Run, image: Path, options: tuple[str, ...]) -> None:
    done = run("cam", "heads:prior", "image.png", "--mean", "0", "--std", "1", "--json", *options)
    assert done.code == 0, done.err
    assert done.document["preparation"] | {"mean": 0, "std": 0, "is_bgr": 0, "is_truncated": 0} == {
        "resize": 0, "crop": [12, 30], "mean": 0, "std": 0, "interpolation": "bilinear",
        "is_bgr": 0, "is_truncated": 0,
    }  # fmt: skip
    found = np.load("fxhead-cam/maps.npz")
    assert found["maps"].shape[-2:] == (10, 28)
    np.testing.assert_array_equal(found["boxes"], [[0, 0, 12, 12]])


@pytest.mark.parametrize("size", ["12,30", "12x30"])
def test_the_size_is_the_input_s_where_nothing_else_says_it(run: Run, image: Path, size: str) -> None:
    done = run("cam", "heads:wide", "image.png", "--json", "--size", size)
    assert done.code == 0, done.err
    assert done.document["model"]["input_shapes"] == [[1, 3, 12, 30]]
    done = run("check", "heads:wide", "heads:wide", "--inputs", "image.png", "--json", "--size", size)
    assert done.code == 0, done.err
    done = run("cam", "heads:wide", "image.png", "--size", "30,12", "--force")
    assert done.code == 2
    assert "--input-shape" in done.err


def test_a_fixed_file_that_is_not_square_says_its_own_size(run: Run, image: Path) -> None:
    module = __import__("heads").plain()
    torch.onnx.export(module, (torch.zeros(1, 3, 30, 12),), "m.onnx", dynamo=True, verbose=False)
    for options in ((), ("--size", "30,12"), ("--size", "30x12"), ("--input-shape", "1x3x30x12")):
        done = run("cam", "m.onnx", "image.png", "--json", "--force", *options)
        assert done.code == 0, done.err
        how = done.document["preparation"]
        assert (how["resize"], how["crop"]) == (0, [30, 12])
        assert np.load("fxhead-cam/maps.npz")["maps"].shape[-2:] == (28, 10)
    done = run("cam", "m.onnx", "image.png", "--force", "--size", "12,30")
    assert done.code == 2, done.out
    assert "30x12" in done.err, done.err


def test_a_number_for_each_class_is_a_part_of_a_files_map(run: Run, image: Path) -> None:
    assert run("rewrite", "heads:prior", "--input-shape", "1x3x12x12", "--to", "conv", "-o", "m.pt").code == 0
    done = run("cam", "m.conv.onnx", "image.png", *OPTIONS)
    assert done.code == 0, done.err
    found = np.load("fxhead-cam/maps.npz")["maps"]
    assert run("cam", "heads:prior", "image.png", *OPTIONS).code == 0
    np.testing.assert_allclose(found, np.load("fxhead-cam/maps.npz")["maps"], rtol=1e-4, atol=1e-5)


PATCHES = """
import torch
from torch import nn

class Patches(nn.Module):
    \"\"\"Tokens of patches and their mean, as of transformers' Swin.\"\"\"

    def __init__(self, order=lambda tokens: tokens):
        super().__init__()
        torch.manual_seed(0)
        self.cut, self.norm, self.fc = nn.Conv2d(3, 16, 4, 4), nn.LayerNorm(16), nn.Linear(16, 5)
        self.pool, self.order = nn.AdaptiveAvgPool1d(1), order

    def tokens(self, x):
        return self.norm(self.order(self.cut(x).flatten(2).transpose(1, 2)))

    def forward(self, x):
        return self.fc(self.pool(self.tokens(x).transpose(1, 2)).flatten(1))

rows = lambda: Patches().eval()
columns = lambda: Patches(lambda t: t.unflatten(1, (6, 4)).transpose(1, 2).flatten(1, 2)).eval()
with_class = lambda: Patches(lambda t: torch.cat([t[:, :1], t], 1)).eval()
"""


def test_tokens_of_patches_are_the_rows_of_a_map(run: Run, folder: Path) -> None:
    Path("patches.py").write_text(PATCHES)
    pixels = np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("image.png")
    shape, options = ("--input-shape", "1x3x24x16"), ("--mean", "0", "--std", "1", "--top", "5", "--force")
    done = run("rewrite", "patches:rows", "--to", "conv", "--require", "proved", *shape)
    assert done.code == 0, done.err
    model = torch.load("rows.conv.pt", weights_only=False)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        features = model.norm(model.cut(x).flatten(2).transpose(1, 2))
        wanted = (features @ model.fc.weight.flatten(1).T + model.fc.bias).unflatten(1, (6, 4))
    for source in ("patches:rows", "rows.linear.onnx"):
        done = run("cam", source, "image.png", *options, *([] if "onnx" in source else shape))
        assert done.code == 0, done.err
        with np.load("fxhead-cam/maps.npz") as arrays:
            order = arrays["classes"][0]
            np.testing.assert_allclose(arrays["maps"][0], wanted[0].permute(2, 0, 1)[order], atol=1e-5)
    for name, says in (
        ("columns", "its places are others"),
        ("with_class", "not classes by rows of an image"),
    ):
        done = run("cam", f"patches:{name}", "image.png", *options, *shape)
        assert (done.code, says in done.err) == (2, True), done.err


RECORDS = """
import dataclasses, typing, torch
from torch import nn

class Named(typing.NamedTuple):
    logits: torch.Tensor
    features: torch.Tensor

@dataclasses.dataclass
class Record:
    age: object
    kind: torch.Tensor

class Net(nn.Module):
    def __init__(self, give):
        super().__init__()
        torch.manual_seed(0)
        self.give, self.conv = give, nn.Conv2d(3, 8, 3)
        self.old, self.new = nn.Linear(8, 3), nn.Linear(8, 4)

    def forward(self, x):
        f = self.conv(x).relu().mean((2, 3))
        return self.give(self, f)

named = lambda: Net(lambda m, f: Named(m.new(f), f)).eval()
record = lambda: Net(lambda m, f: Record(age=Named(m.old(f), f), kind=m.new(f))).eval()
"""


def test_heads_of_named_tuples_and_dataclasses_are_found_by_their_fields(run: Run, folder: Path) -> None:
    Path("records.py").write_text(RECORDS)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)).save("image.png")
    shape = ("--input-shape", "1x3x12x12")
    assert run("cam", "records:named", "image.png", *OPTIONS, *shape, "--json").document["head"] == "logits"
    done = run("cam", "records:record", "image.png", *OPTIONS, *shape)
    assert (done.code, "2 heads: 0 (age.logits), 1 (kind)" in done.err) == (2, True), done.err
    done = run("cam", "records:record", "image.png", *OPTIONS, *shape, "--head", "age.logits")
    assert done.code == 0, done.err
    done = run("rewrite", "records:record", "--to", "conv", *shape)
    assert (done.code, "torch.export.register_dataclass, or return a dict" in done.err) == (2, True), done.err
