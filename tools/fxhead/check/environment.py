"""Versions of everything that computes, and the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from fxhead import __version__
from fxhead.extras import version_of
from fxpasses.wall.wall import lowered

_PACKAGES = ("torch", "torchvision", "numpy", "onnx", "onnx-ir", "onnxscript", "pillow")
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
_CPU_INFO = Path("/proc/cpuinfo")


def describe_environment(providers: Sequence[str]) -> dict[str, str]:
    """What a figure may depend on, besides the models and the samples."""
    found = {"fxhead": __version__, "python": platform.python_version()}
    for name in (*_PACKAGES, *_RUNTIMES):
        version = version_of(name)
        if version is not None:
            found[name] = version
    found |= {
        "platform": _platform(),
        "cpu": _cpu(),
        "cpus": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
    }
    if "cuda" in providers and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _platform() -> str:
    with lowered():  # it asks a program of the system
        return platform.platform()


def _cpu() -> str:
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
