"""A batch: what is done is not done again, the rest is done side by side, and each end is kept at once."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

from fxhead.batch.outcome import BatchOutcome
from fxhead.batch.parcel import Contents, pack, perform_here, perform_sent, require_below, unpack
from fxhead.batch.process import Done, Limits, State, stop_all
from fxhead.batch.rows import Row
from fxhead.batch.store import Store, key_of
from fxhead.executor import workers
from fxhead.outcome import WrittenFile
from fxhead.show.progress import Progress
from fxpasses.errors import FxHeadError, InputError

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
    store = Store(options.folder)
    ended: dict[str, Done] = {}
    todo: list[tuple[Row, str]] = []
    for row in options.rows:
        try:
            key = key_of(row)
            if options.send_files:
                require_below(row, options.folder)
        except FxHeadError as error:
            ended[row.name] = _unreadable(row, error)
            continue
        kept = store.kept(row, key)
        if kept is not None:
            ended[row.name] = kept
        else:
            todo.append((row, key))
    skipped = sum(done.state in (State.DONE, State.NO) for done in ended.values())
    if skipped:
        progress.note(f"{skipped} of {len(options.rows)} are done already")
    for done in _performed(todo, options, progress):
        ended[done.name] = store.add(done)
    rows = tuple(ended[row.name] for row in options.rows)
    files = tuple(WrittenFile(path=path, size_bytes=path.stat().st_size) for path in store.finish(rows))
    seconds = time.perf_counter() - start
    return BatchOutcome(rows=rows, skipped=skipped, files=files, seconds=seconds, require=options.require)


def _performed(todo: list[tuple[Row, str]], options: BatchOptions, progress: Progress) -> Iterator[Done]:
    limits = Limits(
        seconds=options.seconds,
        bytes=options.bytes,
        threads=max(1, (os.cpu_count() or 1) // max(1, options.jobs)),
    )
    found = workers(options.jobs, options.scheduler)
    with found as ours, progress.count("models", len(todo)) as one_more:
        waiting = iter(todo)
        futures: set[Ending] = set()
        # a row that waits has its files in memory
        most = 2 * ours.count if options.send_files else len(todo)
        try:
            while True:
                for row, key in itertools.islice(waiting, most - len(futures)):
                    futures.add(_submitted(ours.pool, row, key, options, limits))
                if not futures:
                    return
                ready, futures = concurrent.futures.wait(futures, return_when="FIRST_COMPLETED")
                for future in ready:
                    done = unpack(*future.result(), options.folder.absolute())
                    one_more()
                    progress.note(_line(done))
                    yield done
        except BaseException:
            for future in futures:
                future.cancel()
            stop_all()
            raise


def _submitted(
    pool: concurrent.futures.Executor, row: Row, key: str, options: BatchOptions, limits: Limits
) -> Ending:
    if options.send_files:
        return pool.submit(perform_sent, row, key, os.path.relpath(options.folder), limits, pack(row))
    return pool.submit(perform_here, row, key, os.path.abspath(options.folder), limits, os.getcwd())


def _line(done: Done) -> str:
    end = done.verdict or done.reason or ""
    return f"{done.name}: {done.state}{f', {end}' if end else ''} ({done.seconds:.0f} s)"


def _unreadable(row: Row, error: FxHeadError) -> Done:
    return Done(
        name=row.name,
        source=row.source,
        key="",
        state=State.FAILED,
        reason=f"{error.where}: {error.what}" if error.where else error.what,
        exit_code=2,
        seconds=0.0,
        peak_bytes=None,
        document=None,
    )
