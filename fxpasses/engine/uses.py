"""Where modules and tensors are, and what calls and reads them, over a whole graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from torch import nn
from torch.fx import Graph, Node

from fxpasses.graph.tree import holders
from fxpasses.vocabulary.ops import Affine
from fxpasses.vocabulary.vocabulary import Vocabulary


@dataclasses.dataclass(slots=True)
class Uses:
    """Where some modules and tensors are, and what calls and reads them, over a whole graph.

    Attributes:
        paths: paths of a module by its identity, one for each name that it has.
        calls: call nodes by the identity of the module.
        reads: nodes that read a tensor by path (``get_attr``), by the identity of the tensor.
        owners: owning module and state-dict name, by the identity of the tensor.
        called: state-dict names of those in modules that are called, or in modules below these.
    """

    paths: dict[int, list[str]] = dataclasses.field(default_factory=dict)
    calls: dict[int, list[Node]] = dataclasses.field(default_factory=dict)
    reads: dict[int, list[Node]] = dataclasses.field(default_factory=dict)
    owners: dict[int, list[tuple[nn.Module, str]]] = dataclasses.field(default_factory=dict)
    called: set[str] = dataclasses.field(default_factory=set)

    @classmethod
    def of(cls, graph: Graph, vocabulary: Vocabulary, sites: Iterable[Affine]) -> Uses:
        """The uses of the sites' modules and weights; linear in nodes and modules."""
        uses = cls()
        parts: dict[str, object] = {}
        for op in sites:
            if op.weight is not None and (weight := vocabulary.tensor(op.weight)) is not None:
                parts[op.weight] = weight
            if op.weight is not None and op.module is not None:
                parts[op.weight.rpartition(".")[0]] = op.module
        wanted = {id(part) for part in parts.values()}
        names: dict[str, int] = {}
        for prefix, module in holders(vocabulary.root, parts):
            for key, child in module._modules.items():
                if id(child) in wanted:
                    uses.paths.setdefault(id(child), []).append(prefix + key)
            for registry in (module._parameters, module._buffers):
                for key, tensor in registry.items():
                    if id(tensor) in wanted:
                        names[prefix + key] = id(tensor)
                        uses.owners.setdefault(id(tensor), []).append((module, prefix + key))
        paths = {path: module for module, known in uses.paths.items() for path in known}
        plain = all(type(owner) is nn.Module for owners in uses.owners.values() for owner, _ in owners)
        calls = [] if plain and not paths else graph.find_nodes(op="call_module", sort=False)
        for node in calls:
            if node.target in paths:
                uses.calls.setdefault(paths[node.target], []).append(node)
        targets = {str(node.target) for node in calls}
        uses.called = {name for name in names if not targets.isdisjoint(_above(name))}
        read = graph.find_nodes(op="get_attr", sort=False)
        for node in [node for node in read if node.target in names]:  # of hundreds
            uses.reads.setdefault(names[node.target], []).append(node)
        for node in graph.find_nodes(op="placeholder", sort=False) if vocabulary.lifted else ():
            name = vocabulary.lifted.get(node.name)
            if name in names:
                uses.reads.setdefault(names[name], []).append(node)
        return uses


def _above(name: str) -> Iterator[str]:
    """Paths of the modules that hold what has this name."""
    while name := name.rpartition(".")[0]:
        yield name
