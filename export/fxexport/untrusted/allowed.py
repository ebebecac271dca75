"""Which of the names in a pickle may become real: exact classes, never functions.

"Everything under torch." would be an open door: ``torch.fx.graph_module.reduce_graph_module`` executes
source text, ``torch.hub.load`` downloads it. So a name has to be one of three things: plain data in a fixed
table, an ``nn.Module`` class or an enum that a model package itself defines under exactly that name, or
what the user named.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import importlib
import re
from collections.abc import Callable, Collection
from typing import Any

from torch import nn

from fxexport.untrusted.pickle_records import Global
from fxexport.untrusted.plain_objects import MADE, plain_value
from fxexport.untrusted.tensors import STORAGES, UNTYPED
from fxpasses.errors import InputError, brief
from fxpasses.wall.wall import lowered

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_CLASS = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_MODEL_PACKAGES = ("torch.nn.modules", "torchvision.models", "torchvision.ops", "timm.models", "timm.layers")
# what prune, parametrize, hooks and tracers leave behind is code by another name
_NOT_MODELS = ("torch.nn.modules.lazy", "timm.models._features", "torchvision.models.feature_extraction")

GRAPH_MODULE = Global("torch.fx.graph_module", "reduce_graph_module")
PARTIAL = Global("functools", "partial")
TREE_SPEC = Global("torch.utils._pytree", "TreeSpec")
LEAF_SPECS = (Global("torch.utils._pytree", "LeafSpec"), Global("torch.utils._pytree", "treespec_leaf"))

_PLAIN = frozenset(
    {*MADE, *(f"{module}.{name}" for module in ("torch", "torch.storage") for name in (*STORAGES, UNTYPED))}
    | {str(PARTIAL)}
)
# types that a description of arguments may name; they are never called
_TREE_TYPES = {"builtins.tuple": tuple, "builtins.list": list, "builtins.dict": dict}
_TREE_NAMES = frozenset({*_TREE_TYPES, str(TREE_SPEC), *map(str, LEAF_SPECS)})
# a GraphModule names its tracer, which is not needed to read its graph
_TRACERS = frozenset(
    {
        "torch.fx._symbolic_trace.Tracer",
        "torch.fx.experimental.proxy_tensor._ModuleStackTracer",
        "torch.fx.experimental.proxy_tensor.PythonKeyTracer",
    }
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """What a pickle's names may stand for.

    Attributes:
        extra: full names of classes that the user admits, and of packages or modules whose own they are.
        here: makes the working directory's modules importable while one of those is looked up.
    """

    extra: frozenset[str] = frozenset()
    here: Callable[[], Any] | None = None

    def refused(self, names: Collection[Global], *, in_graph: bool) -> list[str]:
        """Those of the names that may not become real, sorted."""
        graph_names = _TREE_NAMES | _TRACERS | {str(GRAPH_MODULE)} if in_graph else frozenset()
        return sorted(
            str(name)
            for name in names
            if str(name) not in _PLAIN | graph_names
            and plain_value(name) is None
            and self.find_class(name) is None
        )

    def find_class(self, name: Global) -> type | None:
        """The class, if it is one of a model package or one that the user named; else None."""
        if self.is_named(name):
            return self._named(name)
        return model_class(name)

    def find_tuple(self, name: str) -> type | None:
        """The class of named tuples that a graph may return: a model package's, or one the user named."""
        module, _, last = name.rpartition(".")
        found = self.find_class(Global(module, last)) or _installed(module, last)
        return found if found is not None and issubclass(found, tuple) and hasattr(found, "_fields") else None

    def is_named(self, name: Global) -> bool:
        """Whether the user vouches for it."""
        return any(str(name) == known or str(name).startswith(f"{known}.") for known in self.extra)

    def _named(self, name: Global) -> type:
        with self.here() if self.here is not None else contextlib.nullcontext():
            try:
                found: Any = importlib.import_module(name.module)
                for part in name.name.split("."):
                    found = getattr(found, part)
            except Exception as error:  # importing runs the user's own code
                raise InputError(
                    f"{name} cannot be imported ({brief(error)})",
                    where="--allow",
                    fix="run fxhead in the folder of that module, or install it",
                ) from error
        if not isinstance(found, type):
            raise InputError(
                f"{name} is no class",
                where="--allow",
                fix="only classes can be allowed; --trust runs the rest",
            )
        home = Global(found.__module__, found.__qualname__)
        if str(name) not in self.extra and not self.is_named(home):
            fix = f"give --allow {home} if that is meant"
            raise InputError(f"{name} is {home}", where="--allow", fix=fix)
        return found


def tree_type(name: Global) -> type | None:
    """A container that a description of arguments may name, or None."""
    return _TREE_TYPES.get(str(name))


def is_model_name(name: str) -> bool:
    """Whether a module class or an enum of a model package has exactly this full name."""
    module, _, last = name.rpartition(".")
    return model_class(Global(module, last)) is not None


@functools.lru_cache(maxsize=4096)
def model_class(name: Global) -> type | None:
    """The ``nn.Module`` class or enum of a model package with exactly this name, or None.

    Importing it runs code of an installed package, and none of the file's.
    """
    found = _installed(name.module, name.name)
    return found if found is not None and issubclass(found, nn.Module | enum.Enum) else None


def _installed(module: str, name: str) -> type | None:
    """The class of exactly that name that a model package defines, or None."""
    if not (_NAME.fullmatch(module) and _CLASS.fullmatch(name)) or "__" in module:
        return None
    inside = any(module == root or module.startswith(f"{root}.") for root in _MODEL_PACKAGES)
    if not inside or module in _NOT_MODELS:
        return None
    try:
        with lowered():  # packages look around as they are imported
            found = getattr(importlib.import_module(module), name, None)
    except Exception:  # noqa: BLE001 - what cannot be imported cannot be allowed
        return None
    is_itself = isinstance(found, type) and (found.__module__, found.__qualname__) == (module, name)
    return found if is_itself else None
