"""The gate that the README shows: its job and its rule fail where anything is less than proved."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from fxexport import export_onnx
from fxhead.batch.outcome import BatchOutcome
from fxhead.batch.process import Done, State
from fxhead.outcome import ExitCode

ROOT = Path(__file__).parents[3]
README = (ROOT / "tools" / "fxhead" / "batch" / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return str(found)


def job() -> list[str]:
    """The job's steps as a script; a failing step ends it, as on GitHub."""
    (only,) = yaml.safe_load(block("yaml"))["jobs"].values()
    assert [step for step in only["steps"] if "run" not in step] == [{"uses": "actions/checkout@v4"}]
    script = "\n".join(step["run"] for step in only["steps"] if "run" in step)
    return ["bash", "-e", "-c", script]


def rule() -> list[str]:
    Path("Makefile").write_text(block("make"), encoding="utf-8")
    return ["make", "heads"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one model, and what a machine with fxhead has on its path."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("pip", "true"), ("fxhead", f'exec "{sys.executable}" -m fxhead "$@"')):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "export", ROOT / "tools"))))
    (tmp_path / "models").mkdir()
    torch.manual_seed(0)
    pooled = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    export_onnx(nn.Sequential(*pooled, nn.Linear(4, 2)).eval(), torch.randn(2, 3, 8, 8), "models/good.onnx")
    return tmp_path


def test_the_gate_opens_for_what_is_proved_and_for_nothing_else(project: Path) -> None:
    gates = [job(), rule()]  # what one of them has done, the other need not do again
    for command in gates:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert "proved" in ran.stdout
    headless = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).eval()
    export_onnx(headless, torch.randn(2, 3, 8, 8), "models/headless.onnx")
    for command in gates:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert ran.returncode != 0
        lines = Path("build/heads/batch.jsonl").read_text().splitlines()
        assert [json.loads(line)["state"] for line in lines] == ["done", "no"]


@pytest.mark.parametrize(
    ("verdict", "agrees", "proved"),
    [
        ("proved", ExitCode.DONE, ExitCode.DONE),
        ("agrees", ExitCode.DONE, ExitCode.NO),
        ("inconclusive", ExitCode.NO, ExitCode.NO),
        ("broken", ExitCode.NO, ExitCode.NO),
        (None, ExitCode.DONE, ExitCode.NO),
    ],
)
def test_what_is_required_is_required_of_every_row(
    verdict: str | None, agrees: ExitCode, proved: ExitCode
) -> None:
    rows = tuple(
        Done(name=name, source=name, key="", state=State.DONE, reason=None, exit_code=0, seconds=0.0,
             peak_bytes=None, document={"verdict": said})
        for name, said in (("a", "proved"), ("b", verdict))
    )  # fmt: skip
    outcomes = [
        BatchOutcome(rows=rows, skipped=0, files=(), seconds=0.0, require=least)
        for least in ("agrees", "proved")
    ]
    assert [outcome.exit_code for outcome in outcomes] == [agrees, proved]
    told = [str(line) for line in outcomes[1].lines()]
    assert ("less than proved: b" in told) is (proved is ExitCode.NO)
