"""One vocabulary for every spelling: a node in, a typed op out.

The same operation arrives as an ``nn`` module, a function, a tensor method, or an ATen operator. The
vocabulary alone knows the spellings: ``tables``, ``modules`` and ``aten`` have the tables, ``handlers``
bind the arguments, ``writer`` writes. What has no entry is ``Opaque``.
"""

from __future__ import annotations

import dataclasses
import operator
from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node

from fxpasses.graph.tree import attribute
from fxpasses.private_names import HigherOrderOperator, OpOverload
from fxpasses.vocabulary import aten, handlers
from fxpasses.vocabulary.modules import POOL_TYPES, module_op
from fxpasses.vocabulary.ops import Affine, Op, Product, Role, Subgraph, WeightSource
from fxpasses.vocabulary.sizes import is_input, is_shape_value, value_of
from fxpasses.vocabulary.tables import (
    FUNCTIONS,
    METHODS,
    POOL_FUNCTIONS,
    POOL_METHODS,
    UNFOLDS,
    aten_handlers,
)


class Vocabulary:
    """Classifies the nodes of one graph.

    Attributes:
        constant_shapes: kept by ``region.constant_shape``: shapes of functions of constants, by node.

    Args:
        root: the module below which the graph's modules and parameters are looked up.
        lifted: names of the parameters and buffers that are inputs of the graph, by placeholder name, as
            in the graph of a ``torch.export.ExportedProgram``.
    """

    def __init__(self, root: nn.Module, lifted: Mapping[str, str] | None = None) -> None:
        self.root = root
        self.lifted = lifted or {}
        self.constant_shapes: dict[Node, tuple[int | None, ...] | None] = {}
        self._modules: dict[str, nn.Module | None] = {}
        self._calls: Counter[str] = Counter()

    def module(self, path: str) -> nn.Module | None:
        """The module at ``path``, or None."""
        if path not in self._modules:
            above, _, name = path.rpartition(".")
            parent = self.module(above) if above else self.root
            self._modules[path] = None if parent is None else parent._modules.get(name)
        return self._modules[path]

    def count_calls(self, node: Node) -> int:
        """How often a graph calls the module that a node calls; no edit makes or takes a call."""
        if not self._calls:
            calls = node.graph.find_nodes(op="call_module", sort=False)
            self._calls.update(str(call.target) for call in calls)
        return self._calls[str(node.target)]

    def tensor_name(self, node: Node | None) -> str | None:
        """State-dict name of the tensor that a node reads, or None where it reads no such tensor."""
        if node is None:
            return None
        if node.op == "get_attr":
            return str(node.target)
        return self.lifted.get(node.name) if node.op == "placeholder" else None

    def pools(self, graph: Graph) -> list[Node]:
        """The nodes that can be pools by their target, in no order; linear in calls of modules."""
        targets = (*POOL_FUNCTIONS, *aten.pool_targets())
        found = [
            node
            for target in targets
            for node in graph.find_nodes(op="call_function", target=target, sort=False)
        ]
        found += [
            node for node in graph.find_nodes(op="call_method", sort=False) if node.target in POOL_METHODS
        ]
        calls = graph.find_nodes(op="call_module", sort=False)
        pools = self._pool_modules({node.target for node in calls})
        return found + [node for node in calls if node.target in pools]

    def _pool_modules(self, paths: Iterable[str]) -> set[str]:
        """The paths at which a pool stands; a module above many of them is looked up once."""
        found: set[str] = set()
        below: dict[str, Mapping[str, nn.Module | None]] = {"": self.root._modules}
        for path in paths:
            above, _, name = path.rpartition(".")
            if above not in below:
                parent = self.module(above)
                below[above] = {} if parent is None else parent._modules
            if type(below[above].get(name)) in POOL_TYPES:
                found.add(path)
        return found

    def unfolds(self, graph: Graph) -> list[Node]:
        """The nodes that unfold by their target, in no order."""
        found = [
            node
            for target in UNFOLDS
            for node in graph.find_nodes(op="call_function", target=target, sort=False)
        ]
        calls = graph.find_nodes(op="call_module", sort=False)
        return [*found, *(node for node in calls if type(self.module(str(node.target))) is nn.Unfold)]

    def classify(self, node: Node) -> Op:
        """The typed op of a node; ``Opaque`` where the vocabulary has no entry for it."""
        if node.op == "call_module":
            module = self.module(str(node.target))
            if isinstance(module, GraphModule):
                return Subgraph((str(node.target),))
            return handlers.OPAQUE if module is None else module_op(module, node)
        if node.op not in ("call_function", "call_method"):
            return handlers.OPAQUE
        if is_shape_value(node):
            return handlers.SHAPE_VALUE
        handler = _handler(node)
        if handler is None:
            return _call_of_graphs(node)
        try:
            op = handler(*node.args, **node.kwargs)
        except TypeError:  # an overload that the handler does not know
            return handlers.OPAQUE
        if isinstance(op, Affine):
            return self._named(node, op)
        source = getattr(op, "source", None)
        return op if source is None or isinstance(source, Node) else handlers.OPAQUE

    def has_affine(self, op: Op) -> bool:
        """Whether an op is an affine function or a matrix product, or calls a graph that has one."""
        if not isinstance(op, Subgraph):
            return isinstance(op, Affine | Product)
        return op.is_affine or any(
            inner.has_affine(inner.classify(node))
            for module in map(self.module, op.paths)
            if isinstance(module, GraphModule)
            for inner in [Vocabulary(module)]
            for node in module.graph.nodes
        )

    def _named(self, node: Node, op: Affine) -> Op:
        """The affine op with the names of what it reads."""
        if not isinstance(op.source, Node):
            return handlers.OPAQUE
        weight, bias = self._own_name(node, op.weight_node), self._own_name(node, op.bias_node)
        source = WeightSource.PARAMETER
        if weight is None and value_of(op.weight_node) is not None and is_input(op.weight_node):
            source, weight = WeightSource.INPUT, op.weight_node.name if op.weight_node else None
            bias = op.bias_node.name if op.bias_node is not None else None
        elif weight is None or (bias is None and op.bias_node is not None):
            source = WeightSource.COMPUTED
        return dataclasses.replace(op, weight=weight, bias=bias, weight_source=source)

    def _own_name(self, node: Node, read: Node | None) -> str | None:
        """The name of a tensor, for tied ones that below the module which the node comes from."""
        name = self.tensor_name(read)
        stack = node.meta.get("nn_module_stack")
        if name is None or not stack or isinstance(node.target, str):
            return name
        path = str(next(reversed(stack.values()))[0])
        own = f"{path}.{name.rpartition('.')[2]}"
        return own if own != name and self.tensor(own) is self.tensor(name) else name

    def tensor(self, name: str | None) -> torch.Tensor | None:
        """The tensor of this name below the root, or None."""
        found = attribute(self.root, name)
        return found if isinstance(found, torch.Tensor) else None

    def weight(self, op: Affine) -> torch.Tensor | None:
        """The op's weight: the parameter, or for an input of the graph what tracing knew of it."""
        if op.weight_source is WeightSource.INPUT:
            return value_of(op.weight_node)
        return self.tensor(op.weight)

    def bias(self, op: Affine) -> torch.Tensor | None:
        """The op's bias, known as its weight is; None where it has none."""
        if op.weight_source is WeightSource.INPUT:
            return value_of(op.bias_node)
        return self.tensor(op.bias)


def _call_of_graphs(node: Node) -> Op:
    """A call of other graphs as such, and anything else as opaque."""
    if getattr(node.target, "calls_affine", False) is True:  # of another dialect
        return Subgraph(is_affine=True)
    if not isinstance(node.target, HigherOrderOperator):
        return handlers.OPAQUE
    return Subgraph(tuple(str(source.target) for source in node.all_input_nodes if source.op == "get_attr"))


def _handler(node: Node) -> handlers.Handler | None:
    if node.op == "call_method":
        return METHODS.get(str(node.target))
    target = node.target
    if isinstance(target, OpOverload):
        return aten_handlers().get(aten.name_of(target))
    if target is operator.getitem and aten.is_first_result(node):
        return handlers.in_role(Role.LINEAR)
    return FUNCTIONS.get(target)
