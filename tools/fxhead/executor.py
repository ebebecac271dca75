"""Where work is done: here, or on a Dask cluster. The two differ in this file alone."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any

from fxpasses.errors import InputError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Who performs tasks.

    Attributes:
        count: how many it performs side by side, as far as is known.
        share: of what many tasks read, what to give each of them, so that it is sent once.
        killed: what a task raises where those that had it died, one after the other.
    """

    pool: concurrent.futures.Executor
    count: int
    share: Callable[[Any], Any]
    killed: tuple[type[Exception], ...] = ()


@contextlib.contextmanager
def workers(jobs: int, scheduler: str | None) -> Iterator[Workers]:
    """So many threads here, or the workers of ``scheduler``.

    Queues, retries of tasks whose worker died, and heartbeats are Dask's.

    Raises:
        InputError: Dask is not installed, no scheduler answers there, or it was lost.
    """
    if scheduler is None:
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            yield Workers(pool=pool, count=jobs, share=lambda value: value)
        return
    try:
        from distributed import Client
        from distributed.scheduler import KilledWorker
    except ImportError as error:
        raise InputError(
            "dask.distributed is not installed", where="--scheduler", fix="run pip install 'fxhead[cluster]'"
        ) from error
    for name in ("distributed", "asyncio"):  # they tell of every lost connection, with tracebacks
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        client: Any = Client(scheduler, timeout=10)
    except (OSError, ValueError) as error:
        raise InputError(
            f"no scheduler answers ({error})", where=scheduler, fix="start one with dask scheduler"
        ) from error
    with client:
        try:
            yield Workers(
                pool=client.get_executor(pure=False),
                count=max(1, sum(client.nthreads().values())),
                share=lambda value: client.scatter(value, broadcast=True),
                killed=(KilledWorker,),
            )
        except concurrent.futures.CancelledError as error:  # nobody here has cancelled a task before
            raise InputError(
                "the scheduler was lost",
                where=scheduler,
                fix="start it and give the same command: what is done is kept",
            ) from error
