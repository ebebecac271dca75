from __future__ import annotations

import copy
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fxhead import load_model
from fxhead.loading.load import Loading
from fxhead.loading.load import load as load_source
from fxhead.source import Source
from fxpasses.errors import FileError, FxHeadError, InputError


def load(text: str, **options: Any) -> nn.Module:
    model = load_source(Source.parse(text), Loading(**{"allow": ("nets.Net",), **options})).model
    assert isinstance(model, nn.Module)
    return model


def test_a_file_gives_its_module_in_eval_mode(net: Path) -> None:
    module = load(str(net))
    assert type(module).__name__ == "Net"
    assert not any(part.training for part in module.modules())


def test_the_legacy_format_is_read_too(folder: Path) -> None:
    torch.save(nn.Linear(2, 3), folder / "old.pt", _use_new_zipfile_serialization=False)
    assert isinstance(load("old.pt"), nn.Linear)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists a process's maps")
def test_weights_are_mapped_not_read(net: Path) -> None:
    module = load(str(net))
    assert str(net.resolve()) in Path("/proc/self/maps").read_text()
    assert module is not None  # it keeps the map


@pytest.mark.parametrize("name", ["build", "Net"])
def test_a_callable_or_class_is_called(folder: Path, name: str) -> None:
    assert type(load(f"nets:{name}")).__name__ == "Net"


def test_the_same_seed_gives_the_same_fresh_weights(folder: Path) -> None:
    first, again, other = load("nets:build"), load("nets:build"), load("nets:build", seed=1)
    assert torch.equal(first.fc.weight, again.fc.weight)  # type: ignore[arg-type,union-attr]
    assert not torch.equal(first.fc.weight, other.fc.weight)  # type: ignore[arg-type,union-attr]


def test_weights_may_be_a_state_dict_file(folder: Path) -> None:
    state = load("nets:build", seed=7).state_dict()
    torch.save(state, folder / "state.pt")
    loaded = load("nets:build", weights="state.pt").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def write(folder: Path, name: str, content: object) -> None:
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "folder":
        path.mkdir()
    elif content is not None:
        torch.save(content, path)


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        (None, FileError, "no such file"),
        (b"", FileError, "is empty"),
        (b"\x00\x01garbage" * 50, FileError, "not a file that torch.save wrote"),
        (b"PK\x03\x04 but no zip", FileError, "not a file that torch.save wrote"),
        (pickle.dumps({"a": 1}), FileError, "a pickle, but not a file that torch.save wrote"),
        ("folder", FileError, "is a folder"),
        ({"fc.weight": torch.zeros(2)}, InputError, "state dict.*--arch"),
        ({"epoch": 3, "model": {}}, InputError, "training checkpoint.*--arch"),
        ([1, 2], FileError, "pickled object"),
        (torch.zeros(3), FileError, "pickled object"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str | type) else None,
)
def test_what_is_no_module_is_refused(
    folder: Path, content: object, error: type[FxHeadError], says: str
) -> None:
    write(folder, "model.pt", content)
    with pytest.raises(error, match=says) as caught:
        load("model.pt")
    assert caught.value.fix
    assert "model.pt" in str(caught.value)


@pytest.mark.filterwarnings("ignore:--trust")
@pytest.mark.parametrize("is_trusted", [False, True])
@pytest.mark.parametrize("kept", ["alone", "in parallel", "in a checkpoint", "in parallel, in a checkpoint"])
def test_a_module_is_found_in_what_holds_it(folder: Path, kept: str, is_trusted: bool) -> None:
    model: nn.Module = nn.Linear(2, 2)
    held: object = nn.DataParallel(model) if "parallel" in kept else model
    torch.save({"model": held, "epoch": 3} if "checkpoint" in kept else held, folder / "model.pt")
    found = load("model.pt", trust=is_trusted)
    assert type(found) is nn.Linear
    assert torch.equal(found.weight, model.weight)


def test_what_is_computed_while_a_model_is_built_can_be_copied(folder: Path) -> None:
    lines = ("import torch", "from torch import nn", "class Halved(nn.Linear):")
    body = (
        "    def __init__(self):",
        "        super().__init__(2, 2)",
        "        self.half = self.weight / 2",
    )
    (folder / "halved.py").write_text("\n".join((*lines, *body)))
    found = load("halved:Halved")
    assert torch.equal(copy.deepcopy(found).half, found.weight / 2)


def test_a_class_of_a_script_cannot_be_allowed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nets := sys.modules["__main__"], "Net", type("Net", (nn.Linear,), {}), raising=False)
    monkeypatch.setattr(nets.Net, "__module__", "__main__")
    torch.save(nets.Net(2, 2), folder / "model.pt")
    with pytest.raises(FileError, match=r"needs __main__\.Net; save model\.state_dict\(\)"):
        load("model.pt")


def test_a_list_is_no_model_whatever_builds_one(folder: Path) -> None:
    torch.save([nn.Linear(2, 2).state_dict(), 3], folder / "model.pt")
    with pytest.raises(FileError, match=r"is a pickled object, not a module; .*or its state dict"):
        load("model.pt", arch="torchvision:resnet18")


def test_a_truncated_file_is_refused(net: Path) -> None:
    whole = net.read_bytes()
    net.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileError, match="damaged"):
        load(str(net))


def test_a_class_that_is_gone_is_named(net: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "nets.py").write_text("# renamed\n")
    monkeypatch.delitem(sys.modules, "nets")
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    with pytest.raises(InputError, match=r"nets.Net cannot be imported"):
        load(str(net))
    with (
        pytest.raises(FileError, match=r"Net.*importable module"),
        pytest.warns(UserWarning, match="--trust"),
    ):
        load(str(net), trust=True)


def test_a_module_that_is_gone_is_named(
    net: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = net.resolve()
    monkeypatch.delitem(sys.modules, "nets")
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry != str(folder)])
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(InputError, match=r"nets.Net cannot be imported .*No module named 'nets'"):
        load(str(path))
    with pytest.raises(FileError, match="'nets', which"), pytest.warns(UserWarning, match="--trust"):
        load(str(path), trust=True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("torchvision:resnet81", "did you mean 'resnet18'"),
        ("torchvision:", "no model ''"),
        ("nonesuch_package:build", "ModuleNotFoundError"),
        ("nets:biuld", "did you mean 'build'"),
        ("nets:number", "class int"),
        ("nets:broken_build", "RuntimeError: no such luck"),
    ],
)
def test_an_unknown_or_unfit_name_is_refused(folder: Path, text: str, says: str) -> None:
    with pytest.raises(InputError, match=says.replace("(", r"\(")):
        load(text)


def test_an_unknown_name_of_weights_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'IMAGENET1K_V1'"):
        load("torchvision:resnet18", weights="IMAGENET1K_V9")


def test_weights_of_another_model_are_refused(net: Path, folder: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), folder / "state.pt")
    with pytest.raises(FileError, match="cannot be loaded into the model"):
        load("nets:build", weights="state.pt")


def test_weights_for_a_file_that_has_its_own_are_refused(net: Path) -> None:
    with pytest.raises(InputError, match="brings its own weights"):
        load(str(net), weights="DEFAULT")


def test_an_exported_program_and_torchscript_are_told_apart(folder: Path) -> None:
    (folder / "model.pt2").write_bytes(b"PK\x03\x04")
    with pytest.raises(FileError, match=r"torch\.export\.save wrote, or is damaged"):
        load("model.pt2")


def test_fresh_models_download_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*arguments: object, **options: object) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    assert type(load("torchvision:lraspp_mobilenet_v3_large")).__name__ == "LRASPP"


@pytest.mark.skipif(sys.platform != "linux", reason="names are text elsewhere")
def test_a_name_that_torch_cannot_open_is_not_a_fault_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.pt")
    torch.save(nn.Linear(3, 2), tmp_path / "good.pt")
    (tmp_path / "good.pt").rename(path)
    assert isinstance(load_model(path), nn.Linear)  # by what is held open, whatever it is called
    with (
        pytest.warns(UserWarning, match="--trust"),
        pytest.raises(FileError, match=r"has a name that is no UTF-8.*rename it"),
    ):
        load_model(path, trust=True)
