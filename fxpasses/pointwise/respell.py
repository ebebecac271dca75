"""What stands between sites written in another way, so that fewer permutes are needed and views hold.

``norm(channels_last(u)) = unflatten(norm(flatten(u)))`` where ``u`` is ``[N, C, 1, 1]``, of the same vectors.
A head that permutes its pooled map around a LayerNorm (ConvNeXt) has its flatten above the norm then, and
needs neither permute.

``x.view(…)`` takes no operand whose axes lie in another order in memory than their own, and a value behind a
permute is one; also several ops later, as convolutions, norms and sums keep the order of what they read.
After an edit, what follows it therefore says ``reshape``, which is the same view wherever there is one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Container

from torch.fx import Graph, Node

from fxpasses.engine import undo
from fxpasses.engine.refusals import has_hooks
from fxpasses.heads.analysis import Analysis
from fxpasses.heads.region import PooledValue
from fxpasses.report import Form
from fxpasses.vocabulary.ops import BATCH, CHANNELS, Affine, FeatureNorm, Permute, ShapeValue, View
from fxpasses.vocabulary.questions import makes_contiguous, needs_strides
from fxpasses.vocabulary.vocabulary import Vocabulary
from fxpasses.vocabulary.writer import Writer, dialect_of


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Respelled:
    """The nodes that were written in another way, and how that can be taken back."""

    edited: set[Node]
    record: undo.Record | None


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


def respell_views(vocabulary: Vocabulary, edited: set[Node], sites: Collection[Node], to: Form) -> Respelled:
    """Makes every ``view`` that an edited value can reach take operands of any strides."""
    site = next(iter(sites))
    found = _behind(site.graph, vocabulary, edited, sites if to is Form.LINEAR else ())
    if not found:
        return Respelled(edited=set(), record=None)
    before = undo.write_down(vocabulary.root, found, {}, read=())
    writer = Writer(site.graph, dialect_of(site))
    for node in found:
        writer.reshaping(node)
    origin = Form.LINEAR if to is Form.CONV else Form.CONV
    return Respelled(edited={*found, *writer.written}, record=before.record(writer.written, origin, to))


def _behind(graph: Graph, vocabulary: Vocabulary, edited: set[Node], linears: Container[Node]) -> list[Node]:
    """The views behind edited values, as far as no Linear gives a value that is laid out anew."""
    reached = {node for node in edited if node not in linears}
    found: list[Node] = []
    for node in graph.nodes:
        if node not in reached and not any(source in reached for source in node.all_input_nodes):
            continue
        op = vocabulary.classify(node)
        if isinstance(op, ShapeValue) or node in linears or makes_contiguous(node):
            continue
        if isinstance(op, Affine) and op.form is Form.LINEAR and node not in edited:
            continue
        reached.add(node)
        if isinstance(op, View) and op.source in reached and needs_strides(node):
            found.append(node)
    return found
