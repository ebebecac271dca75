"""What a module has to have to be one of its class: attributes of the types that torch's classes declare.

A pickle gives a module any attributes, and leaves out any. What torch and fxpasses read of a module of
torch's own classes, or of a class below one, is there afterwards and has its type. What an older torch did
not write yet is filled in: a new argument's default is what the class did before it had that argument.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import types
import typing
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fxexport.untrusted.limits import MAX_MODULES
from fxexport.untrusted.pickle_records import PickleError

_OWN = "torch.nn.modules."
# what the classes compute for themselves, or do without, where a file of an old torch has it not
_COMPUTED: dict[str, Callable[[Any], Any]] = {
    "_reversed_padding_repeated_twice": lambda conv: tuple(n for n in reversed(conv.padding) for _ in "12"),
    "num_batches_tracked": lambda norm: None,
}
_SEQUENCES = (tuple, list, collections.abc.Sequence)


def complete(module: nn.Module) -> None:
    """Fills in what older versions did not write; returns where the module has what its classes need.

    Raises:
        PickleError: an attribute, parameter or buffer is missing, or of another type.
    """
    for name, blank in vars(nn.Module()).items():
        found = vars(module).setdefault(name, blank)
        if isinstance(blank, dict | set) and not isinstance(found, type(blank)):
            raise _odd(module, name, found)
    for kind in type(module).__mro__:
        if kind is not nn.Module and kind.__module__.startswith(_OWN):
            _complete_as(kind, module)


def require_few(root: nn.Module) -> None:
    """Returns where tracing the model calls few modules: fifteen that each hold the next twice are 65,535.

    Raises:
        PickleError: they are more than the limit.
    """
    counts: dict[int, int] = {}

    def count(module: nn.Module) -> int:
        if id(module) not in counts:
            children = [child for child in module._modules.values() if child is not None]
            counts[id(module)] = 1 + sum(map(count, children))
        return counts[id(module)]

    if count(root) > MAX_MODULES:
        raise PickleError(
            f"the model has {count(root):,} modules, more than the limit of {MAX_MODULES:,}, those that are "
            "shared counted as often as they are met"
        )


def _complete_as(kind: type, module: nn.Module) -> None:
    example, defaults = _example(kind)
    for name, value in example.items():
        if not _has(module, name):
            vars(module)[name] = _filled_in(module, name, defaults)
        found = getattr(module, name)
        if isinstance(value, torch.Tensor) and isinstance(found, torch.Tensor):
            shape = getattr(module, "normalized_shape", value.shape)
            if found.ndim != len(shape):
                raise PickleError(f"a {type(module).__name__} has a {name} of {found.ndim} dimensions")
    for name, hint in _hints(kind).items():
        found = getattr(module, name) if _has(module, name) else None
        is_left_out = found is None and (not _has(module, name) or defaults.get(name, ...) is None)
        if not is_left_out and not _fits(found, hint):
            raise _odd(module, name, found)


def _filled_in(module: nn.Module, name: str, defaults: dict[str, Any]) -> Any:
    if name in _COMPUTED:
        return _COMPUTED[name](module)
    if defaults.get(name, inspect.Parameter.empty) is inspect.Parameter.empty:
        raise PickleError(f"a {type(module).__name__} has no {name}")
    return defaults[name]


def _has(module: nn.Module, name: str) -> bool:
    return name in vars(module) or name in {**module._parameters, **module._buffers, **module._modules}


def _odd(module: nn.Module, name: str, value: Any) -> PickleError:
    return PickleError(f"a {type(module).__name__} has a {type(value).__name__} as its {name}")


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    general = nn.Module.__annotations__
    return {name: hint for name, hint in typing.get_type_hints(kind).items() if name not in general}


@functools.cache
def _example(kind: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """The attributes of a small module of the class, by name, and the arguments' defaults.

    Of a class that cannot be made of ones, such as Unflatten, those that it declares as constants.
    """
    arguments = inspect.signature(kind).parameters.values()
    defaults = {argument.name: argument.default for argument in arguments}
    needed = [1 for argument in arguments if argument.default is argument.empty]
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes that torch no longer likes
            made = kind(*needed)
    except (TypeError, ValueError):
        return dict.fromkeys(getattr(kind, "__constants__", ())), defaults
    general = vars(nn.Module())
    own = {name: value for name, value in vars(made).items() if name not in general}
    return own | made._parameters | made._buffers, defaults


def _fits(value: Any, hint: Any) -> bool:
    """Whether the value is what torch takes for such an attribute: a number stands for a tuple of it, too."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is typing.Literal:
        return value in inner
    if hint in _SEQUENCES or origin in _SEQUENCES:
        parts = value if isinstance(value, tuple | list) else (value,)
        return all(any(_fits(part, one) for one in inner if one is not ...) for part in parts)
    if hint in (int, bool):
        return isinstance(value, int)
    if hint is float:
        return isinstance(value, int | float)
    return not isinstance(hint, type) or isinstance(value, hint)
