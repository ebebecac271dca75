"""``torch.export`` programs: opened for the passes, closed into a program of the same kind.

A program's graph takes its parameters as inputs; the signature says which input is which. The passes see
the graph over a tree that holds the parameters under their names. Closing gives a program with the same
inputs, dynamic shapes and constraints, whose reshaped weights are real parameters over the old storage.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallSignature
from torch.export.graph_signature import ExportGraphSignature, OutputKind, OutputSpec, TensorArgument
from torch.fx import Graph, GraphModule, Node

from fxpasses.graph.maps import with_maps, without_maps
from fxpasses.graph.trace import copy_graph
from fxpasses.graph.tree import attribute
from fxpasses.private_names import pytree
from fxpasses.report import TraceInfo

_INFO = TraceInfo(method="given", mode="fixed")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OpenProgram:
    """A program's graph with its parameters looked up by name.

    Attributes:
        program: the program, which stays as it is.
        root: a tree that holds its parameters, buffers and constants, sharing their storage.
        lifted: their names by the graph's placeholders.
    """

    program: ExportedProgram
    graph: Graph
    root: nn.Module
    lifted: Mapping[str, str]
    info: TraceInfo = _INFO

    def close(self) -> ExportedProgram:
        """A program of the edited graph and the tree's parameters."""
        program = self.program
        module = GraphModule(program.graph_module, self.graph)
        names, maps = _output_names(program.graph, self.graph)
        with warnings.catch_warnings():  # torch 2.11 deprecates what it copies here
            warnings.simplefilter("ignore", FutureWarning)
            closed = program._update(
                module,
                _signature(program.graph_signature, names, maps),
                state_dict={name: attribute(self.root, name) for name in program.state_dict},
                constants={
                    name: attribute(self.root, name) if isinstance(value, torch.Tensor) else value
                    for name, value in program.constants.items()
                },
            )
        _follow(closed.module_call_graph, program.graph, self.graph)
        for entry in closed.module_call_graph:
            if maps and not entry.fqn and entry.signature is not None:
                _respecify(entry.signature, maps)
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


def _output_names(before: Graph, after: Graph) -> tuple[dict[str, str], list[str] | int]:
    """The names of the outputs after an edit, by their names before; the positions stay.

    Also the names of the maps that came last, or how many of them went.
    """
    old, new = (_flat(next(iter(reversed(graph.nodes))).args[0]) for graph in (before, after))
    names = {
        first.name: second.name for first, second in zip(old, new, strict=False) if first.name != second.name
    }
    if len(new) < len(old):
        return names, len(old) - len(new)
    return names, [node.name for node in new[len(old) :]]


def _flat(outputs: Any) -> list[Node]:
    return [node for node in pytree.tree_leaves(outputs) if isinstance(node, Node)]


def _signature(
    signature: ExportGraphSignature, names: Mapping[str, str], maps: list[str] | int
) -> ExportGraphSignature:
    renamed = copy.deepcopy(signature)
    specs = renamed.output_specs
    if isinstance(maps, int):
        del specs[len(specs) - maps :]
    _rename([spec.arg for spec in specs], names)
    if not isinstance(maps, int):  # after the renaming: a map may have the name that the logits had
        kind = OutputKind.USER_OUTPUT
        specs.extend(OutputSpec(kind, TensorArgument(name=name), None) for name in maps)
    return renamed


def _respecify(signature: ModuleCallSignature, maps: list[str] | int) -> None:
    """The call signature of the whole program with maps among its outputs, or without them."""
    if isinstance(maps, int):
        del signature.outputs[len(signature.outputs) - maps :]
        signature.out_spec = without_maps(signature.out_spec)
    else:
        signature.outputs.extend(TensorArgument(name=name) for name in maps)
        signature.out_spec = with_maps(signature.out_spec, len(maps))


def _rename(arguments: Sequence[Any], names: Mapping[str, str]) -> None:
    for argument in arguments:
        name = getattr(argument, "name", None)
        if name is not None and name in names:
            argument.name = names[name]


def _follow(entries: Iterable[Any], before: Graph, after: Graph) -> None:
    """Makes the call signatures that a program preserves name the values that cross the boundaries now.

    ``torch.export.unflatten`` cuts the graph at the values that ``module_call_graph`` names. Where a view
    that was such a value moved behind the head, the value that its readers read now stands for it.
    """
    kept = [entry for entry in entries if entry.fqn and entry.signature is not None]
    if not kept:
        return
    old, new = ({node.name: node for node in graph.nodes} for graph in (before, after))
    for entry in kept:
        for argument in entry.signature.inputs:
            _follow_argument(argument, entry.fqn, old, new, is_input=True)
        for argument in entry.signature.outputs:
            _follow_argument(argument, entry.fqn, old, new, is_input=False)


def _follow_argument(
    argument: Any, path: str, old: dict[str, Node], new: dict[str, Node], *, is_input: bool
) -> None:
    name = getattr(argument, "name", None)
    if name not in old or _crosses(new.get(name), path, is_input=is_input):
        return
    for user in old[name].users:
        if _is_inside(user, path) is not is_input or user.name not in new:
            continue
        known = {source.name for source in user.all_input_nodes}
        for source in new[user.name].all_input_nodes:
            if source.name not in known and _crosses(source, path, is_input=is_input):
                argument.name = source.name
                return


def _crosses(node: Node | None, path: str, *, is_input: bool) -> bool:
    """Whether a computed value leaves or enters the module at ``path``."""
    if node is None or _is_inside(node, path) is is_input:
        return False
    return any(_is_inside(user, path) is is_input for user in node.users)


def _is_inside(node: Node, path: str) -> bool:
    return any(entry[0] == path for entry in (node.meta.get("nn_module_stack") or {}).values())
