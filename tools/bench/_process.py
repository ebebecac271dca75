"""What only a fresh process can show: start-up time, peak memory, a whole command."""

from __future__ import annotations

import compileall
import functools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOAD = "model = torch.load({source!r}, weights_only=False)"
# not ru_maxrss: a child starts with the peak of the process that forked it
PEAK = "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"


@functools.cache
def _compile_packages() -> None:
    """Compiles the packages as pip does when it installs them; a checkout may be told to keep no bytecode."""
    for folder in ("fxpasses", "export/fxexport", "tools/fxhead"):
        compileall.compile_dir(ROOT / folder, quiet=1)


def python(*arguments: str) -> str:
    """What a fresh interpreter prints to stdout.

    Raises:
        RuntimeError: the process failed.
    """
    _compile_packages()
    paths = [str(ROOT), str(ROOT / "export"), str(ROOT / "tools"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise RuntimeError(f"python {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def children_cpu() -> float:
    """CPU time of all processes that this one started, which a loaded machine changes little."""
    return sum(os.times()[2:4])


def seconds(
    commands: Mapping[str, Sequence[str]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median time of each command, the commands taking turns; wall time, unless another clock is given."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, arguments in commands.items():
            start = clock()
            python(*arguments)
            times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def save_model(name: str, path: Path) -> None:
    """Writes a torchvision model as torch.save does, in a process of its own."""
    code = (
        "import torch, torchvision; "
        f"torch.save(torchvision.models.get_model({name!r}, weights=None).eval(), {str(path)!r})"
    )
    python("-c", code)


def peaks(source: Path, out: Path) -> tuple[int, int]:
    """Peak resident bytes of loading a model, and of loading, rewriting and saving it (Linux)."""
    load = LOAD.format(source=str(source))
    alone = f"import torch, torchvision, fxpasses\n{load}\n{PEAK}"
    save = f"torch.save(result.module, {str(out)!r})"
    rewritten = (
        f"import torch, torchvision, fxpasses\n{load}\n"
        f"result = fxpasses.rewrite(model, to='conv')\nassert result.report.rewrites\n{save}\n{PEAK}"
    )
    return int(python("-c", alone)) * 1024, int(python("-c", rewritten)) * 1024


def import_seconds(repeats: int) -> float:
    """Median CPU time that ``import fxpasses`` takes once torch is imported."""
    code = (
        "import time, torch\nstart = time.process_time()\nimport fxpasses\nprint(time.process_time() - start)"
    )
    return statistics.median(float(python("-c", code)) for _ in range(repeats))


def help_imports_torch() -> bool:
    """Whether ``fxhead --help`` imports torch."""
    code = "import sys\nfrom fxhead.cli import main\nmain(['--help'])\nprint('torch' in sys.modules, end='')"
    return python("-c", code).endswith("True")


def rewrite_and_floor(source: Path, out: Path, repeats: int) -> tuple[float, float]:
    """Median seconds of ``fxhead rewrite --no-onnx``, and of importing torch, loading and saving."""
    floor = f"import torch\n{LOAD.format(source=str(source))}\ntorch.save(model, {str(out / 'floor.pt')!r})"
    command = ["-m", "fxhead", "rewrite", str(source), "--to", "conv", "--no-onnx", "--force", "-o", str(out)]
    times = seconds({"rewrite": command, "floor": ["-c", floor]}, repeats)
    return times["rewrite"], times["floor"]
