"""``fxhead study`` as a user has it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fxhead.study.data import Images
from fxhead.study.findings import StudyVerdict
from fxhead.study.jobs import RunTask, _perform
from fxhead.study.outcome import Environment
from fxhead.study.settings import StudyHead, Training
from fxpasses.errors import InputError
from tests.fxhead.conftest import Cluster

ROOT = Path(__file__).parents[3]
SHORT = ("study", "--seeds", "2", "--epochs", "1", "--batch-size", "256")
Run = Callable[..., Any]


@pytest.fixture
def copied(finished: Path, folder: Path) -> Path:
    """The finished study, ``done`` in the working directory."""
    return Path(shutil.copytree(finished, folder / "done"))


def test_a_study_that_is_done_gives_the_same_document_at_once(run: Run, copied: Path) -> None:
    before = (copied / "study.json").read_text()
    done = run(*SHORT, "-o", "done", "--json")
    assert done.code == 0
    assert done.out == before
    assert (copied / "study.json").read_text() == before
    assert "16 of 16 runs are in done already" in done.err
    assert "training" not in done.err
    document = done.document
    assert document["command"] == "study"
    assert document["answer"]["verdict"] == StudyVerdict.TOO_FEW
    assert document["answer"]["same_initialisation"]
    assert document["answer"]["same_function"]
    assert document["training"]["optimizer"] == "sgd"
    assert [group["seeds"] for group in document["groups"]] == [[0, 2], [1, 3], [0, 2], [0, 2]]
    assert [file["path"] for file in document["files"]] == ["study.png"]
    assert "seconds" not in before


def test_what_a_person_reads(run: Run, copied: Path) -> None:
    done = run(*SHORT, "-o", "done")
    assert done.code == 0
    for words in (
        "digits  1,797 images of 1x8x8, 10 classes: 898 trained on, 899 held out",
        "initialisation: the same",
        "Kaiming uniform, a = √5",
        "uniform in ±1/√fan_in",
        "100 of 100",
        "same seed, same weights: the same function",
        "verdict: too few seeds to say",
        "picture: done/study.png",
    ):
        assert words in done.out


def test_seeds_can_be_added_and_give_what_a_study_of_so_many_gives(run: Run, copied: Path) -> None:
    more = ("study", "--seeds", "3", "--epochs", "1", "--batch-size", "256", "--jobs", "1", "--json")
    added = run(*more, "-o", "done")
    assert "16 of 24 runs are in done already" in added.err
    assert added.document["groups"][0]["seeds"] == [0, 2, 4]
    fresh = run(*more, "-o", "fresh")
    assert fresh.out == added.out


def test_other_settings_are_refused(run: Run, copied: Path) -> None:
    before = {path: path.read_bytes() for path in copied.rglob("*.json")}
    for options in (["--epochs", "2"], ["--seed", "1"], ["--learning-rate", "0.1"], ["--optimizer", "adam"]):
        done = run(*SHORT, *options, "-o", "done")
        assert (done.code, done.out) == (2, "")
        assert "holds runs with other settings" in done.err
        assert "name another folder with -o" in done.err
    assert {path: path.read_bytes() for path in copied.rglob("*.json")} == before


def test_a_folder_of_images_is_studied(run: Run, folder: Path, image_folder: Path) -> None:
    options = ("--data", str(image_folder), "--image-size", "8", "--jobs", "1")
    document = run(*SHORT, *options, "-o", "out", "--json").document
    assert document["data"]["classes"] == ["dark", "light"]
    assert document["data"]["image_shape"] == [3, 8, 8]
    assert document["answer"]["same_function"]
    assert document["initialisation"][0]["linear"] == "Linear(64, 2)"
    Image.new("RGB", (9, 9)).save(image_folder / "dark" / "new.png")
    assert "holds runs with other settings (data." in run(*SHORT, *options, "-o", "out").err


def test_how_it_is_judged_can_change(run: Run, copied: Path) -> None:
    document = run(*SHORT, "-o", "done", "--alpha", "0.4", "--margin", "60", "--json").document
    assert document["rules"] | {"alpha": 0.4, "margin_pp": 60} == document["rules"]
    assert document["comparisons"][1]["verdict"] == StudyVerdict.TOO_FEW  # 2 pairs have 4 permutations
    assert document["comparisons"][0]["smallest_effect_pp"] is not None  # 4 runs have 6: p is at least 1/3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--seeds", "1"], "1 is not in the range"),
        (["--epochs", "0"], "0 is not in the range"),
        (["--learning-rate", "0"], "0.0 is not in the range"),
        (["--learning-rate", "nan"], "--learning-rate: nan is not a finite number"),
        (["--margin", "inf"], "--margin: inf is not a finite number"),
        (["--alpha", "0.6"], "0.6 is not in the range"),
        (["--optimizer", "adamw"], "'adamw' is not one of"),
        (["--data", "gone"], "gone: holds no classes of images"),
        (["-o", "."], "is not the folder of a study"),
        (
            ["--learning-rate", "1e9", "--epochs", "1", "--jobs", "1"],
            "training diverged in pairs/same",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options_are_one_line_and_exit_code_2(
    run: Run, folder: Path, arguments: list[str], says: str
) -> None:
    done = run("study", *arguments)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert "Traceback" not in done.err
    assert run("study", *arguments, "--json").document["error"]["fix"]


def test_a_part_that_is_not_installed_is_named(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = run("study", "-o", "new")
    assert done.code == 2
    assert "matplotlib is not installed; run pip install 'fxhead[study]'" in done.err
    assert not (folder / "new").exists()


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command in a process group of its own, as a shell starts it."""
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tools")))
    # a shell that runs the tests in the background has them ignore it
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import fxhead.__main__"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_an_interrupt_keeps_what_is_finished_and_processes_give_the_same_result(
    run: Run, folder: Path, finished: Path
) -> None:
    arguments = ("study", "--seeds", "500", "--epochs", "1", "--batch-size", "256", "-o", "new")
    process = start(folder, *arguments, "--jobs", "2")
    deadline = time.monotonic() + 120
    while len([*folder.glob("new/runs/*.json")]) < 8 and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert (out, err.splitlines()[-1]) == ("", "fxhead: interrupted")
    assert "Traceback" not in err
    assert "\x1b" not in err
    assert len(err.split("\n\n")[0].splitlines()) == 2  # what it did, and no bar
    assert not [*folder.rglob(".*.json.*")]  # nothing half written
    # the pairs and the runs of the first two seeds were first, so what is there is the short study
    done = run(*SHORT, "-o", "new", "--jobs", "1", "--json")
    assert done.out == (finished / "study.json").read_text()
    assert json.loads(done.out)["seeds"] == 2


def test_a_cluster_comes_to_the_same_document(
    finished: Path, folder: Path, cluster: Cluster, spawn: Run
) -> None:
    done = spawn(*SHORT, "-o", "there", "--scheduler", cluster[0])
    assert done.code == 0, done.err
    assert (folder / "there" / "study.json").read_text() == (finished / "study.json").read_text()


def test_workers_that_round_otherwise_are_refused(digits: Images, short: Training) -> None:
    other = dataclasses.replace(Environment.here(), cpu_capability="another")
    with pytest.raises(InputError, match=r"a worker has .*take workers of one kind"):
        _perform(RunTask(head=StudyHead.LINEAR, seed=0), digits, short, other)
