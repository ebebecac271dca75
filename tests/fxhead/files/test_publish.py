"""Several files written as one: whole, all or none, whatever fails and whenever the process is killed."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import random
import shutil
import signal
import stat
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fxhead import load_model
from fxhead.cli import main
from fxhead.files import publish as transaction
from fxhead.files.mark import _secret, mark
from fxhead.files.publish import publish, staged
from fxhead.files.settle import settle
from fxpasses.errors import FileError
from hostile import planted, tree

NAMES = ("model.conv.pt", "model.linear.onnx", "model.conv.onnx", "model.certificate.json", "model.plan.json")
POSIX = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a child process")


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
        return tuple(file.path for file in publish(staging, force=force))


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


def test_a_file_that_appeared_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="appeared meanwhile"):
        write_all(tmp_path, "a", "b", racing="b")
    assert entries(tmp_path) == {"b": "theirs"}


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_move_that_fails_brings_the_old_files_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    (tmp_path / "a").write_text("old a")
    (tmp_path / "b").write_text("old b")
    move, moved = transaction._move, []

    def failing(new: Path, target: Path, *, replace: bool) -> None:
        if len(moved) == broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        moved.append(target)
        move(new, target, replace=replace)

    monkeypatch.setattr(transaction, "_move", failing)
    with pytest.raises(FileError, match="Input/output error"):
        write_all(tmp_path, "a", "b", "c", force=True)
    assert entries(tmp_path) == {"a": "old a", "b": "old b"}
    assert len([*tmp_path.iterdir()]) == 2


def test_without_hard_links_it_works_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*arguments: object, **options: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_link)
    (tmp_path / "a").write_text("old")
    write_all(tmp_path, "a", "b", force=True)
    assert entries(tmp_path) == {"a": "new", "b": "new"}


def test_a_link_in_the_place_of_an_output_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("old")
    (tmp_path / "a").symlink_to("precious")
    write_all(tmp_path, "a", force=True)
    assert entries(tmp_path) == {"a": "new", "precious": "old"}


# --- killed ----------------------------------------------------------------------------------------


def _child(job: Callable[[], None]) -> int:
    """Runs ``job`` in a child process; its id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other threads: the child calls nothing that needs them
        child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            job()
        os._exit(0)
    return child


def _write_set(folder: Path, content: str) -> None:
    with staged(folder) as new:
        for name in NAMES:
            (new / name).write_text(content * 1000)
        publish(new, force=True)


def _content(folder: Path) -> set[str | None]:
    """What the outputs hold, each of them whole; one element where they belong together."""
    found = entries(folder)
    contents = [found.get(name) for name in NAMES]
    assert all(text is None or text == text[0] * 1000 for text in contents)
    return {None if text is None else text[0] for text in contents}


@POSIX
@pytest.mark.parametrize("before", [None, "o"], ids=["nothing there", "replacing"])
def test_killed_at_any_call_leaves_the_old_set_or_the_new(
    tmp_path: Path, before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every call that changes the folder, one after the other, not only at random ones."""
    names = ("link", "replace", "rename", "unlink", "mkdir", "fsync", "rmdir", "open")
    originals: dict[str, Any] = {name: getattr(os, name) for name in names}
    point, seen = 0, set()
    while True:
        folder = tmp_path / str(point)
        folder.mkdir()
        if before is not None:
            _write_set(folder, before)

        def job(folder: Path = folder, point: int = point) -> None:
            left = [point]
            for name in names:

                def counted(*arguments: Any, _call: Any = originals[name], **options: Any) -> Any:
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    left[0] -= 1
                    return _call(*arguments, **options)

                setattr(os, name, counted)
            _write_set(folder, "n")

        _, status = os.waitpid(_child(job), 0)
        settle(folder)
        content = _content(folder)
        assert content in ({before}, {"n"}), point
        assert {entry.name for entry in folder.iterdir()} <= {*NAMES, *_young(folder)}
        seen |= content
        if os.WIFEXITED(status):
            break
        point += 1
    assert point > 30
    assert seen == {before, "n"}


def _young(folder: Path) -> set[str]:
    """Folders that were just made and not locked yet, which may belong to a process that is alive."""
    return {path.name for path in folder.glob(".fxhead-*") if not (path / "lock").exists()}


@POSIX
def test_killed_at_50_random_moments_leaves_the_old_set_or_the_new(tmp_path: Path) -> None:
    chance = random.Random(0)
    _write_set(tmp_path, "0")

    def job() -> None:
        for round_ in range(10_000):
            _write_set(tmp_path, str(round_ % 10))

    for _ in range(50):
        child = _child(job)
        time.sleep(0.02 + chance.random() * 0.05)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        settle(tmp_path)
        assert len(_content(tmp_path) - {None}) == 1
        assert None not in _content(tmp_path)
    assert {entry.name for entry in tmp_path.iterdir()} - _young(tmp_path) == {*NAMES}


@POSIX
def test_what_somebody_changed_since_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_set(tmp_path, "o")

    def job() -> None:
        os.replace = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        _write_set(tmp_path, "n")

    os.waitpid(_child(job), 0)
    assert _content(tmp_path) == {"o"}
    (tmp_path / NAMES[0]).write_text("theirs")
    settle(tmp_path)
    found = entries(tmp_path)
    assert found[NAMES[0]] == "theirs"
    assert all(found[name] == "n" * 1000 for name in NAMES[1:])


@POSIX
def test_a_process_that_is_still_at_it_is_left_alone(tmp_path: Path) -> None:
    with staged(tmp_path) as new:
        (new / "a").write_text("new")
        os.waitpid(_child(lambda: settle(tmp_path)), 0)
        assert new.is_dir()
        publish(new, force=False)
    assert entries(tmp_path) == {"a": "new"}


@POSIX
@pytest.mark.parametrize("gap", [0, 3])
def test_a_signal_leaves_old_files_or_new_ones(
    tmp_path: Path, gap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whatever call it comes, and a second one three calls later: nothing is lost, mixed or left."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a disk takes seconds for a thousand of them

    def interrupted(first: int) -> None:
        count = 0

        def stopping(call: Callable[..., Any]) -> Callable[..., Any]:
            def calling(*arguments: Any, **options: Any) -> Any:
                nonlocal count
                count += 1
                if count in (first, first + gap):
                    raise SystemExit(143)
                return call(*arguments, **options)

            return calling

        for owner, names in ((os, ("replace", "rename", "link", "fsync", "unlink")), (shutil, ("rmtree",))):
            for name in names:
                setattr(owner, name, stopping(getattr(owner, name)))
        try:
            _write_set(tmp_path, "n")
        except SystemExit:
            os._exit(3)
        os._exit(4)

    seen, left, first = set(), 0, 0
    status = 3
    while status == 3:
        first += 1
        _write_set(tmp_path, "o")
        status = os.waitstatus_to_exitcode(os.waitpid(_child(functools.partial(interrupted, first)), 0)[1])
        left += any(path.is_dir() for path in tmp_path.iterdir())
        assert gap or len(_content(tmp_path)) == 1, first
        settle(tmp_path)
        seen |= _content(tmp_path)
        assert len(_content(tmp_path)) == 1, first
        assert {entry.name for entry in tmp_path.iterdir()} - _young(tmp_path) == {*NAMES}, first
    assert (status, seen) == (4, {"o", "n"})
    assert first > 25
    assert gap or left <= 2


# --- what lies beside a model is not believed ------------------------------------------------------


def left_over(folder: Path) -> Path:
    """What a run leaves that was killed before its first move: everything is there, nothing in place."""

    def job() -> None:
        os.link = lambda *arguments, **options: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        _write_set(folder, "n")

    mark("manifest", b"")  # whoever marks first makes the secret, by a link
    os.waitpid(_child(job), 0)
    (left,) = folder.glob(".fxhead-done-*")
    return left


@POSIX
@pytest.mark.parametrize("kind", ["old", "well named", "pipe", "link"])
def test_what_somebody_planted_is_left_alone(tmp_path: Path, kind: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    planted(inside, kind)
    before = tree(tmp_path)
    settle(inside)
    assert tree(tmp_path) == before
    write_all(inside, "a")
    assert tree(tmp_path) == before | {"inside/a": "new"}


@POSIX
def test_reading_settles_nothing(tmp_path: Path) -> None:
    left = left_over(tmp_path)
    (tmp_path / "model.pt").write_bytes(b"no model")
    before = tree(tmp_path)
    for command in (["inspect", "model.pt"], ["check", "model.pt", "model.pt"]):
        assert main([*command[:1], *(str(tmp_path / name) for name in command[1:])]) == 2
    with pytest.raises(FileError):
        load_model(tmp_path / "model.pt")
    assert tree(tmp_path) == before
    settle(tmp_path)  # what is left over would have been settled
    assert not left.exists()
    assert _content(tmp_path) == {"n"}


@POSIX
def test_a_copy_of_what_is_left_over_moves_nothing(tmp_path: Path) -> None:
    left = left_over(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(left, elsewhere / left.name)
    settle(elsewhere)
    assert entries(elsewhere) == {}


@POSIX
@pytest.mark.parametrize("swap", ["link", "other content"])
def test_what_was_put_in_the_place_of_a_new_file_is_not_moved(tmp_path: Path, swap: str) -> None:
    left = left_over(tmp_path)
    new = left / "new" / NAMES[0]
    new.unlink()
    if swap == "link":
        new.symlink_to(tmp_path / "anything")
    else:
        new.write_text("evil")
    settle(tmp_path)
    assert NAMES[0] not in entries(tmp_path)
    assert not (tmp_path / NAMES[0]).is_symlink()
    assert (tmp_path / NAMES[1]).read_text() == "n" * 1000


@POSIX
def test_what_another_user_left_over_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_over(tmp_path)
    before = tree(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path.parent / f"{tmp_path.name}-state"))
    settle(tmp_path)
    assert tree(tmp_path) == before


@POSIX
def test_the_secret_is_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    secret = tmp_path / "fxhead" / "secret"
    first = mark("x", b"y")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert os.listdir(secret.parent) == ["secret"]
    _secret.cache_clear()
    assert mark("x", b"y") == first
    for spoil in (
        lambda: secret.chmod(0o644),
        lambda: (secret.rename(tmp_path / "mine"), secret.symlink_to(tmp_path / "mine")),
        lambda: secret.write_bytes(b"short"),
    ):
        before = mark("x", b"y")
        spoil()
        _secret.cache_clear()
        assert mark("x", b"y") != before
        assert secret.is_file()
        assert not secret.is_symlink()
    _secret.cache_clear()


@POSIX
def test_without_a_state_folder_it_works_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    write_all(tmp_path / "out", "a")
    assert entries(tmp_path / "out") == {"a": "new"}
