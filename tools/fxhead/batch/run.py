"""A batch: what is done is not done again, the rest is done side by side, and each end is kept at once."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import queue
import time
from collections.abc import Iterator
from pathlib import Path

from fxhead.batch.outcome import BatchOutcome
from fxhead.batch.parcel import Contents, pack, perform_here, perform_sent, require_below, unpack
from fxhead.batch.process import Done, Limits, State, not_begun, stop_all, stoppable
from fxhead.batch.rows import Row, beside
from fxhead.batch.store import Stamps, Store, key_of, opened_store, stamps_of
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
        options = dataclasses.replace(options, rows=beside(options.rows, store.sources()))
        ended = {done.name: done for done in _performed(store, options, progress)}
        rows = tuple(ended[row.name] for row in options.rows)
        written = store.finish(rows)
    files = tuple(WrittenFile(path=path, size_bytes=path.stat().st_size) for path in written)
    seconds = time.perf_counter() - start
    return BatchOutcome(
        rows=rows, skipped=store.skipped, files=files, seconds=seconds, require=options.require
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Todo:
    """A row with what it is made of, and how its files were when that was read."""

    row: Row
    key: str
    stamps: Stamps


def _asked(row: Row, store: Store, options: BatchOptions) -> _Todo | Done:
    """What there is to do for a row, or its end."""
    try:
        key, stamps = key_of(row)
        if options.send_files:
            require_below(row, options.folder)
        return store.kept(row, key) or _Todo(row=row, key=key, stamps=stamps)
    except FxHeadError as error:
        return store.add(not_begun(row, error))


def _performed(store: Store, options: BatchOptions, progress: Progress) -> Iterator[Done]:
    limits = Limits(
        seconds=options.seconds,
        bytes=options.bytes,
        threads=max(1, (os.cpu_count() or 1) // max(1, options.jobs)),
    )
    found = workers(options.jobs, options.scheduler)
    with stoppable(), found as ours, progress.count("models", len(options.rows)) as one_more:
        waiting = iter(options.rows)
        futures: dict[Ending, _Todo] = {}
        # not concurrent.futures.wait, which looks at each of a hundred thousand for every one that ends
        ready: queue.SimpleQueue[Ending] = queue.SimpleQueue()
        # a cluster may grow; but a row that is sent has its files in memory while it waits
        is_open = options.scheduler is not None and not options.send_files
        most = len(options.rows) if is_open else 2 * ours.count
        try:
            while True:
                row = next(waiting, None) if len(futures) < most else None
                one = None if row is None else _asked(row, store, options)
                if isinstance(one, Done):
                    one_more()
                    yield one
                elif one is not None:
                    future = _submitted(ours.pool, one, options, limits)
                    futures[future] = one
                    future.add_done_callback(ready.put)
                elif not futures:
                    return
                # rows are read while others are at work, and those that have ended do not wait for that
                with contextlib.suppress(queue.Empty):
                    future = ready.get(block=row is None)
                    done = store.add(_end_of(future, futures.pop(future), options, ours.killed))
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
