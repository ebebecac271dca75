"""A provider's benchmark goes on when a part fails, crashes or takes too long, and ends in one document."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import providers


def crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def parts(name: str, provider: str, folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    found = {"verdict": "broken", "reason": "a weight", "targets": []}
    yield "linear and conv", lambda: found
    yield "fails", lambda: 1 / 0
    if name == "crashes":
        yield "nodes placed", crash
    if name == "slow":
        yield "nodes placed", lambda: time.sleep(60)
    yield "linear and damaged", lambda: found


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # that it forks, under a test runner
def test_every_part_is_told_and_none_costs_another(monkeypatch, capsys):
    monkeypatch.setattr(providers, "parts", parts)
    arguments = ["--provider", "cpu", "--models", "slow", "good", "crashes", "--seconds", "12"]
    monkeypatch.setattr(sys, "argv", ["providers.py", *arguments])
    assert providers.main() == 1
    lines = capsys.readouterr().out.splitlines()
    document = json.loads(lines[-1])
    both = ["linear and conv", "linear and damaged"]
    assert [[*row] for row in document["models"].values()] == [both[:1], both, both[:1]]
    fails = [
        f"{name}, fails: ZeroDivisionError: division by zero" for name in ("", "slow", "good", "crashes")
    ]
    slow, crashed = "slow, nodes placed: no time was left", "crashes, nodes placed: its process ended with -9"
    assert document["failed"] == [*fails[:2], slow, *fails[2:], crashed]
    assert document["wrong"] == [f"{name}, linear and conv: broken" for name in ("slow", "good", "crashes")]
    assert sum("broken: a weight" in line for line in lines) == 6
