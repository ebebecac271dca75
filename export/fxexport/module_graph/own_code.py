"""What a module's own code asks of the world in a run: a function of its inputs asks nothing."""

from __future__ import annotations

import builtins
import dis
import functools
import gc
import os
import sys
from collections.abc import Iterator
from types import (
    BuiltinFunctionType,
    CodeType,
    FrameType,
    FunctionType,
    GeneratorType,
    MappingProxyType,
    ModuleType,
)
from typing import Any, Self

import numpy as np
import torch

from fxexport.module_graph.outside_graph import told
from fxpasses.graph.held import Held

_OURS = frozenset({"fxexport", "fxpasses", "fxhead"})
_NOT_OWN = frozenset({"torch", "sympy", "mpmath", "numpy"}) | _OURS | sys.stdlib_module_names
_IMPORTING = frozenset({"_frozen_importlib", "importlib._bootstrap"})
"""What imports a module that a run needs first, and may call anybody."""

_PURE = frozenset(
    "_abc _collections _collections_abc _contextvars _functools _operator _sre abc collections contextlib "
    "contextvars copy dataclasses enum functools inspect itertools math numbers numpy operator re string "
    "types typing".split()
)
"""Packages whose functions give the same for the same; what they call in turn is looked at."""
_SILENT = frozenset({"logging", "warnings"})
"""Those that tell somebody, and answer nothing."""
_BUILTINS = frozenset(
    "__build_class__ __import__ abs all any ascii bin callable chr delattr dir divmod format getattr hasattr "
    "hex isinstance issubclass iter len locals max min next oct ord pow print repr round setattr sorted sum "
    "vars".split()
)
"""Functions of ``builtins`` that do so: ``id`` and ``hash`` do not, and what text holds is not looked at."""
_DATA = (
    *(bool, bytes, bytearray, complex, dict, float, frozenset, int, list, range, set, slice, str, tuple),
    *(torch.Size, torch.device, torch.dtype, torch.finfo, torch.iinfo, torch.Tensor),
    *(np.ndarray, np.generic, np.ufunc, GeneratorType, MappingProxyType),
)
"""Types whose methods read what they belong to; which of a tensor's read values is seen elsewhere."""
_TORCH = (
    "torch._C._fft torch._C._linalg torch._C._nn torch._C._special torch._compile torch._jit_internal "
    "torch._library torch._ops torch._tensor torch.amp.autocast_mode torch.autograd.grad_mode torch.compiler "
    "torch.functional torch.fx._pytree torch.fx.graph_module torch.jit torch.nn torch.utils._contextlib "
    "torch.utils._pytree torch.utils.checkpoint torch.utils.weak"
).split()
"""Homes of functions of tensors, of layers, and of what every run is answered alike."""
_ANSWERED = frozenset(
    "_assert _get_tracing_state _has_torch_function _has_torch_function_unary _has_torch_function_variadic "
    "_log_api_usage_once _set_grad_enabled is_autocast_enabled is_compiling is_dynamo_compiling is_exporting "
    "is_grad_enabled is_in_onnx_export is_tensor".split()
)
"""Further functions of torch itself; what a run does where gradients are recorded is tried out."""


class OwnCode:
    """Looks within it at every call from code that is neither torch's nor Python's.

    Such code may call functions of tensors, layers, and functions that give the same for the same. All else
    is foreign: a clock, the environment, the identity of objects, threads, random numbers.

    Args:
        held: what the module holds, of which others know how it changes.

    Attributes:
        reads: what the code's arguments, names and classes held when it was first run, as text.
    """

    def __init__(self, held: Held) -> None:
        self._held = held
        self.reads: dict[tuple[CodeType, str], str] = {}
        self._codes: set[CodeType] = set()
        self._homes: dict[int, tuple[dict[str, Any], str]] = {}
        self._called: str | None = None
        self._named: str | None = None
        self._importing: FrameType | None = None
        self._before: Any = None
        self._collects = False

    def __enter__(self) -> Self:
        """Looks at this thread's calls; who looks at them now waits."""
        self._collects = gc.isenabled()
        gc.disable()  # which runs what others leave behind, wherever code is just then
        self._before = sys.getprofile()
        sys.setprofile(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        """Whoever looked before does so again."""
        sys.setprofile(None)
        if self._collects:
            gc.enable()
        if self._before is not None:  # cProfile sets no function
            getattr(self._before, "enable", lambda: sys.setprofile(self._before))()

    def changed(self, later: OwnCode) -> str | None:
        """The first name that holds something else in a later run; None where none does."""
        changed = (key[1] for key, text in self.reads.items() if later.reads.get(key, text) != text)
        return next(changed, None)

    @property
    def foreign(self) -> str | None:
        """The first foreign call, or else name, with where it stands; None where there was none."""
        return self._called or self._named

    def _look(self, frame: FrameType, event: str, arg: Any) -> None:
        if self._importing is not None:
            if event == "return" and frame is self._importing:
                self._importing = None
        elif event == "c_call":
            if (caller := self._caller(frame)) and not _is_pure_c(arg):
                self._called = self._called or _told(_c_name(arg), caller)
        elif event == "call":
            home = self._home(frame)
            if home in _IMPORTING:
                self._importing = frame
            elif _is_own(home):
                self._read(frame)
            elif (caller := self._caller(frame.f_back)) and not _is_pure(home, frame.f_code.co_name):
                self._called = self._called or _told(f"{home}.{frame.f_code.co_name}", caller)

    def _home(self, frame: FrameType) -> str:
        """The module that a frame's code belongs to; "" for code that was made of text."""
        names = frame.f_globals
        if id(names) not in self._homes:
            self._homes[id(names)] = names, _home(names)
        return self._homes[id(names)][1]

    def _caller(self, frame: FrameType | None) -> FrameType | None:
        """The frame itself where it is a module's own code, or the one for which pure functions run here."""
        while frame is not None and _top(self._home(frame)) in _PURE:
            frame = frame.f_back
        return frame if frame is not None and _is_own(self._home(frame)) else None

    def _read(self, frame: FrameType) -> None:
        code = frame.f_code
        if code not in self._codes:
            self._codes.add(code)
            names = {name: frame.f_globals[name] for name in code.co_names if name in frame.f_globals}
            names |= frame.f_locals  # arguments, and what a function closes over
            for name in _named(code):
                value = frame.f_globals.get(name, getattr(builtins, name, None))
                if _is_foreign(value):
                    self._named = self._named or _told(name, frame)
            for name, value in names.items():
                if not self._held.watches(value):
                    self.reads[code, name] = told(value)
                for item in (value if isinstance(value, type) else type(value)).__mro__:
                    if _is_own(item.__module__):
                        self.reads |= {
                            (code, f"{item.__name__}.{part}"): told(held) for part, held in vars(item).items()
                        }


def _named(code: CodeType) -> Iterator[str]:
    """The names of modules and functions that code reads, and may hand on to what calls them unseen."""
    return (str(item.argval) for item in dis.get_instructions(code) if item.opname == "LOAD_GLOBAL")


def _is_foreign(value: object) -> bool:
    """Whether it is a part of Python that is not known to give the same for the same."""
    if isinstance(value, BuiltinFunctionType):
        return not _is_pure_c(value)
    is_code = isinstance(value, ModuleType | FunctionType | type)
    home = value.__name__ if isinstance(value, ModuleType) else str(getattr(value, "__module__", ""))
    return is_code and _top(home) in sys.stdlib_module_names - _PURE - _SILENT - {"builtins"}


def _home(names: dict[str, Any]) -> str:
    found = names.get("__name__"), getattr(names.get("__spec__"), "name", None)
    for name in filter(None, found):  # which are two for what Python froze
        module = sys.modules.get(name)
        # torch.backends puts others in the place of some of its modules
        if module is not None and vars(getattr(module, "m", module)) is names:
            return str(name)
    return ""


@functools.cache
def _top(home: str) -> str:
    return home.partition(".")[0]


def _is_own(home: str) -> bool:
    """Whether it is neither torch's, Python's nor ours."""
    return _top(home) not in _NOT_OWN


def _is_pure(home: str, name: str) -> bool:
    return _top(home) in _PURE | _SILENT | _OURS or _is_torch(home, name)


def _is_torch(home: str, name: str) -> bool:
    is_known = name in _ANSWERED or any(f"{home}.".startswith(f"{known}.") for known in _TORCH)
    return _top(home) == "torch" and is_known


def _is_pure_c(function: Any) -> bool:
    owner, name = function.__self__, function.__name__
    if isinstance(owner, ModuleType) or function.__module__ == "torch._C":  # where pybind owns it
        home = getattr(owner, "__name__", function.__module__)
        return name in _BUILTINS if home == "builtins" else _top(home) in _PURE or _is_torch(home, name)
    if owner is None:
        return str(function.__qualname__).startswith("_VariableFunctionsClass.")
    kind = owner if isinstance(owner, type) else type(owner)
    return issubclass(kind, _DATA) or _top(kind.__module__) in _PURE


def _told(name: str, frame: FrameType) -> str:
    return f"{name} ({os.path.basename(frame.f_code.co_filename)}, line {frame.f_lineno})"


def _c_name(function: Any) -> str:
    owner = function.__self__
    home = owner.__name__ if isinstance(owner, ModuleType) else function.__module__ or type(owner).__module__
    return f"{home}.{function.__qualname__}"
