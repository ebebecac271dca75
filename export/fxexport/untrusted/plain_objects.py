"""Records of a pickle → plain data and tensors, and nothing else.

Nothing is called that the file could choose: what a record would call is looked up in a table here, and
what is in the table is done by this file's own code.
"""

from __future__ import annotations

import argparse
import collections
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fxexport.untrusted import names
from fxexport.untrusted.limits import MAX_OBJECT_DEPTH
from fxexport.untrusted.pickle_records import Global, Made, Persistent, PickleError, PlainDict, PlainSet
from fxexport.untrusted.tensors import Storages, tensor

_BUSY = object()
_VALUES: dict[str, Any] = {
    str(value): value
    for value in vars(torch).values()
    if isinstance(value, torch.dtype | torch.layout | torch.memory_format)
}


class PlainObjects:
    """Makes real what a pickle's records describe, each record once."""

    def __init__(self, storages: Storages) -> None:
        """``storages`` are where the bytes of tensors are."""
        self._storages = storages
        self._made: dict[int, tuple[Any, Any]] = {}
        self._depth = 0

    def make(self, record: Any) -> Any:
        """The object.

        Raises:
            PickleError: there is something in it that no honest file has; the message says what.
        """
        if record is None or type(record) in (bool, int, float, str, bytes, bytearray):
            return record
        known = self._made.get(id(record))
        if known is not None:
            if known[1] is _BUSY:
                raise PickleError("the pickle has an object that contains itself")
            return known[1]
        self._depth += 1
        if self._depth > MAX_OBJECT_DEPTH:
            raise PickleError(f"the pickle is nested too deeply (the limit is {MAX_OBJECT_DEPTH})")
        self._made[id(record)] = (record, _BUSY)  # the record too: an id is good as long as its object
        made = self._made[id(record)] = (record, self._new(record))
        self._depth -= 1
        return made[1]

    def _new(self, record: Any) -> Any:
        if isinstance(record, tuple):
            return tuple(self.make(part) for part in record)
        if isinstance(record, PlainSet):
            return {hashable(self.make(part)) for part in record}
        if isinstance(record, list):
            return [self.make(part) for part in record]
        if isinstance(record, PlainDict):
            return {hashable(self.make(key)): self.make(value) for key, value in record.pairs}
        if isinstance(record, Global):
            return self.name(record)
        if isinstance(record, Made):
            if not isinstance(record.function, Global):
                raise PickleError("the pickle calls something that it made itself")
            maker = MADE.get(str(record.function))
            return self.other(record) if maker is None else maker(self, record)
        what = "a bare storage" if isinstance(record, Persistent) else f"a {type(record).__name__}"
        raise PickleError(f"the pickle has {what} where it cannot be used")

    def name(self, name: Global) -> Any:
        """What a bare name stands for: a dtype, a layout or a memory format.

        Raises:
            PickleError: it is none of these.
        """
        value = plain_value(name)
        if value is None:
            raise PickleError(f"the pickle uses {name} as a value")
        return value

    def other(self, record: Made) -> Any:
        """What a record that is no plain data and no tensor stands for: here an error.

        Raises:
            PickleError: always.
        """
        raise PickleError(f"the pickle calls {record.function}")

    # --- plain data ------------------------------------------------------------------------------

    def _ordered_dict(self, record: Made) -> Any:
        made: collections.OrderedDict[Any, Any] = collections.OrderedDict()
        args = self.make(record.args)
        pairs = [self.make(pair) for pair in record.items]
        if args not in ((), ([],)):
            pairs = [*map(tuple, args[0]), *pairs]
        for pair in pairs:
            if len(pair) != 2:
                raise PickleError("the pickle is damaged (a key without a value)")
            made[hashable(pair[0])] = pair[1]
        for state in map(self.make, record.states):
            # load_state_dict keeps the versions of modules there; nothing else is kept
            if type(state) is dict and type(state.get("_metadata")) in (dict, collections.OrderedDict):
                made._metadata = state["_metadata"]  # type: ignore[attr-defined]
        return made

    def _set(self, record: Made) -> Any:
        args = self.args(record, 0, 1)
        return {hashable(part) for part in (*(args[0] if args else ()), *map(self.make, record.items))}

    def _namespace(self, record: Made) -> Any:
        states = [self.make(state) for state in record.states]
        if record.args != () or record.items or len(states) > 1 or not all(type(s) is dict for s in states):
            raise PickleError(f"the pickle makes a {record.function} in a way that pickle does not")
        made = argparse.Namespace() if record.function.module == "argparse" else types.SimpleNamespace()
        for name, value in (states[0] if states else {}).items():
            made.__dict__[names.name(name, "a namespace with an attribute")] = value
        return made

    def _encoded(self, record: Made) -> Any:
        args = self.args(record, 2, 2)
        if type(args[0]) is not str or args[1] not in ("latin1", "latin-1"):
            raise PickleError("the pickle has bytes in a form that pickle does not write")
        return args[0].encode("latin1")

    def _size(self, record: Made) -> Any:
        (extents,) = self.args(record, 1, 1)
        return torch.Size(extents)

    def _device(self, record: Made) -> Any:
        args = self.args(record, 1, 2)
        return torch.device("meta" if args[0] == "meta" else "cpu")  # everything is loaded on the CPU

    def _layout(self, record: Made) -> Any:
        (name,) = self.args(record, 1, 1)
        if name != "torch.strided":
            raise PickleError(f"the pickle has a tensor of layout {name}")
        return torch.strided

    # --- tensors ---------------------------------------------------------------------------------

    def _tensor(self, record: Made) -> torch.Tensor:
        """``_rebuild_tensor(storage, offset, size, stride, …)`` and its later versions."""
        version = str(record.function).rpartition("_")[2]
        args = record.args
        if (
            record.is_instance
            or not isinstance(args, tuple)
            or len(args) < 4
            or record.states
            or record.items
        ):
            raise PickleError("the pickle makes a tensor in a way that torch.save does not")
        if not isinstance(args[0], Persistent):
            raise PickleError("the pickle has a tensor without a storage")
        storage, dtype = self._storages.storage(args[0])
        offset, size, stride = (self.make(argument) for argument in args[1:4])
        hooks = self.make(args[5]) if len(args) > 5 else None
        if version == "v3":
            dtype = self.make(args[6]) if len(args) > 6 else None
        if not isinstance(dtype, torch.dtype) or hooks:
            raise PickleError("the pickle has a tensor with hooks" if hooks else "a tensor has no dtype")
        made = tensor(storage, dtype, offset, size, stride)
        return made.requires_grad_(len(args) > 4 and args[4] is True)

    def _parameter(self, record: Made) -> nn.Parameter:
        args = self.args(record, 2, 3)
        if type(args[0]) is not torch.Tensor or type(args[1]) is not bool or (len(args) > 2 and args[2]):
            raise PickleError("the pickle has a parameter with hooks, or of no tensor")
        return nn.Parameter(args[0].detach(), args[1])

    def args(self, record: Made, least: int, most: int) -> tuple[Any, ...]:
        """The arguments of a call, which is to be a plain one with that many.

        Raises:
            PickleError: it is not.
        """
        args = self.make(record.args)
        plain = type(args) is tuple and not record.is_instance and not record.states
        if not plain or not least <= len(args) <= most or (record.items and least):
            raise PickleError(f"the pickle calls {record.function} in a way that torch.save does not")
        return args  # type: ignore[no-any-return]


MADE: dict[str, Callable[[PlainObjects, Made], Any]] = {
    "collections.OrderedDict": PlainObjects._ordered_dict,
    "builtins.set": PlainObjects._set,
    "builtins.frozenset": PlainObjects._set,
    "builtins.slice": lambda objects, record: slice(*objects.args(record, 1, 3)),
    "builtins.range": lambda objects, record: range(*objects.args(record, 1, 3)),
    "builtins.xrange": lambda objects, record: range(*objects.args(record, 1, 3)),
    "types.SimpleNamespace": PlainObjects._namespace,
    "argparse.Namespace": PlainObjects._namespace,
    "_codecs.encode": PlainObjects._encoded,
    "torch.Size": PlainObjects._size,
    "torch.device": PlainObjects._device,
    "torch.serialization._get_layout": PlainObjects._layout,
    "torch._utils._rebuild_parameter": PlainObjects._parameter,
    "torch._utils._rebuild_tensor": PlainObjects._tensor,
    "torch._utils._rebuild_tensor_v2": PlainObjects._tensor,
    "torch._utils._rebuild_tensor_v3": PlainObjects._tensor,
}
"""Names that a pickle may call, and what is made for each, by this file's own code."""


def plain_value(name: Global) -> Any:
    """A dtype, layout or memory format by its name, or None."""
    return _VALUES.get(str(name))


def hashable(value: Any) -> Any:
    """A key: text or a number. A tuple of tuples of tuples … could take for ever to hash."""
    plain = (str, int, float, bool, bytes, type(None))
    if type(value) in plain or (type(value) is tuple and all(type(part) in plain for part in value)):
        return value
    raise PickleError(f"the pickle has a {type(value).__name__} as a key")
