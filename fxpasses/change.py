"""From one form to another, step by step: back to convolutions after the pool, and on from there.

::

    linear ⇄ conv ⇄ dense
               ⇄ fcn
             conv ⇄ unfold

Every step has a record of its own, which takes it back exactly; they lie upon one another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from torch.fx import Graph, Node

from fxpasses.dense.edit import rise, sink
from fxpasses.engine import undo
from fxpasses.engine.edit import Edit, joined, restore
from fxpasses.engine.fake_values import recompute
from fxpasses.engine.match import Match
from fxpasses.engine.outputs import add_maps, drop_maps, reader_of_mean
from fxpasses.fcn.edit import open_windows
from fxpasses.fcn.find import PoolWindow, pool_of
from fxpasses.graph.program import OpenProgram
from fxpasses.graph.tree import attribute
from fxpasses.heads.component import apply
from fxpasses.im2col.edit import rewrite_sites
from fxpasses.plan import WeightPlan
from fxpasses.pointwise.edit import apply_everywhere
from fxpasses.report import Form, Memory, Miss, Rewrite, Scope
from fxpasses.survey import Look, Survey, relevant
from fxpasses.vocabulary.ops import WeightSource


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What ``carry_out`` did.

    Attributes:
        records: how all that was done can be taken back.
        native_size: spatial extents of the input at which ``fcn`` gives one position.
        memory: what unfolding takes, where that is the form.
        notes: what a user may take for granted of it and is not so.
    """

    rewrites: tuple[Rewrite, ...]
    misses: tuple[Miss, ...]
    plan: WeightPlan
    records: tuple[undo.Record, ...]
    native_size: tuple[int, ...] | None = None
    memory: Memory | None = None
    notes: tuple[str, ...] = ()


def carry_out(survey: Survey, to: Form, records: Sequence[undo.Record], *, with_map: bool) -> Change:
    """Takes every site that can have it to the form ``to``, in place.

    ``records`` say how earlier edits of this graph can be taken back; with ``with_map`` a dense head's map
    becomes an output.
    """
    change = _im2col(survey, to, records) if to in (Form.CONV, Form.UNFOLD) else None
    if change is None:
        return _heads(survey, to, records, with_map=with_map)
    if to is Form.UNFOLD or survey.scope is Scope.UNFOLDED:
        return change
    heads = _heads(survey, to, change.records, with_map=with_map)
    return dataclasses.replace(
        heads,
        rewrites=(*change.rewrites, *heads.rewrites),
        misses=(*change.misses, *heads.misses),
        plan=WeightPlan(to=to.weights, moves=(*change.plan.moves, *heads.plan.moves)),
    )


def _im2col(survey: Survey, to: Form, records: Sequence[undo.Record]) -> Change:
    """Takes convolutions to their unfolded form, or all that are in it back."""
    found = survey.unfolding(to)
    sites = found.convolutions if to is Form.UNFOLD else found.products
    misses = relevant(found.misses, to)
    if not sites:
        return _none(to, misses, records)
    memory = survey.memory((*found.convolutions, *found.products)) if to is Form.UNFOLD else None
    done = rewrite_sites(survey.subject.graph, found, to, records)
    return Change(
        rewrites=done.rewrites,
        misses=misses,
        plan=done.plan,
        records=done.records,
        memory=memory,
    )


def _none(to: Form, misses: tuple[Miss, ...], records: Sequence[undo.Record]) -> Change:
    empty = WeightPlan(to=to.weights, moves=())
    return Change(rewrites=(), misses=misses, plan=empty, records=tuple(records))


def _heads(survey: Survey, to: Form, records: Sequence[undo.Record], *, with_map: bool) -> Change:
    look = survey.look(records)
    choice, windows = survey.choose(look, to)
    misses = (*choice.misses, *relevant(look.analysis.misses, to))
    matches = (*choice.matches, *(_without_map(look) if with_map else ()))
    if not matches:
        return _none(to, misses, records)
    native_size = survey.native_size() if to is Form.FCN else None
    return _Job(survey, to, look, matches, records).run(misses, windows, native_size, with_map=with_map)


def _without_map(look: Look) -> tuple[Match, ...]:
    """The dense sites of a graph, unless their maps are outputs already."""
    mapped = {name for entry in look.standing if entry.maps for name in entry.sites}
    found = [match for match in look.analysis.matches if match.site.form is Form.DENSE]
    return () if all(match.node.name in mapped for match in found) else tuple(found)


class _Job:
    def __init__(
        self, survey: Survey, to: Form, look: Look, matches: Sequence[Match], records: Sequence[undo.Record]
    ) -> None:
        self.survey = survey
        self.graph: Graph = survey.subject.graph
        self.root = survey.subject.root
        self.to = to
        self.look = look
        self.before = {match.node.name: match for match in matches}
        self.records = [*records]
        self.is_flat = isinstance(survey.subject, OpenProgram)
        self.notes: list[str] = []

    def run(
        self,
        misses: tuple[Miss, ...],
        windows: dict[str, PoolWindow],
        native_size: tuple[int, ...] | None,
        *,
        with_map: bool,
    ) -> Change:
        if self.to is not Form.FCN:  # windows stand on a dense head as well
            while self._take_back():
                self.look = self.survey.look(self.records)
        edit = self._reshape()
        if self.to is Form.DENSE:
            self.look = self.survey.look(self.records)
            self._sink(with_map=with_map)
        elif self.to is Form.FCN:
            self.look = self.survey.look(self.records)
            self._open(windows, native_size or ())
        return Change(
            rewrites=tuple(self._rewrites(edit)),
            misses=misses,
            plan=WeightPlan(to=self.to.weights, moves=edit.plan.moves if edit is not None else ()),
            records=tuple(self.records),
            native_size=native_size,
            notes=tuple(self.notes),
        )

    def _matches(self, *forms: Form) -> list[Match]:
        """The chosen sites that have one of these forms now."""
        found = self.look.analysis.matches
        return [match for match in found if match.node.name in self.before and match.site.form in forms]

    def _take_back(self) -> bool:
        """Takes one step of every chosen head back towards the convolution after the pool."""
        open_ = self._matches(Form.DENSE, Form.FCN)
        names = {match.node.name for match in open_}
        if not names:
            return False
        standing = [entry for entry in self.look.standing if names & set(entry.sites)]
        maps = max((entry.maps for entry in standing), default=0)
        if maps:
            drop_maps(self.graph, maps, is_flat=self.is_flat)
        self._restore(standing)
        for head in self.look.dense:
            if names & {match.node.name for match in head.matches}:
                made = rise(head, self.look.analysis)
                self.records.extend([] if made is None else [made])
        return True

    def _restore(self, entries: Sequence[undo.Record]) -> None:
        nodes = self.look.nodes
        restore(self.graph, self.root, entries, nodes)
        names = {spec.name for entry in entries for spec in entry.before}
        recompute(nodes[name] for name in names if name in nodes)
        gone = {id(entry) for entry in entries}
        self.records = [entry for entry in self.records if id(entry) not in gone]

    def _reshape(self) -> Edit | None:
        """The steps between Linears and convolutions, of pooled and of pointwise sites."""
        to = self.to.weights
        edits: list[Edit] = []
        while matches := [
            match for match in self._matches(Form.LINEAR, Form.CONV) if match.site.form is not to
        ]:
            chosen, edit_all = self._next_step(matches)
            analysis = dataclasses.replace(self.look.analysis, matches=chosen)
            edits.append(edit_all(self.graph, self.root, analysis, to, self.records, self.look.nodes))
            self.records = [*edits[-1].records]
            if len(chosen) == len(matches):
                break
            self.look = self.survey.look(self.records)
        return joined(edits, self.root) if edits else None

    def _next_step(self, matches: Sequence[Match]) -> tuple[tuple[Match, ...], Callable[..., Edit]]:
        """The sites whose turn it is, and what edits them.

        Pooled sites go first, and vectors last, which may turn out to be pooled once what is above them has
        its form; on the way back what was done last is taken back first.
        """
        pointwise = [match for match in matches if match.site.scope is Scope.ALL]
        to = self.to.weights
        last = {
            name
            for entry in self.records
            if entry.is_pointwise and entry.origin is to
            for name in entry.sites
        }
        ranks = self.look.analysis.ranks
        recorded = [match for match in pointwise if match.node.name in last]
        pooled = [match for match in matches if match.site.scope is not Scope.ALL]
        wide = [match for match in pointwise if ranks is not None and not ranks.is_vector(match)]
        if not recorded and pooled:
            return tuple(pooled), apply
        weights = {self._weight(match) for match in recorded or wide or pointwise}
        return tuple(match for match in pointwise if self._weight(match) in weights), apply_everywhere

    def _weight(self, match: Match) -> int:
        """What sites have in common that have to change together."""
        weight = match.op.weight_node if match.op.weight_source is WeightSource.INPUT else None
        return id(weight or attribute(self.root, match.op.weight))

    def _sink(self, *, with_map: bool) -> None:
        values = self.look.analysis.region.values
        heads: dict[Node, dict[Node, Match]] = {}
        for match in self._matches(Form.CONV):
            heads.setdefault(values[match.node].pool, {})[match.node] = match
        known = undo.by_sites(self.records)
        maps: list[Node] = []
        made: list[undo.Record] = []
        restored: list[undo.Record] = []
        sites: set[str] = set()
        for start, own in heads.items():
            names = [node.name for node in own]
            earlier = undo.find(known, names, self.look.nodes, Form.DENSE)
            if earlier is not None and not with_map:
                restored.append(earlier)
                continue
            sites.update(names)
            sunk = sink(self.look.analysis, start, own)
            made.extend([] if sunk.record is None else [sunk.record])
            maps.extend(sunk.maps)
        self._restore(restored)
        self.records = [e for e in self.records if e.to is not Form.DENSE or sites.isdisjoint(e.sites)]
        if with_map and maps:
            vocabulary = self.look.analysis.vocabulary
            found = (reader_of_mean(node, vocabulary) for node in maps)
            readers = dict.fromkeys(name for name in found if name is not None)
            self.notes += [
                f"the mean of the map is what {name!r} reads, no output" for name in sorted(readers)
            ]
            add_maps(self.graph, tuple(maps), is_flat=self.is_flat)
            made = [dataclasses.replace(entry, maps=len(maps)) for entry in made]
        self.records.extend(made)

    def _open(self, windows: dict[str, PoolWindow], native: tuple[int, ...]) -> None:
        heads: dict[Node, dict[Node, Match]] = {}
        for match in self._matches(Form.CONV, Form.DENSE):
            start = pool_of(match, self.look.analysis)
            assert start is not None, "chosen with its pool"
            heads.setdefault(start, {})[match.node] = match
        for start, own in heads.items():
            names = {node.name for node in own}
            record = open_windows(self.look.analysis, start, windows[start.name], own)
            self.records = [e for e in self.records if e.to is not Form.FCN or names.isdisjoint(e.sites)]
            self.records.extend([] if record is None else [dataclasses.replace(record, native=native)])

    def _rewrites(self, edit: Edit | None) -> Iterator[Rewrite]:
        """One entry a site, from the form that it had at first to the one that it has at last."""
        reshaped = {entry.site.node: entry for entry in edit.rewrites} if edit is not None else {}
        for name, match in self.before.items():
            entry = reshaped.get(name)
            if entry is None:
                yield _unreshaped(match, self.to)
            elif match.site.form in (Form.LINEAR, Form.CONV):
                yield dataclasses.replace(entry, to=self.to)
            else:
                yield dataclasses.replace(entry, to=self.to, site=match.site)


def _unreshaped(match: Match, to: Form) -> Rewrite:
    shape = match.move.conv_shape
    return Rewrite(
        site=match.site, to=to, weight_shape_before=shape, weight_shape_after=shape, copied_bytes=0
    )
