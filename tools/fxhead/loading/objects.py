"""Records of a pickle → modules of classes that are allowed, beside plain data and tensors.

A module is ``cls.__new__(cls)`` of an allowed class with a state in which every value is checked: no hooks,
no attribute that takes the place of a method, no functions, children that are modules, parameters that are
parameters, and names that are names.
"""

from __future__ import annotations

import collections
import enum
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fxexport.untrusted import names
from fxexport.untrusted.allowed import GRAPH_MODULE, PARTIAL, Allowed
from fxexport.untrusted.pickle_records import Global, Made, PickleError
from fxexport.untrusted.plain_objects import PlainObjects, plain_value
from fxexport.untrusted.tensors import Storages
from fxhead.loading.module_schema import complete

_REGISTRIES = ("_modules", "_parameters", "_buffers")

MakeGraph = Callable[["Objects", Made], nn.Module]


class Objects(PlainObjects):
    """Makes real what a pickle's records describe, each record once."""

    def __init__(self, allowed: Allowed, storages: Storages, make_graph: MakeGraph | None = None) -> None:
        """``make_graph`` makes a GraphModule of its record, where there may be one."""
        super().__init__(storages)
        self.allowed = allowed
        self._make_graph = make_graph

    def name(self, name: Global) -> Any:
        """A dtype, or a class that is kept and not called."""
        found = self.allowed.find_class(name) if plain_value(name) is None else None
        return super().name(name) if found is None else found

    def other(self, record: Made) -> Any:
        """A module, a GraphModule, an enum's value, or an object of a class that the user named.

        Raises:
            PickleError: it is none of them.
        """
        if record.function == GRAPH_MODULE and self._make_graph is not None:
            return self._make_graph(self, record)
        if record.function == PARTIAL:
            return self._partial(record)
        found = self.allowed.find_class(record.function)
        if found is None:
            return super().other(record)
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
        complete(module)
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


def _is_plain(value: Any) -> bool:
    plain = (bool, int, float, str, type(None))
    return type(value) in plain or (
        type(value) in (tuple, list) and all(type(part) in plain for part in value)
    )


def _require_attribute(kind: type[nn.Module], name: Any, value: Any) -> None:
    """Returns where setting the attribute changes what a module knows, and not what it does."""
    where = kind.__name__
    names.name(name, f"a {where} with an attribute")
    if name.startswith("__"):
        raise PickleError(f"a {where} has an attribute {name}")
    if "hooks" in name and value:
        raise PickleError(f"a {where} has hooks ({name}), which are functions")
    if name == "training" and type(value) is not bool:
        raise PickleError(f"a {where} has training = {value!r:.80}")
    if name == "_compiled_call_impl" and value is not None:
        raise PickleError(f"a {where} has a compiled call")
    if name == "type" and type(value) is str:
        return  # where ultralytics keeps the name of the class
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
            names.part(name, f"a {where} with a part")
            if not isinstance(value, allowed):
                raise PickleError(f"a {where} has a {type(value).__name__} in {registry}")
            if name in state or hasattr(nn.Module, name):
                raise PickleError(f"a {where} has a part in place of its {name}")
