"""What ``fxhead batch`` costs beside the rows themselves, here and on a Dask cluster on loopback.

- **overhead**: wall time of the whole command, less what the rows took in their own processes and what the
  command takes where nothing is left to do, for each model; and processor time of the command alone, which
  is what a larger cluster has to wait for.
- **throughput**: models a minute with one worker and with two.
- **on paper**: from these figures, 100,000 models on 1,000 cores, and where it would break: one process
  hashes every model before its row and writes a line after it, so that more workers than it keeps busy idle.

No budget: what a row takes is the model's, and the machine's.

    python tools/bench/batch.py [--models N] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":  # a benchmark runs from a checkout, installed or not
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root / folder) for folder in ("", "export", "tools")]

from bench._process import ROOT, children_cpu, python

MODELS = """
import torch
from torch import nn
for index in range({number}):
    torch.manual_seed(index)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    torch.save(model, "{folder}/m%05d.pt" % index)
"""
FLEET_MODELS, FLEET_CORES = 100_000, 1_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run of the command.

    Attributes:
        path: ``local`` or ``cluster``.
        workers: rows side by side.
        row_s: what a row took in its own process, on the average.
        overhead_s: wall time beside the rows, for each model.
        command_cpu_s: processor time of the command alone, for each model; None where its rows are in it.
        per_minute: models a minute.
    """

    path: str
    workers: int
    row_s: float
    overhead_s: float
    command_cpu_s: float | None
    per_minute: float


@contextlib.contextmanager
def cluster(folder: Path, workers: int) -> Iterator[str]:
    """A scheduler and workers of one thread each; gives the address."""
    paths = os.pathsep.join(str(ROOT / name) for name in ("", "export", "tools"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((paths, os.environ.get("PYTHONPATH", "")))}
    told = folder / f"scheduler{workers}.json"

    def start(name: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{name}", *arguments, "--no-dashboard"]
        return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL)

    running = [start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(told))]
    try:
        while not told.exists():
            time.sleep(0.05)
        address = json.loads(told.read_text())["address"]
        running += [start("worker", address, "--nthreads", "1", "--no-nanny") for _ in range(workers)]
        yield address
    finally:
        for process in running:
            process.kill()
            process.wait()


def measure(folder: Path, path: str, workers: int, *options: str) -> Measured:
    """One run over all models of the folder."""
    command = ["-m", "fxhead", "batch", str(folder / "models"), "--to", "conv", "--no-onnx", "--json"]
    command += ["-o", str(folder / f"{path}{workers}"), *options]
    times, rows = [], []
    for _ in range(2):  # the second time nothing is left to do: that is what the command takes by itself
        start, cpu = time.perf_counter(), children_cpu()
        rows = json.loads(python(*command))["rows"]
        times.append((time.perf_counter() - start, children_cpu() - cpu))
    assert all(row["state"] == "done" for row in rows)
    (wall, cpu), (alone, alone_cpu) = times
    spent = sum(row["seconds"] for row in rows)
    return Measured(
        path=path,
        workers=workers,
        row_s=spent / len(rows),
        overhead_s=(wall - alone - spent / workers) / len(rows),
        command_cpu_s=None if path == "local" else (cpu - alone_cpu) / len(rows),
        per_minute=60 * len(rows) / (wall - alone),
    )


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="What fxhead batch costs beside its rows.")
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "models").mkdir()
        python("-c", MODELS.format(number=options.models, folder=folder / "models"))
        found = [measure(folder, "local", jobs, "--jobs", str(jobs)) for jobs in (1, 2)]
        for workers in (1, 2):
            with cluster(folder, workers) as address:
                found.append(measure(folder, "cluster", workers, "--scheduler", address))
    for one in found:
        cpu = (
            "" if one.command_cpu_s is None else f", {one.command_cpu_s * 1e3:.0f} ms of processor time here"
        )
        print(
            f"{one.path}, {one.workers}: {one.per_minute:.1f} models a minute; a row {one.row_s:.2f} s, "
            f"beside it {one.overhead_s * 1e3:.0f} ms{cpu}"
        )
    last = found[-1]
    command_s = last.command_cpu_s or 0.0
    rows_h = FLEET_MODELS * last.row_s / FLEET_CORES / 3600
    print(
        f"on paper, {FLEET_MODELS:,} models on {FLEET_CORES:,} cores: {rows_h:.2f} h of rows, "
        f"{FLEET_MODELS * command_s / 3600:.2f} h of the command that asks for them, which keeps "
        f"{last.row_s / command_s:,.0f} workers busy with rows like these, "
        f"{60 / command_s:,.0f} with rows of a minute"
    )
    if options.json is not None:
        options.json.write_text(json.dumps([dataclasses.asdict(one) for one in found], indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
