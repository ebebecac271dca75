"""Norms over the channels of a map of one position, without permutes.

``norm(channels_last(u)) = unflatten(norm(flatten(u)))`` where ``u`` is ``[N, C, 1, 1]``, of the same vectors.
A head that permutes its pooled map around a LayerNorm (ConvNeXt) has its flatten above the norm then, and
needs neither permute.
"""

from __future__ import annotations

from torch.fx import Node

from fxpasses.engine import undo
from fxpasses.engine.refusals import has_hooks
from fxpasses.heads.analysis import Analysis
from fxpasses.heads.region import PooledValue
from fxpasses.pointwise.respell_views import Respelled
from fxpasses.report import Form
from fxpasses.vocabulary.ops import BATCH, CHANNELS, FeatureNorm, Permute
from fxpasses.vocabulary.writer import Writer, dialect_of


def flatten_norms(analysis: Analysis) -> Respelled:
    """Lets every norm between two permutes of one position read the flat map, in place of both."""
    found = [value for value in analysis.region.values.values() if _is_between_permutes(value, analysis)]
    if not found:
        return Respelled(edited=set(), record=None)
    before = {value.node: value.node.all_input_nodes[0] for value in found}
    own = {other for node in before for other in (before[node], node, *node.users)}
    written_down = undo.write_down(analysis.vocabulary.root, own, {})
    first = written_down.own[0]
    writer = Writer(first.graph, dialect_of(first))
    erased: set[Node] = set()
    for value in found:
        erased |= _flatten(writer, value, before[value.node])
    record = written_down.record(writer.written, Form.LINEAR, Form.CONV, erased=erased)
    return Respelled(edited={*before, *writer.written, *written_down.outside}, record=record)


def _flatten(writer: Writer, value: PooledValue, before: Node) -> set[Node]:
    """Puts a flatten before a norm and an unflatten behind it, and gives the permutes, which are erased."""
    layout, norm, after = value.layout, value.node, [*value.node.users]
    assert layout is not None
    norm.replace_input_with(before, writer.flatten(before.all_input_nodes[0], layout.channels))
    restored = writer.unflatten(norm, (layout.channels or -1, *(1,) * layout.rank))
    for permute in after:
        for reader in list(permute.users):
            reader.replace_input_with(permute, restored)
        writer.graph.erase_node(permute)
    writer.graph.erase_node(before)
    return {before, *after}


def _is_between_permutes(value: PooledValue, analysis: Analysis) -> bool:
    values, op, layout = analysis.region.values, value.op, value.layout
    if not isinstance(op, FeatureNorm) or not op.is_last or layout is None or not layout.is_point:
        return False
    module = analysis.vocabulary.module(str(value.node.target)) if value.node.op == "call_module" else None
    if layout.axes != ((BATCH,), *((),) * layout.rank, (CHANNELS,)) or (module and has_hooks(module)):
        return False
    before = values.get(op.source)
    if before is None or not _is_map_permuted(before, analysis) or len(before.node.users) != 1:
        return False
    readers = [values.get(user) for user in value.node.users]
    is_back = all(
        reader is not None and isinstance(reader.op, Permute) and reader.layout and reader.layout.is_map
        for reader in readers
    )
    return bool(readers) and is_back


def _is_map_permuted(value: PooledValue, analysis: Analysis) -> bool:
    source = analysis.region.values.get(value.op.source) if isinstance(value.op, Permute) else None
    return source is not None and source.layout is not None and source.layout.is_map
