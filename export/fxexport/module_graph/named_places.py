"""What stands where code may look by name: behind its names, and the names of their attributes.

A model's code may keep a number on what is not its own, ``torch.relu.count``, a logger, a class of torch's or
a weight. So what it names is looked at, with every attribute of a name that stands in it, and no code runs.
"""

from __future__ import annotations

import builtins
import contextlib
import dis
import itertools
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import CodeType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import nn

_FAST = frozenset("LOAD_FAST LOAD_FAST_CHECK LOAD_FAST_BORROW LOAD_DEREF LOAD_CLASSDEREF LOAD_NAME".split())
_NAMED = ("LOAD_GLOBAL", "IMPORT_NAME")
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD")
_OF_FUNCTIONS = frozenset("__annotations__ __code__ __defaults__ __doc__ __kwdefaults__ __name__".split())
_STORES = ("STORE_ATTR", "DELETE_ATTR")
_WRITERS = frozenset("setattr delattr vars __dict__ __setattr__ __delattr__ __getattribute__".split())
"""By which code reaches attributes that it does not name."""


class _Chain(NamedTuple):
    """A name, and the attributes that are read behind it; ``is_given`` to one of ``_WRITERS``."""

    root: str
    parts: tuple[str, ...]
    is_given: bool


class _Named(NamedTuple):
    """What code says: chains, names that may be those of attributes, and those that it stores in no chain."""

    chains: tuple[_Chain, ...]
    names: frozenset[str]
    stores: frozenset[str]


class Place(NamedTuple):
    """An object that code names, in words."""

    path: str
    value: object
    is_written: bool


@lru_cache(4096)
def named(code: CodeType) -> _Named:
    """What code says."""
    texts = (text for text in _texts(code.co_consts) if text.isidentifier())
    items = [*dis.get_instructions(code)]
    stores = {
        str(item.argval)
        for before, item in itertools.pairwise(items)
        if item.opname in _STORES and before.opname not in (*_FAST, *_NAMED, *_ATTRIBUTES)
    }
    return _Named(tuple(_chains(items)), frozenset((*code.co_names, *texts)), frozenset(stores))


def _texts(constants: tuple[object, ...]) -> Iterator[str]:
    for item in constants:
        if isinstance(item, str):
            yield item
        elif isinstance(item, tuple):
            yield from _texts(item)


def _chains(items: list[dis.Instruction]) -> Iterator[_Chain]:
    root, is_given, follows = "", False, False
    parts: tuple[str, ...] = ()
    for item in items:
        name = str(item.argval)
        is_name = item.opname in _FAST or item.opname in _NAMED
        if not is_name and root and item.opname in _ATTRIBUTES:
            parts = (*parts, name)
            continue
        if not is_name and item.opname in ("PUSH_NULL", "PRECALL", "CACHE", "COPY"):
            continue
        if root:
            yield _Chain(root, parts, is_given)
            follows = not parts and root in _WRITERS
        root, parts, is_given = (name, (), follows) if is_name else ("", (), False)
    if root:
        yield _Chain(root, parts, is_given)


def places(frame: FrameType) -> Iterator[Place]:
    """The objects that a frame's code names, along each chain, and those that its names hold by now."""
    names: Mapping[str, Any] = frame.f_locals
    for name, value in names.items():
        yield Place(name, value, False)
    for root, parts, is_given in named(frame.f_code).chains:
        value, path = names.get(root, _global(root, frame)), root
        for place, part in enumerate((*parts, "")):
            is_written = part in _WRITERS or (is_given and place == len(parts))
            yield Place(path, value, is_written)
            value, path = attribute_of(value, part), f"{path}.{part}"
            if value is None:
                break


def _global(name: str, frame: FrameType) -> object:
    return frame.f_globals.get(name, getattr(builtins, name, sys.modules.get(name)))


def attribute_of(value: object, name: str) -> object:
    """What an attribute holds, without running code; None where that is not known."""
    if name == "__class__":
        return type(value)
    if isinstance(value, MethodType):
        value = value.__func__
    if isinstance(value, FunctionType):
        return getattr(value, name) if name in _OF_FUNCTIONS else vars(value).get(name)
    for space in _spaces(value):
        if name in space:
            return space[name]
    return None


def has_attribute(value: object, name: str) -> bool:
    """Whether an object, or its class, holds one of this name."""
    return any(name in space for space in (*_spaces(value), *map(vars, type(value).__mro__)))


def _spaces(value: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, type):
        yield from map(vars, value.__mro__)
        return
    with contextlib.suppress(AttributeError):
        yield object.__getattribute__(value, "__dict__")
    if isinstance(value, nn.Module):
        yield from (value.__dict__.get(part, {}) for part in ("_parameters", "_buffers", "_modules"))
    if not isinstance(value, ModuleType | torch.Tensor):
        yield from map(vars, type(value).__mro__)
