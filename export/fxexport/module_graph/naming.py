"""How a graph's dialect names its values and spells its operators."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Protocol

from torch import fx, nn

from fxexport.module_graph.signature import call_signature, is_identity, operator_name, path_of
from fxexport.numerics.activations import ACTIVATIONS
from fxpasses.vocabulary.ops import Op
from fxpasses.vocabulary.vocabulary import Vocabulary


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
