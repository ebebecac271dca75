"""A batch: what is done is not done again, the rest is done side by side, and each end is kept at once."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import os
import queue
import time
from collections.abc import Iterator
from pathlib import Path

from fxhead.batch.outcome import BatchOutcome
from fxhead.batch.parcel import Contents, pack, perform_here, perform_sent, require_below, unpack
from fxhead.batch.process import Done, Limits, State, not_begun, stop_all, stoppable
from fxhead.batch.rows import Row
from fxhead.batch.store import Stamps, key_of, opened_store, stamps_of
from fxhead.executor import workers
from fxhead.outcome import WrittenFile
from fxhead.show.progress import Progress
from fxpasses.errors import FileError, FxHeadError, InputError

Ending = concurrent.futures.Future[tuple[Done, Contents]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """What ``fxhead batch`` was asked for.

    Attributes:
        rows: the models.
        folder: of the outputs.
        jobs: rows side by side; on a cluster that is the workers' matter.
        seconds: limit of each row; None for none.
        bytes: limit of each row; None for none.
        require: the least verdict that is a yes, of all rows.
        scheduler: address of a Dask scheduler; None for this machine.
        send_files: whether workers get a row's files with it, and send theirs back; else they see the same
            files as this process.
    """

    rows: tuple[Row, ...]
    folder: Path
    jobs: int
    seconds: float | None = None
    bytes: int | None = None
    require: str = "agrees"
    scheduler: str | None = None
    send_files: bool = False


def run_batch(options: BatchOptions, progress: Progress) -> BatchOutcome:
    """The outcome of every row; one that fails, hangs or is killed is a row with its reason.

    Raises:
        FxHeadError: the batch itself cannot be done, for want of a folder or of a scheduler.
        KeyboardInterrupt: the user stopped it; what is done is kept.
    """
    start = time.perf_counter()
    if options.send_files and options.scheduler is None:
        raise InputError("there is nobody to send to", where="--send-files", fix="give --scheduler too")
    with opened_store(options.folder) as store:
        ended: dict[str, Done] = {}
        todo: list[_Todo] = []
        for row in options.rows:
            try:
                key, stamps = key_of(row)
                if options.send_files:
                    require_below(row, options.folder)
            except FxHeadError as error:
                ended[row.name] = not_begun(row, error)
                continue
            kept = store.kept(row, key)
            if kept is not None:
                ended[row.name] = kept
            else:
                todo.append(_Todo(row=row, key=key, stamps=stamps))
        skipped = sum(done.state in (State.DONE, State.NO) for done in ended.values())
        if skipped:
            progress.note(f"{skipped} of {len(options.rows)} are done already")
        for done in _performed(todo, options, progress):
            ended[done.name] = store.add(done)
        rows = tuple(ended[row.name] for row in options.rows)
        written = store.finish(rows)
    files = tuple(WrittenFile(path=path, size_bytes=path.stat().st_size) for path in written)
    seconds = time.perf_counter() - start
    return BatchOutcome(rows=rows, skipped=skipped, files=files, seconds=seconds, require=options.require)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Todo:
    """A row with what it is made of, and how its files were when that was read."""

    row: Row
    key: str
    stamps: Stamps


def _performed(todo: list[_Todo], options: BatchOptions, progress: Progress) -> Iterator[Done]:
    limits = Limits(
        seconds=options.seconds,
        bytes=options.bytes,
        threads=max(1, (os.cpu_count() or 1) // max(1, options.jobs)),
    )
    found = workers(options.jobs, options.scheduler)
    with stoppable(), found as ours, progress.count("models", len(todo)) as one_more:
        waiting = iter(todo)
        futures: dict[Ending, _Todo] = {}
        # not concurrent.futures.wait, which looks at each of a hundred thousand for every one that ends
        ready: queue.SimpleQueue[Ending] = queue.SimpleQueue()
        # a row that waits has its files in memory
        most = 2 * ours.count if options.send_files else len(todo)
        try:
            while True:
                for one in itertools.islice(waiting, most - len(futures)):
                    future = _submitted(ours.pool, one, options, limits)
                    futures[future] = one
                    future.add_done_callback(ready.put)
                if not futures:
                    return
                future = ready.get()
                done = _end_of(future, futures.pop(future), options, ours.killed)
                one_more()
                progress.note(_line(done))
                yield done
        except BaseException:
            for future in futures:
                future.cancel()
            stop_all()
            raise


def _submitted(
    pool: concurrent.futures.Executor, one: _Todo, options: BatchOptions, limits: Limits
) -> Ending:
    row, key = one.row, one.key
    if not options.send_files:
        return pool.submit(perform_here, row, key, os.path.abspath(options.folder), limits, os.getcwd())
    try:
        return pool.submit(perform_sent, row, key, os.path.relpath(options.folder), limits, pack(row))
    except FileError as error:  # it went away since its key was made
        future: Ending = concurrent.futures.Future()
        future.set_result((not_begun(row, error), ()))
        return future


def _end_of(future: Ending, one: _Todo, options: BatchOptions, killed: tuple[type[Exception], ...]) -> Done:
    try:
        done = unpack(*future.result(), options.folder.absolute())
    except killed as error:
        return not_begun(one.row, InputError(f"the workers that had it died ({error})"), State.KILLED)
    if done.state in (State.DONE, State.NO) and one.stamps != stamps_of(path for path, _ in one.stamps):
        return dataclasses.replace(done, state=State.FAILED, reason="its files changed while it was at work")
    return done


def _line(done: Done) -> str:
    end = done.verdict or done.reason or ""
    return f"{done.name}: {done.state}{f', {end}' if end else ''} ({done.seconds:.0f} s)"
