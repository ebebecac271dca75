"""Views that relied on how a value lay in memory.

``x.view(…)`` takes no operand whose axes lie in another order in memory than their own, and a value behind a
permute is one; also several ops later, as convolutions, norms and sums keep the order of what they read.
After an edit, what follows it therefore says ``reshape``, which is the same view wherever there is one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Container

from torch.fx import Graph, Node

from fxpasses.engine import undo
from fxpasses.report import Form
from fxpasses.vocabulary.ops import Affine, ShapeValue, View
from fxpasses.vocabulary.strides import makes_contiguous, needs_strides
from fxpasses.vocabulary.vocabulary import Vocabulary
from fxpasses.vocabulary.writer import Writer, dialect_of


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Respelled:
    """The views that were respelled, and how that can be taken back."""

    edited: set[Node]
    record: undo.Record | None


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
