"""Weights without an architecture: found, unwrapped, fitted, loaded strictly."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from fxhead import load_model
from fxpasses.errors import FileError, InputError

Run = Callable[..., Any]
ARCH = "torchvision:squeezenet1_1"


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(3)
    return torchvision.models.mobilenet_v3_small(num_classes=7).eval()


NAME = "torchvision:mobilenet_v3_small"


def _same(loaded: object, trained: nn.Module) -> None:
    assert isinstance(loaded, nn.Module)
    found, wanted = loaded.state_dict(), trained.state_dict()
    assert list(found) == list(wanted)
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def _prefixed(module: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("key", [None, "model", "state_dict", "model_state_dict", "net", "my_own_key"])
def test_a_state_dict_is_found_wherever_it_is(
    prefix: str, key: str | None, trained: nn.Module, tmp_path: Path
) -> None:
    state = _prefixed(trained, prefix)
    torch.save(state if key is None else {key: state, "epoch": 3, "best": 0.7}, tmp_path / "weights.pth")
    _same(load_model(tmp_path / "weights.pth", arch=NAME), trained)


def test_a_model_that_asks_for_the_version_of_its_weights_gets_them(tmp_path: Path) -> None:
    model = torchvision.models.mnasnet0_5(num_classes=7).eval()
    torch.save(_prefixed(model, "module."), tmp_path / "weights.pth")
    _same(load_model(tmp_path / "weights.pth", arch="torchvision:mnasnet0_5"), model)


@pytest.mark.parametrize("key", ["model", "ema"])
def test_a_whole_model_in_a_checkpoint_is_taken_or_its_weights_alone(
    key: str, net: Path, folder: Path
) -> None:
    torch.manual_seed(1)
    model = __import__("nets").Net().eval()
    torch.save({"model": None, key: model, "epoch": 3}, "best.pt")
    with pytest.raises(FileError, match=r"give --allow nets\.Net"):
        load_model("best.pt")
    _same(load_model("best.pt", allow=["nets.Net"]), model)
    # no class of the file is needed for its weights
    twin = "import nets\n\n\nclass Twin(nets.Net):\n    pass\n"
    (folder / "twins.py").write_text(twin)
    _same(load_model("best.pt", arch="twins:Twin", ema=key == "ema"), model)


def test_what_torch_s_own_wrappers_save_is_read(trained: nn.Module, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.11's own, of what importing its compiler does
        compiled = torch.compile(trained)
    for wrapped in (nn.DataParallel(trained), compiled, AveragedModel(trained)):
        torch.save(wrapped.state_dict(), tmp_path / "weights.pth")
        _same(load_model(tmp_path / "weights.pth", arch=NAME), trained)


def test_the_number_of_classes_is_the_file_s(trained: nn.Module, tmp_path: Path) -> None:
    save_file(trained.state_dict(), tmp_path / "weights.safetensors")
    loaded = load_model(tmp_path / "weights.safetensors", arch=NAME)
    _same(loaded, trained)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded(x), trained(x))  # type: ignore[operator]


def test_averaged_weights_are_taken_only_when_asked_for(trained: nn.Module, tmp_path: Path) -> None:
    average = AveragedModel(trained)
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.add_(1)
    checkpoint = {"model": trained.state_dict(), "model_ema": average.state_dict(), "epoch": 1}
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    with pytest.warns(UserWarning, match="averaged weights, too"):
        _same(load_model(tmp_path / "checkpoint.pth", arch=NAME), trained)
    _same(load_model(tmp_path / "checkpoint.pth", arch=NAME, ema=True), average.module)
    torch.save({"model": trained.state_dict()}, tmp_path / "plain.pth")
    with pytest.raises(FileError, match="without averaged weights"):
        load_model(tmp_path / "plain.pth", arch=NAME, ema=True)


def test_a_prefix_of_one_s_own_is_suggested_and_taken(trained: nn.Module, tmp_path: Path) -> None:
    """As Lightning writes it: the module's attribute before every name, and the loss's weights beside."""
    state = {**_prefixed(trained, "backbone.net."), "loss.weight": torch.ones(7)}
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.5"}, tmp_path / "epoch=1.ckpt")
    with pytest.raises(FileError, match=r"give --prefix backbone\.net\."):
        load_model(tmp_path / "epoch=1.ckpt", arch=NAME)
    _same(load_model(tmp_path / "epoch=1.ckpt", arch=NAME, prefix="backbone.net."), trained)
    with pytest.raises(InputError, match="starts with 'other'"):
        load_model(tmp_path / "epoch=1.ckpt", arch=NAME, prefix="other")


def test_foreign_objects_beside_the_weights_are_never_made(trained: nn.Module, tmp_path: Path) -> None:
    """Torchvision's training scripts save their argparse.Namespace; the weights need it not."""
    import argparse

    checkpoint = {
        "model": trained.state_dict(),
        "args": argparse.Namespace(lr=0.1),
        "optimizer": {"state": {}},
    }
    torch.save(checkpoint, tmp_path / "model_3.pth")
    _same(load_model(tmp_path / "model_3.pth", arch=NAME), trained)


@pytest.mark.parametrize("damage", ["missing", "unknown", "shape"])
def test_keys_are_checked_strictly(damage: str, trained: nn.Module, tmp_path: Path) -> None:
    state = dict(trained.state_dict())
    if damage == "missing":
        del state["classifier.0.weight"]
    elif damage == "unknown":
        state["classifier.9.weight"] = torch.zeros(2)
    else:
        state["classifier.0.weight"] = torch.zeros(1024, 577)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(FileError, match=r"classifier\.(0|9)\.weight") as caught:
        load_model(tmp_path / "weights.pth", arch=NAME)
    assert caught.value.fix


def test_weights_of_the_other_form_say_so(trained: nn.Module, tmp_path: Path) -> None:
    state = dict(trained.state_dict())
    state["classifier.3.weight"] = state["classifier.3.weight"][:, :, None, None]
    torch.save(state, tmp_path / "conv.pth")
    with pytest.raises(FileError, match="other form"):
        load_model(tmp_path / "conv.pth", arch=NAME)


def test_an_architecture_of_one_s_own_takes_num_classes(folder: Path) -> None:
    Path("mine.py").write_text(
        "from torch import nn\n"
        "def build(num_classes=10):\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))\n"
        "def fixed():\n"
        "    return build()\n"
    )
    layers = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    torch.save(layers.state_dict(), "weights.pth")
    _same(load_model("weights.pth", arch="mine:build"), layers)
    with pytest.raises(FileError, match=r"2\.weight is 4x3 and should be 10x3"):
        load_model("weights.pth", arch="mine:fixed")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("weights.pth",), "--arch torchvision:NAME"),
        (("weights.pth", "--arch", "model.pt"), "builds no model"),
        (("weights.pth", "--arch", "torchvision:resnet81"), "did you mean 'resnet18'"),
        (("module.pt", "--arch", ARCH), "brings its own architecture"),
        (("torchvision:resnet18", "--arch", ARCH), "files of weights"),
        (("weights.pth", "--arch", ARCH, "--ema"), "one set of weights"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused(
    run: Run, folder: Path, arguments: tuple[str, ...], says: str
) -> None:
    torch.save(nn.Linear(2, 3).state_dict(), "weights.pth")
    torch.save(nn.Linear(2, 3), "module.pt")
    done = run("inspect", *arguments)
    assert done.code == 2
    assert says in done.err


def test_from_a_checkpoint_to_the_other_form(run: Run, folder: Path, trained: nn.Module) -> None:
    torch.save({"model": _prefixed(trained, "module."), "epoch": 3}, "checkpoint.pth")
    done = run("rewrite", "checkpoint.pth", "--arch", NAME, "--to", "conv", "--no-onnx")
    assert done.code == 0, done.err
    back = run("rewrite", "checkpoint.conv.pt", "--to", "linear", "--no-onnx", "-o", "back.pt")
    assert back.code == 0, back.err
    _same(load_model("back.pt"), trained)
