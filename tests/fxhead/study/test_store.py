"""The folder of a study."""

from __future__ import annotations

from pathlib import Path

import pytest

from fxhead.study.store import SETTINGS, StudyStore
from fxpasses.errors import FileError, InputError

ASKED = {"training": {"epochs": 3, "momentum": None}, "seed": 0}


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    made = StudyStore(folder=tmp_path / "new" / "study")
    made.open(ASKED)
    return made


def test_a_finished_run_is_read_as_it_was_written(store: StudyStore) -> None:
    assert not store.has("runs/a")
    store.write("runs/a", {"loss": [0.1, 1 / 3]})
    assert store.has("runs/a")
    assert store.read("runs/a").value == {"loss": [0.1, 1 / 3]}
    assert [path.name for path in (store.folder / "runs").iterdir()] == ["a.json"]


def test_the_same_settings_go_on_and_others_are_refused(store: StudyStore) -> None:
    other = ASKED | {"training": {"epochs": 4, "momentum": 0.9}}
    store.open(other)  # nothing is finished yet, so nothing is mixed
    store.open(ASKED)
    store.write("runs/a", {})
    store.open(ASKED)
    with pytest.raises(InputError, match=r"training.epochs 3, not 4, and 1 more.*name another folder"):
        store.open(other)
    assert store.read("runs/a").value == {}


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(FileError, match="is not the folder of a study"):
        StudyStore(folder=tmp_path).open(ASKED)
    with pytest.raises(FileError, match="is not the folder of a study"):
        StudyStore(folder=tmp_path / "thesis.txt").require_own()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_that_cannot_be_written_leaves_nothing(
    store: StudyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(FileError, match="No space left"):
        store.write("runs/a", {})
    assert [*(store.folder / "runs").iterdir()] == []


@pytest.mark.parametrize("text", ["", "{", "[]", "\0"])
def test_a_damaged_run_is_named(store: StudyStore, text: str) -> None:
    store.write("runs/a", {})
    (store.folder / "runs" / "a.json").write_text(text)
    with pytest.raises(FileError, match=r"a\.json.*remove it"):
        store.read("runs/a")


def test_not_a_number_is_never_stored(store: StudyStore) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        store.write("runs/a", {"loss": float("nan")})
    assert not store.has("runs/a")
    assert (store.folder / SETTINGS).exists()
