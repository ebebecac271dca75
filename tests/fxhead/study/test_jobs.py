"""Runs side by side: the same records, and clear errors."""

from __future__ import annotations

import dataclasses
import os

import pytest
import torch

from fxhead.study.data import Images
from fxhead.study.jobs import PairTask, Record, RunTask, Task, run_tasks
from fxhead.study.settings import Dtype, StudyHead, StudySubject, Training
from fxpasses.errors import InputError

TASKS = (
    RunTask(head=StudyHead.CONV, seed=0),
    RunTask(head=StudyHead.LINEAR, seed=12),
    PairTask(subject=StudySubject.OFF, dtype=Dtype.FLOAT64, seed=0),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dying(RunTask):
    """A run whose process is killed."""

    def perform(self, *arguments: object, **options: object) -> Record:
        os._exit(1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Threads(RunTask):
    """A run that says how many threads it had."""

    def perform(self, images: Images, training: Training) -> Record:
        record = super(Threads, self).perform(images, training)
        return dataclasses.replace(record, seed=torch.get_num_threads())


def performed(images: Images, training: Training, tasks: tuple[Task, ...], jobs: int) -> dict[str, Record]:
    records: dict[str, Record] = {}
    run_tasks(images, training, tasks, jobs=jobs, finished=lambda t, r: records.update({t.name: r}))
    return records


@pytest.mark.slow  # the interrupted study compares them as well
def test_processes_give_the_records_that_one_gives(digits: Images, short: Training) -> None:
    tasks = (*TASKS, Threads(head=StudyHead.LINEAR, seed=77))
    together = performed(digits, short, tasks, 2)
    assert {*together} == {
        "runs/conv-00000000",
        "runs/linear-00000012",
        "pairs/off-float64-00000000",
        "runs/linear-00000077",
    }
    assert together["runs/linear-00000077"].seed == 1  # thread
    assert together == performed(digits, short, tasks, 1)


def test_one_thread_computes_here_too_and_the_number_is_put_back(digits: Images, short: Training) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        (record,) = performed(digits, short, (Threads(head=StudyHead.LINEAR, seed=0),), 4).values()
        assert (record.seed, torch.get_num_threads()) == (1, before + 1)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_diverges_is_named(digits: Images, short: Training, jobs: int) -> None:
    wild = dataclasses.replace(short, learning_rate=1e9)
    with pytest.raises(InputError, match=r"diverged in \w+/[\w-]+: .*smaller --learning-rate"):
        performed(digits, wild, TASKS, jobs)


def test_a_process_that_dies_is_an_error_that_says_so(digits: Images, short: Training) -> None:
    with pytest.raises(InputError, match="process died"):
        performed(digits, short, (Dying(head=StudyHead.LINEAR, seed=0), *TASKS), 2)
