"""Spoilt files of every kind: a value, or one error that says what is wrong; nothing else ever comes out.

The choices are fixed, so that a fault is the same in every run; ``tools/dev fuzz`` makes others for as
long as it is told.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz import pairs
from fuzz.corpus import corpus
from fuzz.mutate import Choice, spoil_bytes, spoilt
from fuzz.pairs import attempt_pair
from fuzz.targets import TARGETS, Target, attempt

_EXAMPLES = {"program": 4, "certificate": 40, "plan": 40, "labels": 40, "npy": 40, "npz": 40}
_CHOICES = st.builds(
    Choice, seed=st.integers(min_value=0, max_value=2**32 - 1), times=st.sampled_from((1, 1, 2, 3, 8))
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return corpus(tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize("name", TARGETS)
def test_a_spoilt_file_is_read_or_refused(name: str, good: dict[str, bytes], tmp_path: Path) -> None:
    target = TARGETS[name]

    @settings(
        max_examples=_EXAMPLES.get(name, 12),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(choice=_CHOICES)
    def holds(choice: Choice) -> None:
        fault, _ = attempt(target, good, choice, tmp_path)
        assert fault is None, f"{choice}: {fault}"

    holds()


@pytest.mark.parametrize("name", TARGETS)
def test_the_good_file_is_read(name: str, good: dict[str, bytes], tmp_path: Path) -> None:
    """Else every spoilt one would be refused for nothing."""
    fault, outcome = attempt(TARGETS[name], good, Choice(seed=0, times=0), tmp_path)
    assert (fault, outcome.split()[0]) == (None, "read")


def test_no_random_program_is_proved_to_be_another() -> None:
    outcomes = Counter()
    for seed in range(16):
        fault, outcome = attempt_pair(seed)
        assert fault is None, f"{seed}: {fault.what}"
        outcomes[outcome] += 1
    assert outcomes["the same, proved"] > outcomes["the same, not proved"]
    assert outcomes["different, not proved"] > 0


def test_a_wrong_proof_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    for what in (True, False):
        monkeypatch.setattr(pairs, "derive", lambda *_, what=what: SimpleNamespace(is_proved=what))
        faults = [attempt_pair(seed)[0] for seed in range(4)]
        assert any(fault and fault.what.startswith("proved, and apart") for fault in faults) is what


def test_what_acts_or_fails_otherwise_is_a_fault(tmp_path: Path) -> None:
    for read, what in (
        (lambda path: path.with_name("ran").write_text(""), "it acted"),
        (lambda path: 1 / 0, "ZeroDivisionError"),
    ):
        target = Target(file="x", spoil=spoil_bytes, read=read)
        fault, _ = attempt(target, {"x": b"x"}, Choice(seed=0, times=1), tmp_path)
        assert fault is not None
        assert fault.what.startswith(what)
    assert not (tmp_path / "ran").exists()


def test_the_same_choice_spoils_a_file_alike(good: dict[str, bytes]) -> None:
    for target in TARGETS.values():
        choice = Choice(seed=7, times=3)
        content = good[target.file]
        assert spoilt(content, target.spoil, choice) == spoilt(content, target.spoil, choice)
