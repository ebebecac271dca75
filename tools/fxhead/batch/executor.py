"""Where rows are done: here, or on a Dask cluster. The two differ in this file alone."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from fxpasses.errors import InputError


@contextlib.contextmanager
def executor(jobs: int, scheduler: str | None) -> Iterator[concurrent.futures.Executor]:
    """What performs rows: so many processes here, or the workers of ``scheduler``.

    Queues, retries of rows whose worker died, and heartbeats are Dask's. Workers see the same paths as this
    process: files lie on a shared file system.

    Raises:
        InputError: Dask is not installed, or no scheduler answers there.
    """
    if scheduler is None:
        # threads that each wait for a process
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            yield pool
        return
    try:
        from distributed import Client
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
        yield client.get_executor(pure=False)
