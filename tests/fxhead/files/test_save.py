from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from fxhead.files.save import OutputNames, require_free, save_module
from fxhead.source import Source
from fxpasses.errors import FileError, InputError
from fxpasses.report import Form


def names(source: str, to: Form = Form.CONV, out: str | None = None) -> OutputNames:
    return OutputNames.choose(Source.parse(source), to, out)


def test_names_stand_next_to_the_input() -> None:
    chosen = names("a/model.pt")
    assert chosen.folder == Path("a")
    assert chosen.all(with_onnx=True) == (
        "model.conv.pt",
        "model.linear.onnx",
        "model.conv.onnx",
        "model.conv.certificate.json",
        "model.conv.plan.json",
    )
    assert chosen.all(with_onnx=False) == ("model.conv.pt", "model.conv.plan.json")


@pytest.mark.parametrize(
    ("out", "folder", "module", "onnx"),
    [
        ("b/head.pt", "b", "head.pt", "head.linear.onnx"),
        ("b/head.conv.pt", "b", "head.conv.pt", "head.linear.onnx"),
        ("b/head.pt2", "b", "head.pt2", "head.linear.onnx"),
        ("b/", "b", "model.conv.pt", "model.linear.onnx"),
        ("b.v1", "b.v1", "model.conv.pt", "model.linear.onnx"),
        ("b.pt/", "b.pt", "model.conv.pt", "model.linear.onnx"),
    ],
)
def test_out_names_the_module_file_or_a_folder(out: str, folder: str, module: str, onnx: str) -> None:
    chosen = names("a/model.pt", out=out)
    assert (chosen.folder, chosen.module, chosen.onnx[Form.LINEAR]) == (Path(folder), module, onnx)


def test_out_of_another_kind_is_refused() -> None:
    with pytest.raises(InputError, match="neither"):
        names("model.pt", out="head.onnx")


def free(chosen: OutputNames, *inputs: str, force: bool = False) -> None:
    require_free(chosen, map(Path, inputs), with_onnx=True, force=force)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_file_is_not_replaced(folder: Path, force: bool) -> None:
    """As root, ``-o /dev/null --force`` made that a file, for every program of the machine."""
    os.mkfifo("model.conv.onnx")
    with pytest.raises(FileError, match=r"model\.conv\.onnx: is a pipe or a device"):
        free(names("model.pt"), force=force)


def test_an_existing_output_is_refused_unless_forced(folder: Path) -> None:
    Path("model.conv.onnx").touch()
    with pytest.raises(FileError, match=r"exists already; give --force"):
        free(names("model.pt"))
    free(names("model.pt"), force=True)


def test_the_input_is_never_an_output(folder: Path) -> None:
    Path("model.pt").touch()
    Path("link.pt").symlink_to("model.pt")
    for out in ("model.pt", "./model.pt", "link.pt"):
        with pytest.raises(FileError, match="overwrite the input"):
            free(names("model.pt", out=out), "model.pt", force=True)


def test_a_file_in_the_place_of_the_folder_is_refused(folder: Path) -> None:
    Path("taken").touch()
    with pytest.raises(FileError, match="is not a folder"):
        free(names("model.pt", out="taken/deeper/head.pt"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(folder: Path) -> None:
    Path("closed").mkdir(mode=0o500)
    with pytest.raises(FileError, match="cannot be written to"):
        free(names("model.pt", out="closed/head.pt"))


def test_the_same_module_gives_the_same_bytes_in_any_process(tmp_path: Path) -> None:
    """Sets of names have another order in each process, as in this one if they are filled otherwise."""
    names, written = [f"kept{number}" for number in range(40)], []
    orders = [set(names), set(reversed(names))]
    assert [*orders[0]] != [*orders[1]]
    for order in orders:
        module = nn.Module()
        for name in names:
            module.register_buffer(name, torch.zeros(1), persistent=False)
        module._non_persistent_buffers_set = order
        save_module(module, tmp_path / "m.pt")
        written.append((tmp_path / "m.pt").read_bytes())
        assert module._non_persistent_buffers_set is order
    assert written[0] == written[1]
    loaded = torch.load(tmp_path / "m.pt", weights_only=False)
    assert type(loaded._non_persistent_buffers_set) is set
    assert loaded._non_persistent_buffers_set == set(names)


def test_the_same_module_gives_the_same_bytes_under_any_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Linear(3, 4)
    save_module(module, tmp_path / "one.pt")
    save_module(module, tmp_path / "another.pt")
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "another.pt").read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no device that is always full")
@pytest.mark.parametrize("outputs", [3, 30_000], ids=["small", "large"])
def test_a_full_disk_is_not_a_fault_of_the_module(outputs: int) -> None:
    with pytest.raises(OSError, match="No space left"):
        save_module(nn.Linear(3, outputs), Path("/dev/full"))


def test_what_cannot_be_pickled_says_so(tmp_path: Path) -> None:
    class Local(nn.Module):
        pass

    for module in (Local(), weight_norm(nn.Linear(3, 2))):
        with pytest.raises(InputError, match="cannot be pickled") as caught:
            save_module(module, tmp_path / "model.pt")
        assert ".pt2" in caught.value.fix
        assert "\n" not in str(caught.value)
