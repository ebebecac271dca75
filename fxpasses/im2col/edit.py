"""Writes convolutions as products of their unfolded patches, and these as convolutions.

One site at a time. Where one convolution reads another, the edit of the second lies upon that of the first,
so that they are taken back in the opposite order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch.fx import Graph, Node

from fxpasses.engine import undo
from fxpasses.engine.edit import Edit, erase_unread, restore, saved_moves
from fxpasses.engine.fake_values import compute, put
from fxpasses.engine.reshape import conv_extras, reshape, set_conv_extras
from fxpasses.graph import provenance
from fxpasses.im2col.find import Im2col, UnfoldSites
from fxpasses.im2col.writer import ColumnWriter
from fxpasses.plan import WeightPlan
from fxpasses.report import Form, Rewrite
from fxpasses.vocabulary.ops import Affine
from fxpasses.vocabulary.sizes import with_sizes
from fxpasses.vocabulary.writer import Dialect, dialect_of


def rewrite_sites(graph: Graph, found: UnfoldSites, to: Form, records: Sequence[undo.Record]) -> Edit:
    """Takes the sites in the other form to ``Form.UNFOLD`` or ``Form.CONV``, in place."""
    sites = found.convolutions if to is Form.UNFOLD else found.products
    return _Job(graph, found, to, records).run(sites)


class _Job:
    def __init__(self, graph: Graph, found: UnfoldSites, to: Form, records: Sequence[undo.Record]) -> None:
        self.graph = graph
        self.uses = found.uses
        self.vocabulary = found.vocabulary
        self.root = found.vocabulary.root
        self.to = to
        self.origin = Form.CONV if to is Form.UNFOLD else Form.UNFOLD
        self.records = [*records]
        self.known = undo.by_sites(records)
        self.stale: set[int] = set()
        self.nodes = undo.Nodes(graph.nodes)
        self.extras: dict[str, dict[str, Any]] = {}

    def run(self, sites: Sequence[Im2col]) -> Edit:
        for site in sites:
            if self.to is Form.UNFOLD and site.match.op.module is not None:
                self.extras[str(site.match.node.target)] = conv_extras(site.match.op.module)
        owned = [site.match for site in sites if site.reshapes]
        reshaped = reshape(self.root, self.uses, owned, self.to.weights)  # before any node reads it so
        for site in sites if self.to is Form.UNFOLD else reversed(sites):
            self._edit(site)
        return Edit(
            rewrites=tuple(self._as_rewrite(site, reshaped.copied) for site in sites),
            plan=WeightPlan(to=self.to.weights, moves=saved_moves(self.root, reshaped.moves)),
            records=tuple(entry for entry in self.records if id(entry) not in self.stale),
        )

    def _edit(self, site: Im2col) -> None:
        name = site.match.node.name
        own = self.known.get(frozenset([name]), [])
        earlier = undo.find(self.known, [name], self.nodes, self.to)
        forms = {Form.CONV, Form.UNFOLD}
        self.stale.update(id(entry) for entry in own if {entry.origin, entry.to} == forms)
        if earlier is not None:
            restore(self.graph, self.root, [earlier], self.nodes)
            if dialect_of(site.match.node) is not Dialect.TORCH:
                compute(self.nodes[spec.name] for spec in earlier.before)
            return
        made = self._unfold(site) if self.to is Form.UNFOLD else self._fold(site)
        self.records.extend([] if made is None else [made])

    def _unfold(self, site: Im2col) -> undo.Record | None:
        node, match = site.match.node, site.match
        before = undo.write_down(self.root, [node], {node: match})
        if match.op.module is not None:  # it is a Linear by now
            path = str(node.target)
            before = dataclasses.replace(before, conv_extras={path: self.extras[path]})
        writer = ColumnWriter(self.graph, dialect_of(node), node)
        read = self.vocabulary.classify(node)  # the site before it may give its map by another node now
        assert isinstance(read, Affine)
        result = writer.multiply(match.op, match.move, read.source, site.patches)
        for reader in before.outside:
            reader.replace_input_with(node, result)
        value = node.meta.get("val")
        record = self._done(site, writer, before, set(), set())
        if value is not None:
            put(result, value)
        return record

    def _fold(self, site: Im2col) -> undo.Record | None:
        node, match = site.match.node, site.match
        before = undo.write_down(self.root, with_sizes({node, *site.chain}), {node: match})
        writer = ColumnWriter(self.graph, dialect_of(node), node)
        moved = node.op != "call_module"
        if moved:  # a bias may be read between the product and the map
            site.end.prepend(node)
        writer.place = node.prev
        writer.convolve(match.op, match.move, site.source, site.patches)
        if match.op.module is not None:
            patches = site.patches
            numbers = {"stride": patches.stride, "padding": patches.padding, "dilation": patches.dilation}
            set_conv_extras(self.root.get_submodule(str(node.target)), numbers)
        for reader in list(site.end.users):
            reader.replace_input_with(site.end, node)
        value = site.end.meta.get("val")
        erased = erase_unread(
            self.graph, before.own, lambda part: part is not node and part.op != "placeholder"
        )
        for part in erased:
            del self.nodes[part.name]
        if value is not None:
            put(node, value)
        return self._done(site, writer, before, erased, {node.name} if moved else set())

    def _done(
        self, site: Im2col, writer: ColumnWriter, before: undo.Before, erased: set[Node], moved: set[str]
    ) -> undo.Record | None:
        """Makes what the graph says of its nodes true again, and writes down how the edit is taken back."""
        node = site.match.node
        provenance.retype(node, self.to.weights, 2)
        if writer.dialect is not Dialect.TORCH and self.to is Form.UNFOLD:
            compute({node, *writer.written})
        self.nodes |= {new.name: new for new in writer.written}
        return before.record(writer.written, self.origin, self.to, erased=erased, moved=moved)

    def _as_rewrite(self, site: Im2col, copied: dict[str, int]) -> Rewrite:
        match, now, then = site.match, self.origin.weights, self.to.weights
        if not site.reshapes:
            now = then = Form.CONV
        return Rewrite(
            site=match.site,
            to=self.to,
            weight_shape_before=match.move.shape(now),
            weight_shape_after=match.move.shape(then),
            copied_bytes=copied.pop(match.site.weight, 0),
        )
