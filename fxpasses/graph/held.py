"""What a model holds beside parameters, buffers and modules, so that a change is seen and undone."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from types import CellType, FunctionType, ModuleType, SimpleNamespace
from typing import Any, TypeAlias

import torch
from torch import nn

_MOST = 1000
"""Longer containers are data, and are not looked into."""

_REGISTRIES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
_NOT_THEIR_OWN = sys.stdlib_module_names | {"torch", "numpy"}
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_Container: TypeAlias = dict[Any, Any] | list[Any] | set[Any] | deque[Any]
_CONTAINERS = (dict, list, set, deque, tuple)
_NOTHING = object()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Change:
    """What a model holds in a place where it held something else before.

    Attributes:
        name: the attribute, or the one that the container is found in, as ``path.name``.
        container: what has the place.
        key: the place in a dictionary or in an object's names; None in other containers.
        value: what it holds now.
    """

    name: str
    container: _Container
    key: Any
    value: Any

    @property
    def place(self) -> tuple[int, Any]:
        """The place, of those that are held at one time."""
        return id(self.container), self.key


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """A container, and what it held.

    Attributes:
        name: the attribute that it is found in; of the names of an object, the path of that.
        container: it.
        content: what it held.
        versions: how often each tensor in it had been written to.
        owner: the module whose names it has.
        is_names: whether its keys are names of attributes.
    """

    name: str
    container: _Container
    content: dict[Any, Any] | list[Any]
    versions: dict[int, int | None]
    owner: nn.Module | None
    is_names: bool


class Held:
    """What a model holds now in attributes, and in containers and objects of its own classes in them."""

    def __init__(self, model: nn.Module) -> None:
        """Notes it."""
        self._model = model
        self._contents = [*_contents(model.named_modules())]
        self._watched = {id(found.container) for found in self._contents}
        self._beside = HeldBeside(model)

    def put_back(self) -> None:
        """Lets the model hold the same again, but for what it has registered since.

        What its functions remember of calls they forget: that may be what stands for tensors, too.
        """
        for cache in _caches(self._model):
            cache.cache_clear()
        for found in self._contents:
            _put_back(found)
        self._beside.put_back()

    def watches(self, value: object) -> bool:
        """Whether a value is such a container or object."""
        container = vars(value) if has_names(value) else value
        return id(container) in self._watched

    def changes(self) -> list[Change]:
        """Where it holds something else by now, or a tensor that was written to."""
        return [change for found in self._contents for change in _changes(found)]


class HeldBeside:
    """What a model's classes and the files that they stand in hold now: data, and containers of it."""

    def __init__(self, model: nn.Module) -> None:
        """Notes it."""
        spaces: list[type | ModuleType] = [*_own_classes(model), *_own_files(model)]
        self._names = [(space, _data_of(space)) for space in spaces]
        held = [pair for _, names in self._names for pair in names.items()]
        held += [("", part) for space in spaces for part in _kept_by_functions(space)]
        self._contents = [*_contents((name, part) for name, part in held if isinstance(part, _CONTAINERS))]

    def put_back(self) -> None:
        """Lets them hold the same again, as far as it is data: what was imported since stays."""
        for found in self._contents:
            _put_back(found)
        for space, before in self._names:
            now = _data_of(space)
            for name in {**before, **now}:
                own = before.get(name, _NOTHING)
                if own is _NOTHING:
                    delattr(space, name)
                elif now.get(name, _NOTHING) is not own:
                    setattr(space, name, own)


def _data_of(space: type | ModuleType) -> dict[str, object]:
    """The names of a class or of a file that hold data."""
    kinds = (*_PLAIN, torch.Tensor, *_CONTAINERS)
    return {
        name: value
        for name, value in vars(space).items()
        if isinstance(value, kinds) and not name.startswith("__")
    }


def _kept_by_functions(space: type | ModuleType) -> Iterator[object]:
    """What functions there have as defaults, and close over."""
    for value in vars(space).values():
        if isinstance(value, FunctionType):
            yield from value.__defaults__ or ()
            yield from (value.__kwdefaults__ or {}).values()
            yield from (cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell))


def _is_filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _makes_what_it_gives(container: object) -> bool:
    """Whether a dictionary runs code of its own where it is read, as transformers' of activations does."""
    return isinstance(container, dict) and type(container).__getitem__ is not dict.__getitem__


def _own_classes(model: nn.Module) -> list[type]:
    classes = {base for part in model.modules() for base in type(part).__mro__}
    return [base for base in classes if base.__module__.partition(".")[0] not in _NOT_THEIR_OWN]


def _own_files(model: nn.Module) -> list[ModuleType]:
    found = {base.__module__: sys.modules.get(base.__module__) for base in _own_classes(model)}
    return [*filter(None, found.values())]


def _put_back(found: _Content) -> None:
    before = _unregistered(found, found.content)
    if not _is_same(before, _now(found)):
        found.container.clear()
        if isinstance(found.container, list | deque):
            found.container.extend(before)
        else:
            found.container.update(before)


def _contents(parts: Iterable[tuple[str, object]]) -> Iterator[_Content]:
    pending = [*parts]
    seen: set[int] = set()
    for name, value in pending:  # grows while it is read
        owner = value if isinstance(value, nn.Module) else None
        is_names = owner is not None or has_names(value)
        found = vars(value) if is_names else value
        if (
            not isinstance(found, dict | list | set | deque | tuple)
            or len(found) > _MOST
            or id(found) in seen
            or _makes_what_it_gives(found)
        ):
            continue
        seen.add(id(found))
        if not isinstance(found, dict):
            held = [(name, part) for part in found]
        else:
            held = [
                (_joined(name, key) if is_names else name, part)
                for key, part in found.items()
                if owner is None or key not in _REGISTRIES
            ]
        pending += held
        if not isinstance(found, tuple):
            yield _Content(
                name=name,
                container=found,
                content=dict(found) if isinstance(found, dict) else [*found],
                versions={id(part): _version(part) for _, part in held if isinstance(part, torch.Tensor)},
                owner=owner,
                is_names=is_names,
            )


def _caches(model: nn.Module) -> Iterator[functools._lru_cache_wrapper[Any]]:
    """Those of ``functools`` among the names of the model's classes and of their modules."""
    for space in (*_own_classes(model), *_own_files(model)):
        for value in vars(space).values():
            function = value.__func__ if isinstance(value, staticmethod | classmethod) else value
            if isinstance(function, functools._lru_cache_wrapper):
                yield function


def has_names(value: object) -> bool:
    """Whether it is an object of a class of one's own, which may be a model's memory as a module may."""
    is_own = is_of_own_class(value) or type(value) is SimpleNamespace
    return (
        is_own and isinstance(getattr(value, "__dict__", None), dict) and not isinstance(value, dict | list)
    )


def is_of_own_class(value: object) -> bool:
    """Whether its class is neither Python's nor torch's."""
    home = str(type(value).__module__)  # of a class whose class is compiled it is no text
    return home.partition(".")[0] not in _NOT_THEIR_OWN


def _joined(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


def _now(found: _Content) -> dict[Any, Any] | list[Any]:
    container = found.container
    return _unregistered(found, container) if isinstance(container, dict) else [*container]


def _unregistered(found: _Content, content: dict[Any, Any] | list[Any]) -> dict[Any, Any] | list[Any]:
    """Without what has come to be registered, which is no memory of a run."""
    if found.owner is None or not isinstance(content, dict):
        return content
    owner = found.owner
    registered = {*owner._parameters, *owner._buffers, *owner._modules}
    return {name: value for name, value in content.items() if name not in registered}


def _is_same(before: Any, now: Any) -> bool:
    """Whether they hold the same objects; whether two proxies are equal would be a question to the graph."""
    if isinstance(before, dict):
        return [*before] == [*now] and all(before[key] is now[key] for key in before)
    return len(before) == len(now) and all(a is b for a, b in zip(before, now, strict=True))


def _changes(found: _Content) -> Iterator[Change]:
    before, now = _unregistered(found, found.content), _now(found)
    if isinstance(before, dict) and isinstance(now, dict):
        pairs = [(key, before.get(key, _NOTHING), now.get(key, _NOTHING)) for key in {**before, **now}]
    else:
        pairs = [(None, a, b) for a, b in zip_longest(before, now, fillvalue=_NOTHING)]
    for key, a, b in pairs:
        if not is_equal(a, b) or (id(b) in found.versions and found.versions[id(b)] != _version(b)):
            name = _joined(found.name, key) if found.is_names else found.name
            yield Change(name=name, container=found.container, key=key, value=b)


def is_equal(a: object, b: object) -> bool:
    """Whether one is the other, or plain data of the same kind and value."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(is_equal, a, b))
    return type(a) in _PLAIN and repr(a) == repr(b)


def _version(value: object) -> int | None:
    is_counted = isinstance(value, torch.Tensor) and not value.is_inference()
    return value._version if is_counted else None  # type: ignore[attr-defined]
