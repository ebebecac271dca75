"""What torch works out anew at each export, worked out once a process: half the time of a small export."""

from __future__ import annotations

import copy
import functools
import sys
from typing import Any

import torch._export.utils as export_utils
from torch.onnx._internal.exporter import _registration


def work_out_once() -> None:
    """From here on torch reads its library of ONNX functions once, and looks for operators after imports."""
    _read_torchlib_once(_registration.ONNXRegistry)
    _find_operators_once(export_utils)


def _read_torchlib_once(registry: Any) -> None:
    """``from_torchlib`` parses 500 functions' source; every export gets its own copy of the tables."""
    read = functools.cache(registry.from_torchlib)

    def from_torchlib(*versions: int, **named: int) -> Any:
        made = copy.copy(read(*versions, **named))
        made.functions = {target: [*found] for target, found in made.functions.items()}
        return made

    registry.from_torchlib = staticmethod(from_torchlib)


def _find_operators_once(utils: Any) -> None:
    """Each of 30 namespaces has all operators looked for; new ones come with imports only."""
    find = utils._materialize_cpp_cia_ops
    seen = -1

    def find_new() -> None:
        nonlocal seen
        if len(sys.modules) != seen:
            find()
            seen = len(sys.modules)

    utils._materialize_cpp_cia_ops = find_new
