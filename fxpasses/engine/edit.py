"""What an edit of a graph was: joined with others, told as rewrites, and taken back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from torch import nn
from torch.fx import Graph, Node

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


def restore(graph: Graph, root: nn.Module, record: undo.Record, nodes: dict[str, Node]) -> None:
    """Takes a recorded edit back: node for node, names and order included."""
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
    for reader in record.readers:
        reader.restore(nodes)
    for name in reversed(record.inserted):
        graph.erase_node(nodes.pop(name))
    for path, extras in record.conv_extras.items():
        set_conv_extras(root.get_submodule(path), extras)
    for path, rank in record.batch_norms.items():
        swap_batch_norm(root, path, rank)


def _reborn(graph: Graph, nodes: dict[str, Node], spec: undo.Spec) -> Node:
    anchor = nodes[spec.previous] if spec.previous else None
    with graph.inserting_after(anchor) if anchor else graph.inserting_before(next(iter(graph.nodes))):
        node = graph.create_node(spec.op, spec.resolved_target(), (), {}, name=spec.name)
    node.name = spec.name  # it was this node's name before; a graph numbers a name that it has seen
    return node


def _place(graph: Graph, nodes: dict[str, Node], spec: undo.Spec) -> None:
    if spec.previous:
        nodes[spec.previous].append(nodes[spec.name])
    else:
        next(iter(graph.nodes)).prepend(nodes[spec.name])
