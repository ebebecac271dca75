"""What a module computes that no graph of it shows: hooks, shadowed methods, code that is not the graph's."""

from __future__ import annotations

import gc
import inspect
import warnings
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from types import BuiltinFunctionType, FunctionType, GeneratorType, MethodType, ModuleType, SimpleNamespace
from typing import Any, TypeAlias

import torch
from torch import fx, nn

from fxpasses.graph.held import has_names, is_of_own_class

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_METHODS = ("forward", "__call__", "_call_impl")


def outside_graph(module: nn.Module) -> str | None:
    """What a trace of ``module`` may not show, as a clause; None where nothing is seen."""
    checking = _only_checking(module)
    for name, part in module.named_modules():
        where = repr(name) if name else type(module).__name__
        if any(_is_own(hook) for hooks in _HOOKS for hook in getattr(part, hooks, {}).values()):
            return f"{where} has hooks, which no graph shows"
        if name in checking:
            continue
        shadowed = next((method for method in _METHODS if method in vars(part)), None)
        if shadowed is not None:
            return f"{where} has a {shadowed} of its own in place of its class's"
        if isinstance(part, fx.GraphModule) and is_stale(part):
            return f"the graph of {where} was edited, and its code was not made again"
    return None


def _only_checking(module: nn.Module) -> set[str]:
    """Parts of an exported program that give nothing: they check the inputs."""
    if not isinstance(module, fx.GraphModule):
        return set()
    calls = [node for node in module.graph.nodes if node.op == "call_module"]
    return {str(node.target) for node in calls} - {str(node.target) for node in calls if node.users} - {""}


def _is_own(hook: object) -> bool:
    """True unless it is that of an exported program, which checks the inputs and changes nothing."""
    home = getattr(hook, "__module__", "")
    return not home.startswith(("torch.export", "torch._export"))


def is_stale(module: fx.GraphModule) -> bool:
    """True if the code that runs is not that of the graph."""
    code = getattr(module, "_code", None)
    return code is not None and module.graph.python_code("self").src != code


States: TypeAlias = dict[int, tuple[str, object, str]]
"""Objects by their numbers: where each is held, it itself, and what it holds as text."""


def opaque_states(module: nn.Module) -> States:
    """What objects hold that the parts of a module hold: iterators, arrays, generators of random numbers.

    Containers and objects of a model's own classes are looked through, and are not told: see ``Held``.
    """
    found: States = {}
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            for item in _opaque(value):
                found[id(item)] = f"{path}.{name}".lstrip("."), item, told(item)
    return found


def changed_state(before: States, after: States) -> str | None:
    """Where the first object is held that holds something else than before; None where none does."""
    changed = (name for key, (name, _, told) in before.items() if key in after and after[key][2] != told)
    return next(changed, None)


def _opaque(value: object) -> list[object]:
    """The objects in a value that are no containers, no code and no plain data."""
    left, seen, found = [value], {id(value)}, []
    for item in left:  # grows while it is read
        if isinstance(item, _CODE) or item is None or type(item) in _PLAIN[:-1] or len(left) > _MOST:
            continue
        is_open = isinstance(item, _CONTAINERS) or has_names(item)
        parts = _parts(item) if isinstance(item, _CONTAINERS) else [*vars(item).values()] if is_open else []
        found += [] if is_open else [item]
        left += [part for part in parts if id(part) not in seen]
        seen |= set(map(id, parts))
    return found


def told(value: object) -> str:
    """The data that an object holds as text, as far as it is not much."""
    return as_text(walked(value))


def as_text(items: Iterable[object]) -> str:
    """The data among them, and how much containers hold."""
    return "; ".join(filter(None, map(_item_as_text, items)))


def _item_as_text(item: object) -> str:
    if isinstance(item, bytes | bytearray):
        return str(zlib.crc32(item))
    if item is None or isinstance(item, _PLAIN):
        return repr(item)
    kind: Any = next((kind for kind in _COUNTED if isinstance(item, kind)), None)
    return "" if kind is None else f"<{kind.__len__(item)}>"  # not that of a class of a user's


def walked(value: object, is_known: Callable[[object], bool] = lambda _: False) -> Iterator[object]:
    """An object and all that it holds, as far as it is not much; what is known is not looked into."""
    left: list[object] = [value]
    seen: dict[int, object] = {}
    while left and len(seen) + len(left) <= _MOST:
        item = left.pop()
        is_plain = type(item) in _PLAIN or item is None
        if is_plain or id(item) not in seen:
            yield item
        if not is_plain and id(item) not in seen and not is_known(item):
            seen[id(item)] = item
            left += [*_names(item), *([] if isinstance(item, (*_CODE, *_PLAIN)) else _parts(item))]


def _names(item: object) -> list[object]:
    """What an object holds that its type does not know of."""
    if isinstance(item, torch.Tensor):
        return [vars(item)]
    is_open = isinstance(item, nn.Module | FunctionType) or is_of_own_class(item)
    return [item.__dict__] if is_open and not isinstance(item, type | ModuleType) and _has_dict(item) else []


def _has_dict(item: object) -> bool:
    """Whether it has names, which its own code is not asked for."""
    return type(item).__dictoffset__ != 0


def _parts(item: object) -> list[object]:
    """What an object holds: of one that is no container what a copy of it would be made of."""
    if isinstance(item, weakref.ref):
        return [item()]
    if isinstance(item, ContextVar):
        return [item.get(None)]
    if isinstance(item, SimpleNamespace):
        return [*vars(item).values()]
    if isinstance(item, dict):
        return [part for pair in item.items() for part in pair]
    if isinstance(item, _CONTAINERS):
        return [*item]
    if isinstance(item, GeneratorType):
        return [item.gi_frame and item.gi_frame.f_lasti, inspect.getgeneratorlocals(item)]
    size = getattr(item, "nbytes", 0)  # which of a storage is a method
    if isinstance(size, int) and size > _MOST_BYTES:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made = item.__reduce_ex__(4)
            return [] if isinstance(made, str) else [[*p] if isinstance(p, Iterator) else p for p in made[1:]]
        except Exception:  # noqa: BLE001 - it has no copy, and says so in whatever way it likes
            is_closed = type(item).__module__.partition(".")[0] in ("torch", "numpy")
            return [] if is_closed else [getattr(item, "__dict__", None), *gc.get_referents(item)]


_COUNTED = (dict, list, tuple, set, frozenset, deque)
_CONTAINERS = (dict, list, tuple, set, frozenset, deque, SimpleNamespace)
_PLAIN = (bool, int, float, complex, str, bytes, bytearray)
_CODE = (nn.Module, torch.Tensor, type, ModuleType, FunctionType, MethodType, BuiltinFunctionType)
"""What is looked into elsewhere, or has no state that a run changes."""
_MOST, _MOST_BYTES = 100_000, 2**28
"""What has more parts, or is longer, is data and is not looked into."""
