"""What a module's own code asks of the world in a run: a function of its inputs asks nothing."""

from __future__ import annotations

import builtins
import dis
import functools
import gc
import inspect
import os
import sys
import weakref
from collections import deque
from collections.abc import Iterator
from itertools import chain, zip_longest
from types import (
    BuiltinFunctionType,
    CodeType,
    FrameType,
    FunctionType,
    GeneratorType,
    MappingProxyType,
    ModuleType,
    TracebackType,
    WrapperDescriptorType,
)
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from fxexport.module_graph.named_places import attribute_of, has_attribute, named, places
from fxexport.module_graph.outside_graph import as_text, walked
from fxexport.private_names import DisableTorchFunction
from fxpasses.graph.held import Held, is_of_own_class

_OURS = frozenset({"fxexport", "fxpasses", "fxhead"})
_NOT_OWN = frozenset({"torch", "opt_einsum", "sympy", "mpmath", "numpy"}) | _OURS | sys.stdlib_module_names
_IMPORTING = frozenset({"_frozen_importlib", "importlib._bootstrap"})
"""What imports a module that a run needs first, and may call anybody."""

_PURE = frozenset(
    "_abc _collections _collections_abc _contextvars _functools _operator _sre abc collections contextlib "
    "contextvars copy dataclasses enum functools inspect itertools math numbers numpy operator re string "
    "types typing".split()
)
"""Packages whose functions give the same for the same; what they call in turn is looked at."""
_RANDOM = "numpy.random"
_SETTINGS = frozenset(
    "geterr geterrcall get_printoptions getbufsize fromfile genfromtxt load loadtxt".split()
)
"""Of numpy the part, and the functions, that do not."""
_SILENT = frozenset({"logging", "warnings", "_warnings"})
_KEEPING = ("set", "add", "remove", "disable", "basicConfig", "capture")
"""Those that tell somebody, and how functions of theirs begin that keep something for later runs."""
_OF_CIRCLES = (id, sys.getrecursionlimit)
"""What ``inspect`` asks to find out whether functions wrap each other."""
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
    "torch._C._fft torch._C._linalg torch._C._nn torch._C._special torch._compile torch._dynamo "
    "torch._functorch.apis torch._jit_internal torch._library torch._ops torch._tensor "
    "torch.amp.autocast_mode torch.autograd.grad_mode torch.compiler torch.functional torch.fx._pytree "
    "torch.fx.graph_module torch.jit torch.nn torch.utils._contextlib torch.utils._pytree "
    "torch.utils.checkpoint torch.utils.weak"
).split()
"""Homes of functions of tensors, of layers, and of what every run is answered alike."""
_ANSWERED = frozenset(
    "_assert _get_tracing_state _has_torch_function _has_torch_function_unary _has_torch_function_variadic "
    "_log_api_usage_once _set_grad_enabled is_autocast_enabled is_compiling is_dynamo_compiling is_exporting "
    "is_grad_enabled is_in_onnx_export is_tensor".split()
)
"""Further functions of torch itself; what a run does where gradients are recorded is tried out."""


_PLAIN = (bool, int, float, complex, str, bytes)
_KEPT = (*_PLAIN, bytearray, dict, list, set, frozenset, tuple, deque)
"""What may hold something else in a later run."""
_STAYING = (ModuleType, type, FunctionType, torch.Tensor)
"""What is there in the next run, too; other objects that names of a call hold may be made in it."""
_OF_TENSORS = frozenset(dir(torch.Tensor))


class OwnCode:
    """Looks within it at every call from code that is neither torch's nor Python's.

    Such code may call functions of tensors, layers, and functions that give the same for the same. All else
    is foreign: a clock, the environment, the identity of objects, threads, random numbers.

    Args:
        held: what the module holds, of which others know how it changes.

    Attributes:
        reads: what the code's arguments, names and classes held when it was run, as text.
        stray: an attribute that it stores in something that no name of its leads to.
    """

    def __init__(self, held: Held) -> None:
        self._held = held
        self.reads: dict[tuple[CodeType, str, int], str] = {}
        self.stray: str | None = None
        self._codes: dict[CodeType, int] = {}
        self._first: set[int] = set()
        self._looked: dict[int, object] = {}
        self._remembered: dict[int, tuple[object, str, str]] = {}
        self._written: dict[int, tuple[weakref.ref[torch.Tensor], int, str]] = {}
        self._homes: dict[tuple[int, str], tuple[dict[str, Any], str]] = {}
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
        return next(chain(changed, self._written_to(later)), None)

    @property
    def remembers(self) -> bool:
        """Whether functions of the code remember results of calls."""
        return bool(self._remembered)

    def remembers_otherwise(self, later: OwnCode) -> str | None:
        """The first function that remembers other results in a later run, of two that are not the first."""
        for key, (_, name, text) in self._remembered.items():
            if later._remembered.get(key, ("", "", text))[2] != text:
                return name
        return None

    def _written_to(self, later: OwnCode) -> Iterator[str]:
        """Names of tensors that were written to since; others are in the places of those that runs make."""
        for key, (tensor, version, name) in self._written.items():
            other, count, _ = later._written.get(key, (tensor, version, name))
            if tensor() is not None and other() is tensor() and count != version:
                yield name

    @property
    def foreign(self) -> str | None:
        """The first foreign call, or else name, with where it stands; None where there was none."""
        return self._called or self._named

    def _look(self, frame: FrameType, event: str, arg: Any) -> None:
        try:
            self._see(frame, event, arg)
        except Exception as error:  # noqa: BLE001 - of what is looked at: the run itself has to go on
            self._called = self._called or _told(f"what cannot be looked at, {type(error).__name__}", frame)

    def _see(self, frame: FrameType, event: str, arg: Any) -> None:
        if self._importing is not None:
            if event == "return" and frame is self._importing:
                self._importing = None
        elif event == "c_call":
            is_inner = arg in _OF_CIRCLES and self._home(frame) == "inspect"  # it hands none of that on
            if not is_inner and (caller := self._caller(frame)) and not _is_pure_c(arg):
                self._called = self._called or _told(_c_name(arg), caller)
        elif event == "return" and id(frame) in self._first:
            self._first.remove(id(frame))
            with DisableTorchFunction():
                self._read_places(frame)
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
        names, file = frame.f_globals, frame.f_code.co_filename
        key = id(names), file
        if key not in self._homes:
            self._homes[key] = names, _home(names, file)
        return self._homes[key][1]

    def _caller(self, frame: FrameType | None) -> FrameType | None:
        """The frame itself where it is a module's own code, or the one for which pure functions run here."""
        while frame is not None and _top(self._home(frame)) in _PURE:
            frame = frame.f_back
        return frame if frame is not None and _is_own(self._home(frame)) else None

    def _read(self, frame: FrameType) -> None:
        code = frame.f_code
        count = self._codes[code] = self._codes.get(code, 0) + 1
        names = dict(frame.f_locals)  # arguments, and what a function closes over: others at every call
        if count == 1:
            self._first.add(id(frame))  # whose names are looked at once more when it ends
            names |= _names(code, frame.f_globals)
            for name, value in _named(code, frame.f_globals):
                if _is_foreign(value):
                    self._named = self._named or _told(name, frame)
            for name in _FRAMES.intersection(code.co_names):
                self._named = self._named or _told(name, frame)
        with DisableTorchFunction():  # which notes what a run calls
            for name, value in names.items():
                self.reads[code, name, count] = self._text(name, value, frame)
                self._look_into(value, frame)

    def _read_places(self, frame: FrameType) -> None:
        """What stands in attributes of what code names and does not own, where it may keep something."""
        said = named(frame.f_code)
        stores = set(said.stores - _OF_TENSORS)
        for path, value, is_written in places(frame):
            stores = {name for name in stores if not has_attribute(value, name)}
            stays = isinstance(value, _STAYING) or path.partition(".")[0] not in frame.f_locals
            if is_written and stays and self._is_foreign_holder(value):
                self._named = self._named or _told(f"attributes of {path} by their names", frame)
            for where, holder in ((path, value), (f"type({path})", type(value))):
                for name in said.names if self._is_foreign_holder(holder) else ():
                    found = attribute_of(holder, name)
                    if isinstance(found, _KEPT):
                        text = as_text(walked(found, self._is_known))
                        self.reads[frame.f_code, f"{where}.{name}", -1] = text
        for name in sorted(stores):
            self.stray = self.stray or _told(name, frame)

    def _is_foreign_holder(self, value: object) -> bool:
        """Whether it has names of its own, and nobody else looks at them."""
        if value is None or isinstance(value, _PLAIN) or self._held.watches(value):
            return False
        if isinstance(value, ModuleType | type | FunctionType):
            return True
        return type(value).__dictoffset__ != 0 and not is_of_own_class(value)

    def _is_known(self, item: object) -> bool:
        """Whether others look at it, or it is a function of torch's, which is looked at when it is called."""
        is_torchs = _top(type(item).__module__) == "torch" and callable(item)
        return self._held.watches(item) or (is_torchs and not isinstance(item, nn.Module))

    def _text(self, name: str, value: object, frame: FrameType) -> str:
        """What it holds; a function of Python's in it may be called by another one, unseen."""
        items = [*walked(value, self._is_known)] if not self._held.watches(value) else []
        for item in items:
            kind: Any = type(item)
            if _is_foreign(item) if kind is BuiltinFunctionType else _is_unseen(kind):
                self._named = self._named or _told(name, frame)
            elif isinstance(item, functools._lru_cache_wrapper):
                text = as_text(walked(gc.get_referents(item)))
                self._remembered.setdefault(id(item), (item, name, text))
            elif is_of_own_class(item) and item is not value:
                self._look_into(item, frame)
            elif isinstance(item, torch.Tensor) and not item.is_inference():
                self._written.setdefault(id(item), (weakref.ref(item), item._version, name))
        return as_text(items)

    def _look_into(self, value: object, frame: FrameType) -> None:
        """At what the module itself holds, and at what classes do."""
        kind = value if isinstance(value, type) else type(value)
        for item in (*kind.__mro__, *inspect.getmro(type(kind))):
            if id(item) not in self._looked and _is_own(item.__module__):
                self._looked[id(item)] = item
                for part, held in vars(item).items():
                    name = f"{item.__name__}.{part}"
                    self.reads[frame.f_code, name, 0] = self._text(name, held, frame)
        if self._held.watches(value) and id(value) not in self._looked and not isinstance(value, dict | list):
            self._looked[id(value)] = value
            for part, held in getattr(value, "__dict__", {}).items():
                self._text(part, held, frame)


_FRAMES = frozenset(
    name for kind in (FrameType, TracebackType) for name in vars(kind) if name.startswith(("f_", "tb_"))
)
"""What tells who calls."""


def _names(code: CodeType, names: dict[str, Any]) -> dict[str, Any]:
    """What code may read by its names: of its own module, and of others of the model's that it names."""
    found: dict[str, Any] = {}
    left, seen = [("", names)], {id(names)}
    own = {str(item.argval) for item in dis.get_instructions(code) if _is_by_name(item)}
    for path, home in left:  # grows while it is read
        for name in code.co_names if path else own:  # the others are attributes
            if name in home:
                value = found[f"{path}{name}"] = home[name]
                if isinstance(value, ModuleType) and _is_own(value.__name__) and id(vars(value)) not in seen:
                    seen.add(id(vars(value)))
                    left.append((f"{path}{name}.", vars(value)))
    return found


def _is_by_name(item: dis.Instruction) -> bool:
    return "GLOBAL" in item.opname or item.opname in ("LOAD_NAME", "STORE_NAME", "DELETE_NAME")


def _named(code: CodeType, names: dict[str, Any]) -> Iterator[tuple[str, object]]:
    """Modules and functions that code names, and may hand on to what calls them unseen."""
    value: object = None
    items = [*dis.get_instructions(code)]
    for item, after in zip_longest(items, items[1:]):
        name = str(item.argval)
        if item.opname == "LOAD_GLOBAL":
            value = names.get(name, getattr(builtins, name, None))
        elif item.opname == "IMPORT_NAME":
            value = sys.modules.get(name)
        elif item.opname in ("LOAD_ATTR", "LOAD_METHOD") and isinstance(value, ModuleType):
            value = vars(value).get(name)
            if _is_called(item) and not isinstance(value, type):  # which is called unseen
                value = None
        else:
            value = None
        is_way = after is not None and after.opname == "LOAD_ATTR" and not _is_called(after)
        if not (is_way and isinstance(value, ModuleType)):  # it is what the module holds that is named
            yield name, value


def _is_called(item: dis.Instruction) -> bool:
    """Whether an attribute is loaded to be called, which is seen; before Python 3.12 it has another name."""
    return item.opname == "LOAD_METHOD" or (sys.version_info >= (3, 12) and bool((item.arg or 0) & 1))


def _is_foreign(value: object) -> bool:
    """Whether it is a part of Python that is not known to give the same for the same."""
    if isinstance(value, BuiltinFunctionType):
        return value.__name__ != "__new__" and not _is_pure_c(value)
    if value is np.datetime64:  # which may be now
        return True
    is_code = isinstance(value, ModuleType | FunctionType | type)
    home = value.__name__ if isinstance(value, ModuleType) else str(getattr(value, "__module__", ""))
    is_pythons = _top(home) in sys.stdlib_module_names - _SILENT - {"builtins"} or home.startswith(_RANDOM)
    return is_code and is_pythons and not _is_known(home)


@functools.cache
def _is_unseen(kind: Any) -> bool:
    """Whether it is none of Python's functions, but is called as they are: those of ctypes, say."""
    calls = next((vars(item)["__call__"] for item in kind.__mro__ if "__call__" in vars(item)), None)
    is_known = _top(kind.__module__) in ("builtins", "torch", "weakref") or _is_known(kind.__module__)
    return isinstance(calls, WrapperDescriptorType) and not (is_known or issubclass(kind, type))


def _home(names: dict[str, Any], file: str) -> str:
    found = names.get("__name__"), getattr(names.get("__spec__"), "name", None)
    for name in filter(None, found):  # which are two for what Python froze
        module = sys.modules.get(name)
        # torch.backends puts others in the place of some of its modules
        both = module, getattr(module, "m", None)
        if any(isinstance(item, ModuleType) and vars(item) is names for item in both):
            is_made = file.startswith("<") and not file.startswith("<frozen ")  # of text
            where = str(names.get("__file__")) if is_made else file
            return str(name) if _lies_there(_top(str(name)), where) else ""
    return ""


def _lies_there(top: str, file: str) -> bool:
    """Whether code is where what it is named for is: a model's file may be named as one of Python's."""
    if file.startswith("<frozen ") or top not in sys.stdlib_module_names | {"torch"}:
        return True
    return file.startswith(os.path.dirname(torch.__file__ if top == "torch" else os.__file__))


@functools.cache
def _top(home: str) -> str:
    return home.partition(".")[0]


def _is_own(home: str) -> bool:
    """Whether it is neither torch's, Python's nor ours."""
    return _top(home) not in _NOT_OWN


def _is_pure(home: str, name: str) -> bool:
    is_known = _is_known(home) and not (_top(home) == "numpy" and name in _SETTINGS)
    is_telling = _top(home) in _SILENT and not name.startswith(_KEEPING)
    return is_known or is_telling or _top(home) in _OURS or _is_torch(home, name)


def _is_known(home: str) -> bool:
    return _top(home) in _PURE and not home.startswith(_RANDOM)


def _is_torch(home: str, name: str) -> bool:
    is_known = name in _ANSWERED or any(f"{home}.".startswith(f"{known}.") for known in _TORCH)
    return _top(home) == "torch" and is_known


def _is_pure_c(function: Any) -> bool:
    owner, name = function.__self__, function.__name__
    if isinstance(owner, ModuleType) or function.__module__ == "torch._C":  # where pybind owns it
        home = getattr(owner, "__name__", function.__module__)
        return name in _BUILTINS if home == "builtins" else _is_pure(home, name)
    if owner is None:
        return str(function.__qualname__).startswith("_VariableFunctionsClass.")
    kind = owner if isinstance(owner, type) else type(owner)
    return issubclass(kind, _DATA) or _is_known(kind.__module__)


def _told(name: str, frame: FrameType) -> str:
    return f"{name} ({os.path.basename(frame.f_code.co_filename)}, line {frame.f_lineno})"


def _c_name(function: Any) -> str:
    owner = function.__self__
    home = owner.__name__ if isinstance(owner, ModuleType) else function.__module__ or type(owner).__module__
    return f"{home}.{function.__qualname__}"
