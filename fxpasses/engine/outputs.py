"""A graph's outputs: the maps of a dense head beside what the model gives.

A model that gives a dict gives one with ``"map"`` added; any other result becomes the pair
``(result, map)``. With several dense heads ``map`` is the tuple of their maps, in the order of the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.fx import Graph, Node

from fxpasses.graph.maps import _added, _removed, with_maps, without_maps
from fxpasses.private_names import PyTreeCodeGen, pytree
from fxpasses.vocabulary.ops import POOLS, VIEWS, Concat, Elementwise
from fxpasses.vocabulary.sizes import is_shape_value
from fxpasses.vocabulary.vocabulary import Vocabulary


def count_maps(graph: Graph, vocabulary: Vocabulary) -> int:
    """How many of the last outputs are maps of the others: those are what averages of the maps lead to.

    Between the average and the other output no weights may stand: a map of features is no map of scores.
    """
    leaves = [leaf for leaf in pytree.tree_leaves(_output(graph).args[0]) if isinstance(leaf, Node)]
    count = 0
    while count < len(leaves) - 1 and _is_map(leaves[-1 - count], {*leaves}, vocabulary):
        count += 1
    return count


def _is_map(node: Node, results: set[Node], vocabulary: Vocabulary) -> bool:
    pending, seen = [(node, False)], set[tuple[Node, bool]]()
    while pending:
        source, is_pooled = pending.pop()
        for user in source.users:
            op = vocabulary.classify(user)
            is_average = isinstance(op, POOLS) and op.average
            step = (user, is_pooled or is_average)
            if step in seen or vocabulary.has_affine(op) or not (step[1] or isinstance(op, VIEWS)):
                continue
            if step[1] and user in results:
                return True
            seen.add(step)
            pending.append(step)
    return False


def reader_of_mean(map_node: Node, vocabulary: Vocabulary) -> str | None:
    """What reads the mean of a map where that is no output, or part of one, itself; else None."""
    pending, reader = [(map_node, False)], None
    for source, is_pooled in pending:
        for user in source.users:
            op = vocabulary.classify(user)
            is_average = isinstance(op, POOLS) and op.average
            if user.op == "output" and is_pooled:
                return None
            if is_average or isinstance(op, VIEWS) or (is_pooled and isinstance(op, Concat)):
                pending.append((user, is_pooled or is_average))
            elif is_pooled:
                reader = reader or user.name
    return reader


def add_maps(graph: Graph, maps: tuple[Node, ...], *, is_flat: bool) -> None:
    """Gives ``maps`` out beside the graph's result.

    The outputs of a program are flat (``is_flat``): a tuple whose structure is kept elsewhere.
    """
    output, spec = _output(graph), spec_of(graph)
    is_flat = is_flat or spec is not None
    output.args = ((*_flat(output), *maps) if is_flat else _added(output.args[0], maps),)
    if spec is not None:
        _set_spec(graph, with_maps(spec, len(maps)))


def drop_maps(graph: Graph, count: int, *, is_flat: bool) -> None:
    """Takes ``count`` maps away again."""
    output, spec = _output(graph), spec_of(graph)
    is_flat = is_flat or spec is not None
    output.args = (_flat(output)[:-count] if is_flat else _removed(output.args[0]),)
    if spec is not None:
        _set_spec(graph, without_maps(spec))


def _output(graph: Graph) -> Node:
    output: Node = next(iter(reversed(graph.nodes)))
    return output


def _flat(output: Node) -> tuple[Any, ...]:
    given = output.args[0]
    return tuple(given) if isinstance(given, (tuple, list)) else (given,)


def spec_of(graph: Graph) -> pytree.TreeSpec | None:
    """The tree of outputs, where they are flat and the graph says it."""
    codegen = graph._codegen
    return codegen.pytree_info.out_spec if isinstance(codegen, PyTreeCodeGen) else None


def _set_spec(graph: Graph, spec: pytree.TreeSpec) -> None:
    codegen = graph._codegen
    assert isinstance(codegen, PyTreeCodeGen)
    graph.set_codegen(PyTreeCodeGen(codegen.pytree_info._replace(out_spec=spec)))


def give_scores(
    graph: Graph, vocabulary: Vocabulary, scores: Node, tail: Sequence[Node], maps: Mapping[Node, Node]
) -> None:
    """Makes scores, and the map whose average they are, all that a graph gives.

    Args:
        graph: the graph to edit.
        vocabulary: of the graph.
        scores: the value.
        tail: the ops between the averages and the scores, in graph order: casts, views, joins along the
            classes, sums, and products with a number for each class or for all.
        maps: what each average averages.
    """
    found = dict(maps)
    with graph.inserting_before(_output(graph)):
        for node in tail:
            op = vocabulary.classify(node)
            if isinstance(op, Concat):
                found[node] = graph.call_function(torch.cat, ([found[source] for source in op.sources], 1))
            elif isinstance(op, Elementwise):
                found[node] = graph.node_copy(node, lambda source: found.get(source, source))
                for source in node.all_input_nodes:
                    if source not in found and not is_shape_value(source):
                        column = graph.call_method("reshape", (source, (-1, 1, 1)))
                        found[node].prepend(column)
                        found[node].replace_input_with(source, column)
            else:  # a view, or a dropout that is switched off
                found[node] = found[node.all_input_nodes[0]]
    _output(graph).args = ((scores, found[scores]),)
    if spec_of(graph) is not None:
        _set_spec(graph, pytree.tree_structure((0, 0)))
