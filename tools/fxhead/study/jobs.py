"""Runs side by side, in processes of one thread each."""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool

import joblib
import torch

from fxhead.executor import workers
from fxhead.study.data import Images
from fxhead.study.outcome import Environment
from fxhead.study.pairing import train_pair
from fxhead.study.records import PairRecord, RunRecord
from fxhead.study.settings import Dtype, StudyHead, StudySubject, Training
from fxhead.study.training import DivergedError, train_run
from fxpasses.errors import InputError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunTask:
    """One head trained with one seed."""

    head: StudyHead
    seed: int

    @property
    def name(self) -> str:
        """Of its file in the store."""
        return f"runs/{self.head}-{self.seed:08d}"

    def perform(self, images: Images, training: Training) -> RunRecord:
        """Trains it."""
        return train_run(images, training, self.head, self.seed)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PairTask:
    """Both heads trained with one seed in lockstep."""

    subject: StudySubject
    dtype: Dtype
    seed: int

    @property
    def name(self) -> str:
        """Of its file in the store."""
        return f"pairs/{self.subject.name.lower()}-{self.dtype}-{self.seed:08d}"

    def perform(self, images: Images, training: Training) -> PairRecord:
        """Trains both."""
        return train_pair(images, training, self.subject, self.dtype, self.seed)


Task = RunTask | PairTask


Record = RunRecord | PairRecord
Finished = Callable[[Task, Record], None]


def run_tasks(
    images: Images,
    training: Training,
    tasks: Sequence[Task],
    *,
    jobs: int,
    finished: Finished,
    scheduler: str | None = None,
) -> None:
    """Performs all tasks, and calls ``finished`` with each record as soon as there is one.

    Raises:
        InputError: a run diverged, a process died, or the cluster is lost or rounds otherwise.
        KeyboardInterrupt: the user stopped it.
    """
    own = Environment.here()
    try:
        if scheduler is not None:
            with workers(1, scheduler) as theirs:
                shared = theirs.share(images)
                futures = [theirs.pool.submit(_perform, task, shared, training, own) for task in tasks]
                for future in concurrent.futures.as_completed(futures):
                    finished(*future.result())
            return
        # written to a map of the images is nothing; torch warns of one that is read-only
        here = joblib.Parallel(min(jobs, len(tasks)), return_as="generator_unordered", mmap_mode="c")
        for ended in here(joblib.delayed(_perform)(task, images, training, own) for task in tasks):
            finished(*ended)
    except BrokenProcessPool as error:
        raise InputError(
            "a training process died, perhaps for want of memory",
            where="fxhead study",
            fix="repeat the command with --jobs 1; it goes on where this one stopped",
        ) from error


def _perform(task: Task, images: Images, training: Training, expected: Environment) -> tuple[Task, Record]:
    """The task and its record, made by a process that rounds as the study's other runs did."""
    here = Environment.here()
    if here != expected:
        raise InputError(
            f"a worker has {here}, this machine {expected}",
            where="--scheduler",
            fix="take workers of one kind: other ones round otherwise",
        )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums are split over threads: another number of them rounds otherwise
    try:
        return task, task.perform(images, training)
    except DivergedError as error:
        raise InputError(
            f"training diverged in {task.name}: {error}",
            where="fxhead study",
            fix="give a smaller --learning-rate",
        ) from error
    finally:
        torch.set_num_threads(threads)
