"""Runs side by side, in processes of one thread each."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool

import torch

from fxhead.executor import workers
from fxhead.study.data import Images
from fxhead.study.outcome import Environment
from fxhead.study.pairing import train_pair
from fxhead.study.records import PairRecord, RunRecord
from fxhead.study.settings import Dtype, StudyHead, StudySubject, Training
from fxhead.study.training import DivergedError, InterruptedRunError, Stopped, train_run
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

    def perform(self, images: Images, training: Training, stopped: Stopped) -> RunRecord:
        """Trains it."""
        return train_run(images, training, self.head, self.seed, stopped)


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

    def perform(self, images: Images, training: Training, stopped: Stopped) -> PairRecord:
        """Trains both."""
        return train_pair(images, training, self.subject, self.dtype, self.seed, stopped)


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
    try:
        if scheduler is not None:
            _run_on_cluster(images, training, tasks, scheduler, finished)
        elif min(jobs, len(tasks)) <= 1:
            _run_here(images, training, tasks, finished)
        else:
            _run_in_processes(images, training, tasks, min(jobs, len(tasks)), finished)
    except BrokenProcessPool as error:
        raise InputError(
            "a training process died, perhaps for want of memory",
            where="fxhead study",
            fix="repeat the command with --jobs 1; it goes on where this one stopped",
        ) from error


def _run_here(images: Images, training: Training, tasks: Sequence[Task], finished: Finished) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums are split over threads: another number of them rounds otherwise
    try:
        for task in tasks:
            with _explained(task):
                record = task.perform(images, training, stopped=lambda: False)
            finished(task, record)
    finally:
        torch.set_num_threads(threads)


def _run_in_processes(
    images: Images, training: Training, tasks: Sequence[Task], jobs: int, finished: Finished
) -> None:
    # spawned, not forked: torch's thread pools do not survive a fork
    context = multiprocessing.get_context("spawn")
    stop, others = context.Event(), {*multiprocessing.active_children()}
    executor = concurrent.futures.ProcessPoolExecutor(
        jobs, context, initializer=_start_worker, initargs=(images, training, stop.is_set)
    )
    try:
        with _interrupts_held_back():  # what is spawned here never sees Ctrl-C: we tell it to stop
            futures = {executor.submit(_work, task): task for task in tasks}
        for future in concurrent.futures.as_completed(futures):
            with _explained(futures[future]):
                record = future.result()
            assert record is not None  # only we stop a run, further down
            finished(futures[future], record)
    except BrokenProcessPool:
        # the executor does not know of one that was starting when it broke, and would wait for it
        for process in {*multiprocessing.active_children()} - others:
            process.terminate()
        raise
    finally:
        stop.set()
        executor.shutdown(cancel_futures=True)


def _run_on_cluster(
    images: Images, training: Training, tasks: Sequence[Task], scheduler: str, finished: Finished
) -> None:
    with workers(1, scheduler) as theirs:
        shared = theirs.share(images)
        own = Environment.here()
        futures = {theirs.pool.submit(_perform, task, shared, training, own): task for task in tasks}
        for future in concurrent.futures.as_completed(futures):
            with _explained(futures[future]):
                record = future.result()
            finished(futures[future], record)


def _perform(task: Task, images: Images, training: Training, expected: Environment) -> Record:
    """The record, made by a worker that rounds as the study's other runs did."""
    here = Environment.here()
    if here != expected:
        raise InputError(
            f"a worker has {here}, this machine {expected}",
            where="--scheduler",
            fix="take workers of one kind: other ones round otherwise",
        )
    torch.set_num_threads(1)
    return task.perform(images, training, stopped=lambda: False)


@contextlib.contextmanager
def _explained(task: Task) -> Iterator[None]:
    try:
        yield
    except DivergedError as error:
        raise InputError(
            f"training diverged in {task.name}: {error}",
            where="fxhead study",
            fix="give a smaller --learning-rate",
        ) from error


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_worker: tuple[Images, Training, Stopped] | None = None
"""In a training process: what it was started with."""


def _start_worker(images: Images, training: Training, stopped: Stopped) -> None:
    global _worker
    torch.set_num_threads(1)
    _worker = images, training, stopped


def _work(task: Task) -> Record | None:
    assert _worker is not None  # the executor starts every process with _start_worker
    try:
        return task.perform(*_worker)
    except InterruptedRunError:
        return None
