from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from fxhead.save import OutputNames, publish, require_free, save_module, staged
from fxhead.sources import Source
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


def entries(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in folder.iterdir() if p.is_file()}


def write_all(
    folder: Path, *names: str, force: bool = False, then: BaseException | None = None, racing: str = ""
) -> tuple[Path, ...]:
    """Stages and publishes files; ``then`` is raised before that, ``racing`` appears in between."""
    with staged(folder) as staging:
        for name in names:
            (staging / name).write_text("new")
        if then is not None:
            raise then
        if racing:
            (folder / racing).write_text("theirs")
        return publish(staging, force=force)


def test_all_files_appear_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "new" / "deep"
    assert write_all(target, "a", "b") == (target / "a", target / "b")
    assert entries(target) == {"a": "new", "b": "new"}
    assert [path.name for path in target.iterdir() if path.is_dir()] == []


def test_forced_files_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    write_all(tmp_path, "a", force=True)
    assert entries(tmp_path) == {"a": "new"}


def test_nothing_is_left_of_a_run_that_stops(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_all(tmp_path / "new" / "deep", "a", then=KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []


def test_no_space_is_an_error_with_a_fix(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"No space left.*make room"):
        write_all(tmp_path, "a", then=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert entries(tmp_path) == {}


def test_a_rename_that_fails_brings_the_old_files_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("old a")
    (tmp_path / "b").write_text("old b")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "c":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(FileError, match="Input/output error"):
        write_all(tmp_path, "a", "b", "c", force=True)
    assert entries(tmp_path) == {"a": "old a", "b": "old b"}


def test_a_file_that_appeared_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="appeared meanwhile"):
        write_all(tmp_path, "a", "b", racing="b")
    assert entries(tmp_path) == {"b": "theirs"}


def test_the_same_module_gives_the_same_bytes_under_any_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Linear(3, 4)
    save_module(module, tmp_path / "one.pt")
    save_module(module, tmp_path / "another.pt")
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "another.pt").read_bytes()


def test_what_cannot_be_pickled_says_so(tmp_path: Path) -> None:
    class Local(nn.Module):
        pass

    with pytest.raises(InputError, match="cannot be pickled"):
        save_module(Local(), tmp_path / "model.pt")
