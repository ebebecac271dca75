"""What Linux tells of other processes, and does to them; elsewhere nothing is told, and nothing done."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from fxpasses.wall.wall import lowered

_END_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def can_fork() -> bool:
    """Whether this is a Linux of today; elsewhere a fork of torch is not safe."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


def end_with(parent: int) -> bool:
    """From now on this process is killed where the one that forked it ends; False where that has ended."""
    if sys.platform == "linux":
        import ctypes

        with lowered():
            ctypes.CDLL(None).prctl(_END_WITH_PARENT, signal.SIGKILL)
    return os.getppid() == parent


def processor_seconds(process: int) -> float:
    """What it has used; 0 where the system does not tell."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    user, system = text.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system) + 1) / os.sysconf("SC_CLK_TCK")


def resident(process: int) -> int:
    """The bytes of memory that it has; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
