"""What an edit of a graph was: joined with others, told as rewrites, and taken back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import nn
from torch.fx import Graph, Node, map_arg

from fxpasses.engine import undo
from fxpasses.engine.match import Match
from fxpasses.engine.reshape import set_conv_extras, swap_batch_norm
from fxpasses.graph import provenance
from fxpasses.plan import WeightPlan
from fxpasses.report import Form, Rewrite
from fxpasses.weights.move import WeightMove


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """What one call of ``apply`` did."""

    rewrites: tuple[Rewrite, ...]
    plan: WeightPlan
    records: tuple[undo.Record, ...]


def joined(edits: Sequence[Edit], root: nn.Module) -> Edit:
    """Several edits of one graph as one; their weights in the order of the state dict."""
    *_, last = edits
    if len(edits) == 1:
        return last
    place = {name: index for index, name in enumerate(root.state_dict(keep_vars=True))}
    moves = sorted((move for edit in edits for move in edit.plan.moves), key=lambda move: place[move.name])
    return Edit(
        rewrites=tuple(entry for edit in edits for entry in edit.rewrites),
        plan=WeightPlan(to=last.plan.to, moves=tuple(moves)),
        records=last.records,
    )


def saved_moves(root: nn.Module, moves: Iterable[WeightMove]) -> tuple[WeightMove, ...]:
    """The moves of tensors that are in the state dict; constants and some buffers are not."""

    def is_saved(name: str) -> bool:
        path, _, leaf = name.rpartition(".")
        return leaf not in root.get_submodule(path)._non_persistent_buffers_set

    return tuple(move for move in moves if is_saved(move.name))


def as_rewrites(matches: Iterable[Match], to: Form, copied: dict[str, int]) -> tuple[Rewrite, ...]:
    """One entry a site; a weight that several have is copied once."""
    return tuple(
        Rewrite(
            site=match.site,
            to=to,
            weight_shape_before=match.move.shape(match.site.form),
            weight_shape_after=match.move.shape(to),
            copied_bytes=copied.pop(match.site.weight, 0),
        )
        for match in matches
    )


def restore(graph: Graph, root: nn.Module, records: Sequence[undo.Record], nodes: undo.Nodes) -> None:
    """Takes recorded edits that all stand back: node for node, names and order included."""
    for record in records:
        _restore_nodes(graph, record, nodes)
    undo.restore_readers((reader for record in records for reader in record.readers), nodes)
    for record in records:
        for name in reversed(record.inserted):
            graph.erase_node(nodes.pop(name))
        for path, extras in record.conv_extras.items():
            set_conv_extras(root.get_submodule(path), extras)
        for path, rank in record.batch_norms.items():
            swap_batch_norm(root, path, rank)


def _restore_nodes(graph: Graph, record: undo.Record, nodes: undo.Nodes) -> None:
    for spec in record.before:
        if spec.name not in nodes:
            nodes[spec.name] = _reborn(graph, nodes, spec)
        elif spec.is_moved:
            _place(graph, nodes, spec)
    for spec in record.before:
        spec.write_to(nodes[spec.name], nodes)
        if spec.name in record.kernels:
            form = Form.LINEAR if record.to is Form.CONV else Form.CONV
            provenance.retype(nodes[spec.name], form, len(record.kernels[spec.name]))
        provenance.restore(nodes[spec.name], spec.origin)


def _reborn(graph: Graph, nodes: undo.Nodes, spec: undo.Spec) -> Node:
    anchor = nodes[spec.previous] if spec.previous else None
    with graph.inserting_after(anchor) if anchor else graph.inserting_before(next(iter(graph.nodes))):
        node = graph.create_node(spec.op, spec.resolved_target(), (), {}, name=spec.name)
    node.name = spec.name  # it was this node's name before; a graph numbers a name that it has seen
    return node


def _place(graph: Graph, nodes: undo.Nodes, spec: undo.Spec) -> None:
    if spec.previous:
        nodes[spec.previous].append(nodes[spec.name])
    else:
        next(iter(graph.nodes)).prepend(nodes[spec.name])


def erase_unread(graph: Graph, nodes: Sequence[Node], is_dead: Callable[[Node], bool]) -> set[Node]:
    """Erases what is dead among nodes in graph order, as far as nobody reads it; gives the erased nodes."""
    erased = set()
    for node in reversed(nodes):
        if not node.users and is_dead(node):
            graph.erase_node(node)
            erased.add(node)
    return erased


def redirect(changes: Mapping[Node, tuple[Node, Iterable[Node]]]) -> None:
    """Makes readers read another node instead of one; each is edited once, however many of its inputs change.

    ``changes`` has by node what is read in its place, and by whom.
    """
    inputs: dict[Node, dict[Node, Node]] = {}
    for node, (new, readers) in changes.items():
        for reader in readers:
            inputs.setdefault(reader, {})[node] = new
    for reader, by in inputs.items():
        if len(by) == 1:
            reader.replace_input_with(*next(iter(by.items())))
        else:
            _exchange(reader, by)


def _exchange(reader: Node, by: Mapping[Node, Node]) -> None:
    def exchanged(source: Node) -> Node:
        return by.get(source, source)

    reader.args, reader.kwargs = map_arg(reader.args, exchanged), map_arg(reader.kwargs, exchanged)
