"""``torch.export`` programs: opened for the passes, closed into a program of the same kind.

A program's graph takes its parameters as inputs; the signature says which input is which. The passes see
the graph over a tree that holds the parameters under their names. Closing gives a program with the same
inputs, dynamic shapes and constraints, whose reshaped weights are real parameters over the old storage.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature
from torch.fx import Graph, GraphModule, Node

from fxpasses import boundaries, undo
from fxpasses.report import TraceInfo
from fxpasses.trace import copy_graph
from fxpasses.tree import attribute

_INFO = TraceInfo(method="given", mode="fixed")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OpenProgram:
    """A program's graph with its parameters looked up by name.

    Attributes:
        program: the program, which stays as it is.
        graph: a copy of its graph.
        root: a tree that holds its parameters, buffers and constants, sharing their storage.
        lifted: their names by the graph's placeholders.
        info: how the graph was obtained.
    """

    program: ExportedProgram
    graph: Graph
    root: nn.Module
    lifted: Mapping[str, str]
    info: TraceInfo = _INFO

    def close(self, records: Sequence[undo.Record]) -> ExportedProgram:
        """A program of the edited graph and the tree's parameters."""
        program = self.program
        module = GraphModule(program.graph_module, self.graph)
        names = _output_names(program.graph, self.graph)
        with warnings.catch_warnings():  # torch 2.11 deprecates what it copies here
            warnings.simplefilter("ignore", FutureWarning)
            closed = program._update(
                module,
                _signature(program.graph_signature, names),
                state_dict={name: attribute(self.root, name) for name in program.state_dict},
                constants={
                    name: attribute(self.root, name) if isinstance(value, torch.Tensor) else value
                    for name, value in program.constants.items()
                },
            )
        boundaries.follow(closed.module_call_graph, program.graph, self.graph)
        undo.store(closed.graph_module, records)
        return closed


def open_program(program: ExportedProgram) -> OpenProgram:
    """The program's graph, copied, over a tree of its parameters."""
    signature = program.graph_signature
    return OpenProgram(
        program=program,
        graph=copy_graph(program.graph),
        root=_tree(program),
        lifted={
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        },
    )


def _tree(program: ExportedProgram) -> nn.Module:
    root = nn.Module()
    tensors = dict(program.state_dict)
    tensors |= {name: value for name, value in program.constants.items() if isinstance(value, torch.Tensor)}
    taken = {name.partition(".")[0] for name in tensors}
    for name, module in program.graph_module.named_children():  # what torch.cond and its like call
        if name not in taken:
            root._modules[name] = module
    for name, tensor in tensors.items():
        *path, leaf = name.split(".")
        owner = root
        for part in path:
            if part not in owner._modules:
                owner._modules[part] = nn.Module()
            owner = owner.get_submodule(part)
        if isinstance(tensor, nn.Parameter):
            owner._parameters[leaf] = tensor
        else:
            owner._buffers[leaf] = tensor
            if name not in program.state_dict:
                owner._non_persistent_buffers_set.add(leaf)
    return root


def _output_names(before: Graph, after: Graph) -> dict[str, str]:
    """The names of the outputs after an edit, by their names before; the positions stay."""
    old, new = (next(iter(reversed(graph.nodes))).args[0] for graph in (before, after))
    pairs = zip(_flat(old), _flat(new), strict=True)
    return {first.name: second.name for first, second in pairs if first.name != second.name}


def _flat(outputs: Any) -> list[Node]:
    return [node for node in torch.utils._pytree.tree_leaves(outputs) if isinstance(node, Node)]


def _signature(signature: ExportGraphSignature, names: Mapping[str, str]) -> ExportGraphSignature:
    renamed = copy.deepcopy(signature)
    _rename([spec.arg for spec in renamed.output_specs], names)
    return renamed


def _rename(arguments: Sequence[Any], names: Mapping[str, str]) -> None:
    for argument in arguments:
        name = getattr(argument, "name", None)
        if name is not None and name in names:
            argument.name = names[name]
