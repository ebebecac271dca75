"""Records of a pickle → objects: plain data, tensors, and modules of classes that are allowed.

Nothing is called that the file could choose. A module is ``cls.__new__(cls)`` of an allowed class with a
state in which every value is checked: no hooks, no attribute that takes the place of a method, no
functions, children that are modules, parameters that are parameters.
"""

from __future__ import annotations

import collections
import enum
import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fxexport.untrusted.allowed import GRAPH_MODULE, PARTIAL, Allowed, plain_value
from fxexport.untrusted.pickle_records import Global, Made, Persistent, PickleError, PlainDict, PlainSet
from fxhead.loading.tensors import Storages, tensor

_MAX_DEPTH = 120
_ATTRIBUTE = re.compile(r"[A-Za-z_]\w*")
_REGISTRIES = ("_modules", "_parameters", "_buffers")
_BUSY = object()

MakeGraph = Callable[["Objects", Made], nn.Module]


class Objects:
    """Makes real what a pickle's records describe, each record once."""

    def __init__(self, allowed: Allowed, storages: Storages, make_graph: MakeGraph | None = None) -> None:
        """``make_graph`` makes a GraphModule of its record, where there may be one."""
        self.allowed = allowed
        self._storages = storages
        self._make_graph = make_graph
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
        if self._depth > _MAX_DEPTH:
            raise PickleError("the pickle is nested too deeply")
        self._made[id(record)] = (record, _BUSY)  # the record too: an id is good as long as its object
        made = self._made[id(record)] = (record, self._new(record))
        self._depth -= 1
        return made[1]

    def _new(self, record: Any) -> Any:
        if isinstance(record, tuple):
            return tuple(self.make(part) for part in record)
        if isinstance(record, PlainSet):
            return {_hashable(self.make(part)) for part in record}
        if isinstance(record, list):
            return [self.make(part) for part in record]
        if isinstance(record, PlainDict):
            return {_hashable(self.make(key)): self.make(value) for key, value in record.pairs}
        if isinstance(record, Global):
            return self._name(record)
        if isinstance(record, Made):
            return self._object(record)
        what = "a bare storage" if isinstance(record, Persistent) else f"a {type(record).__name__}"
        raise PickleError(f"the pickle has {what} where it cannot be used")

    def _name(self, name: Global) -> Any:
        """What a bare name stands for: a dtype, or a class that is kept and not called."""
        value = plain_value(name)
        found = self.allowed.find_class(name) if value is None else None
        if value is None and found is None:
            raise PickleError(f"the pickle uses {name} as a value")
        return found if value is None else value

    def _object(self, record: Made) -> Any:
        if not isinstance(record.function, Global):
            raise PickleError("the pickle calls something that it made itself")
        if record.function == GRAPH_MODULE and self._make_graph is not None:
            return self._make_graph(self, record)
        maker = _MAKERS.get(str(record.function))
        if maker is not None:
            return maker(self, record)
        found = self.allowed.find_class(record.function)
        if found is None:
            raise PickleError(f"the pickle calls {record.function}")
        if issubclass(found, nn.Module):
            return self._module(found, record)
        if self.allowed.is_named(record.function):
            return self._named(found, record)
        return self._enum(found, record)

    # --- modules ---------------------------------------------------------------------------------

    def _module(self, kind: type[nn.Module], record: Made) -> nn.Module:
        if not record.is_instance or record.args != () or record.items or len(record.states) != 1:
            raise PickleError(f"the pickle makes a {kind.__name__} in a way that torch.save does not")
        module: nn.Module = kind.__new__(kind)
        state = self.module_state(kind, record.states[0])
        module.__setstate__(state)  # type: ignore[no-untyped-call]  # the class's own; it fills in what older versions did not have
        return module

    def module_state(self, kind: type[nn.Module], record: Any) -> dict[str, Any]:
        """The attributes of a module, checked.

        Raises:
            PickleError: they would make it do something else than its class does.
        """
        state = self.make(record)
        where = kind.__name__
        if type(state) is not dict:
            raise PickleError(f"the state of a {where} is no dict")
        for name, value in state.items():
            _require_attribute(kind, name, value)
        for registry in _REGISTRIES:
            if type(state.get(registry)) not in (dict, collections.OrderedDict):
                raise PickleError(f"a {where} has no {registry}")
        _require_entries(state, where)
        return state

    def _named(self, kind: type, record: Made) -> Any:
        """An object of a class that the user named, made as pickle does: that class may run its code."""
        args = self.make(record.args)
        if type(args) is not tuple or record.items or len(record.states) > 1:
            raise PickleError(f"the pickle makes a {kind.__name__} in a way that is not supported")
        made: Any = kind.__new__(kind, *args) if record.is_instance else kind(*args)
        for state in map(self.make, record.states):
            if hasattr(made, "__setstate__"):
                made.__setstate__(state)
            elif type(state) is dict:
                made.__dict__.update(state)
            else:
                raise PickleError(f"the state of a {kind.__name__} is no dict")
        return made

    def _enum(self, kind: type, record: Made) -> Any:
        args = self.make(record.args)
        if record.states or record.items or record.is_instance or type(args) is not tuple or len(args) != 1:
            raise PickleError(f"the pickle makes a {kind.__name__} in a way that is not supported")
        if not issubclass(kind, enum.Enum) or type(args[0]) not in (int, str):
            raise PickleError(f"the pickle calls {record.function}")
        return kind(args[0])

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
            made[_hashable(pair[0])] = pair[1]
        for state in map(self.make, record.states):
            # load_state_dict keeps the versions of modules there; nothing else is kept
            if type(state) is dict and type(state.get("_metadata")) in (dict, collections.OrderedDict):
                made._metadata = state["_metadata"]  # type: ignore[attr-defined]
        return made

    def _set(self, record: Made) -> Any:
        args = self.args(record, 0, 1)
        return {_hashable(part) for part in (*(args[0] if args else ()), *map(self.make, record.items))}

    def _slice(self, record: Made) -> Any:
        return slice(*self.args(record, 1, 3))

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

    def _partial(self, record: Made) -> Any:
        """A constructor with some arguments given: of an allowed module class, with plain data only."""
        if len(record.states) != 1:
            raise PickleError("the pickle has a functools.partial without a state")
        state = record.states[0]
        if not (isinstance(state, tuple) and len(state) == 4 and isinstance(state[0], Global)):
            raise PickleError("the pickle has a functools.partial of something that is no class")
        found = self.allowed.find_class(state[0])
        if found is None or not issubclass(found, nn.Module) or record.args != (state[0],):
            raise PickleError(f"the pickle has a functools.partial of {state[0]}")
        args, named, attributes = self.make(state[1]), self.make(state[2]), self.make(state[3])
        if attributes or not all(_is_plain(value) for value in (*args, *named.values())):
            raise PickleError("the pickle has a functools.partial with more than plain arguments")
        return functools.partial(found, *args, **named)

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


_MAKERS: dict[str, Callable[[Objects, Made], Any]] = {
    "collections.OrderedDict": Objects._ordered_dict,
    "builtins.set": Objects._set,
    "builtins.frozenset": Objects._set,
    "builtins.slice": Objects._slice,
    "_codecs.encode": Objects._encoded,
    "torch.Size": Objects._size,
    "torch.device": Objects._device,
    "torch.serialization._get_layout": Objects._layout,
    "torch._utils._rebuild_parameter": Objects._parameter,
    "torch._utils._rebuild_tensor": Objects._tensor,
    "torch._utils._rebuild_tensor_v2": Objects._tensor,
    "torch._utils._rebuild_tensor_v3": Objects._tensor,
    str(PARTIAL): Objects._partial,
}


def _hashable(value: Any) -> Any:
    """A key: text or a number. A tuple of tuples of tuples … could take for ever to hash."""
    plain = (str, int, float, bool, bytes, type(None))
    if type(value) in plain or (type(value) is tuple and all(type(part) in plain for part in value)):
        return value
    raise PickleError(f"the pickle has a {type(value).__name__} as a key")


def _is_plain(value: Any) -> bool:
    plain = (bool, int, float, str, type(None))
    return type(value) in plain or (
        type(value) in (tuple, list) and all(type(part) in plain for part in value)
    )


def _require_attribute(kind: type[nn.Module], name: Any, value: Any) -> None:
    """Returns where setting the attribute changes what a module knows, and not what it does."""
    where = kind.__name__
    if type(name) is not str or name.startswith("__"):
        raise PickleError(f"a {where} has an attribute {name!r:.80}")
    if "hooks" in name and value:
        raise PickleError(f"a {where} has hooks ({name}), which are functions")
    if name == "training" and type(value) is not bool:
        raise PickleError(f"a {where} has training = {value!r:.80}")
    if name == "_compiled_call_impl" and value is not None:
        raise PickleError(f"a {where} has a compiled call")
    shadowed = inspect.getattr_static(kind, name, None)
    if name == "call_super_init" or callable(shadowed) or hasattr(shadowed, "__get__"):
        raise PickleError(f"a {where} has an attribute in place of its {name}")


def _require_entries(state: dict[str, Any], where: str) -> None:
    kinds: dict[str, tuple[type, ...]] = {
        "_modules": (nn.Module, type(None)),
        "_parameters": (nn.Parameter, type(None)),
        "_buffers": (torch.Tensor, type(None)),
    }
    for registry, allowed in kinds.items():
        for name, value in state[registry].items():
            if type(name) is not str or not name or "." in name:
                raise PickleError(f"a {where} has something called {name!r:.80} in {registry}")
            if not isinstance(value, allowed):
                raise PickleError(f"a {where} has a {type(value).__name__} in {registry}")
            if name in state or (_ATTRIBUTE.fullmatch(name) and hasattr(nn.Module, name)):
                raise PickleError(f"a {where} has a part in place of its {name}")
