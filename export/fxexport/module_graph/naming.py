"""How a graph's dialect names its values and spells its operators, and which of these give their operand."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Protocol

from torch import fx, nn

from fxexport.numerics.activations import ACTIVATIONS
from fxpasses.private_names import OpOverload, pytree
from fxpasses.vocabulary import aten
from fxpasses.vocabulary.ops import Elementwise, FeatureNorm, Op, Role
from fxpasses.vocabulary.vocabulary import Vocabulary

_COPIES = frozenset("identity contiguous detach clone alias lift_fresh_copy".split())


class Naming(Protocol):
    """How the dialect of a graph names its values and spells its operators."""

    def value(self, node: fx.Node) -> str:
        """The name by which the node's value can be tapped; empty where the model has no such value."""

    def told(self, node: fx.Node) -> str:
        """The node, for messages."""

    def signature(self, node: fx.Node) -> str:
        """The operator with what it is given."""

    def function(self, node: fx.Node) -> str | None:
        """Name under which ``activations`` knows the function with these arguments, or None."""

    def is_identity(self, node: fx.Node, op: Op) -> bool:
        """Whether in evaluation the node gives its operand."""

    def is_view(self, node: fx.Node) -> bool:
        """Whether it is known to change nothing but the shape, whatever the vocabulary says."""
        return False

    def parameter(self, path: str) -> tuple[str, bool]:
        """The name of a parameter in the model, and whether it is stored transposed."""
        return path, False

    def unit(self, node: fx.Node) -> Collection[fx.Node]:
        """The nodes that stand for the operator of the model that gives this one's value; none for others."""
        return ()


@dataclasses.dataclass(frozen=True, slots=True)
class ModuleNaming(Naming):
    """The names of a traced module's graph: those of its nodes and parameters."""

    vocabulary: Vocabulary

    def _called(self, node: fx.Node) -> nn.Module | None:
        return self.vocabulary.module(str(node.target)) if node.op == "call_module" else None

    def value(self, node: fx.Node) -> str:
        """The node's name."""
        return node.name

    def told(self, node: fx.Node) -> str:
        """The path of the module that it calls, or its name."""
        return str(node.target) if node.op == "call_module" else node.name

    def signature(self, node: fx.Node) -> str:
        """The module's class, or the function with what is no node."""
        module = self._called(node)
        return call_signature(node) if module is None else path_of(type(module))

    def function(self, node: fx.Node) -> str | None:
        """That of the operator, where it has no arguments that say otherwise."""
        module = self._called(node)
        name = operator_name(node, module)
        if name not in ACTIVATIONS:
            return None
        if name == "gelu":
            approximate = getattr(module, "approximate", node.kwargs.get("approximate", *node.args[1:2]))
            return name if approximate in (None, "none") else None
        plain = [value for value in node.args[1:] if not isinstance(value, bool)]
        return name if not plain else None

    def is_identity(self, node: fx.Node, op: Op) -> bool:
        """Of the modules and functions that are known as such."""
        return is_identity(node, op, self._called(node))


def operator_name(node: fx.Node, module: nn.Module | None) -> str:
    """Name of the operator without dialect: ``relu`` for ``nn.ReLU``, ``F.relu``, ``aten.relu_.default``."""
    if module is not None:
        return type(module).__name__.lower()
    if isinstance(node.target, OpOverload):
        return aten.name_of(node.target).rstrip("_")
    target = node.target
    return (target if isinstance(target, str) else str(getattr(target, "__name__", target))).rstrip("_")


def is_identity(node: fx.Node, op: Op, module: nn.Module | None) -> bool:
    """True if in evaluation the node gives its operand."""
    if isinstance(op, Elementwise | FeatureNorm) and op.role is Role.DROPOUT:
        return module is not None or not op.trains
    return operator_name(node, module) in _COPIES


def has_hooks(module: nn.Module | None) -> bool:
    """True if calling the module runs more than its class's ``forward``."""
    return module is not None and bool(module._forward_hooks or module._forward_pre_hooks)


def call_signature(node: fx.Node) -> str:
    """Function or method with every argument that is no node."""
    shown = pytree.tree_map(
        lambda leaf: "value" if isinstance(leaf, fx.Node) else repr(leaf),
        (tuple(node.args), dict(node.kwargs)),
    )
    target = node.target
    if isinstance(target, str):
        return f"{node.op} {target}{shown}"
    name = str(target) if isinstance(target, OpOverload) else getattr(target, "__name__", target)
    return f"{node.op} {getattr(target, '__module__', '')}.{name}{shown}"


def path_of(kind: type) -> str:
    """The class by its module and name."""
    return f"{kind.__module__}.{kind.__qualname__}"
