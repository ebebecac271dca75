"""Which parameters of a ``forward`` are inputs of its graph; the others keep their defaults.

``torch.fx`` makes an input of every parameter. What is an input is a tensor while it traces, so that
``if mask is not None`` is decided as if a mask were given, also in the graph for those who give none.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from inspect import Parameter
from typing import Any

from torch.fx import Graph, GraphModule, Node, Tracer


def bound(
    tracer: Tracer, forward: Callable[..., Any], example_inputs: Callable[[], Sequence[Any] | None]
) -> tuple[Callable[..., Any], list[Any], tuple[str, ...]]:
    """The function to be traced, its arguments, and the parameters that keep their defaults.

    Args:
        tracer: its graph gets the inputs.
        forward: the function of its root's class; the first parameter is the root.
        example_inputs: the inputs that are given, by position, asked for where a parameter can do without;
            None: one for each parameter that has no default, or one.
    """
    _, *parameters = inspect.signature(inspect.unwrap(forward)).parameters.values()
    named = [
        entry for entry in parameters if entry.kind in (entry.POSITIONAL_ONLY, entry.POSITIONAL_OR_KEYWORD)
    ]
    count = sum(entry.default is entry.empty for entry in named)
    if count < len(parameters):
        examples = example_inputs()
        count = max(1, count) if examples is None else len(examples)
    values: list[Any] = [tracer.root]
    keywords: dict[str, Any] = {}
    kept = []
    for entry in parameters:
        if entry.kind is entry.VAR_POSITIONAL and count > len(named):
            names = (f"{entry.name}_{index}" for index in range(count - len(named)))
            values.extend(_input(tracer, name, entry) for name in names)
        elif entry.kind is entry.KEYWORD_ONLY and entry.default is entry.empty:
            keywords[entry.name] = _input(tracer, entry.name, entry)
        elif entry in named and (entry.default is entry.empty or entry in named[:count]):
            values.append(_input(tracer, entry.name, entry))
        else:
            kept.append(entry.name)
    return (lambda *given: forward(*given, **keywords)), values, tuple(kept)


def _input(tracer: Tracer, name: str, parameter: Parameter) -> Any:
    default = () if parameter.default is parameter.empty else (parameter.default,)
    return tracer.create_proxy("placeholder", name, default, {})


def packed(forward: Callable[..., Any], values: Sequence[Any]) -> tuple[Any, ...]:
    """What belongs to positional inputs, as torch.export takes it: one tuple for those in ``*args``."""
    kinds = [entry.kind for entry in inspect.signature(forward).parameters.values()]
    named = kinds.index(Parameter.VAR_POSITIONAL) if Parameter.VAR_POSITIONAL in kinds else len(values)
    return (*values[:named], tuple(values[named:])) if len(values) > named else tuple(values)


def with_defaults(module: GraphModule, count: int) -> GraphModule:
    """A GraphModule over the same modules; its inputs from ``count`` on keep the defaults that they have."""
    inputs = module.graph.find_nodes(op="placeholder")
    behind = inputs[count:]
    if not behind or not all(node.args for node in behind):
        return module
    graph, copies = Graph(), dict[Node, Any]({node: node.args[0] for node in behind})
    for node in module.graph.nodes:
        if node not in copies:
            copies[node] = graph.node_copy(node, lambda source: copies[source])
    return GraphModule(module, graph, type(module).__name__)
