"""Heads before their pool, written as heads behind it: an average commutes with what is affine at a position.

``mean(W·x_p + b) = W·mean(x_p) + b``, because the weights of an average add up to one. So the terms of a
model with a dense head become those of the same model with its head behind the pool, and the two compare
as any others do. A value that exists in the model's own order alone keeps its name; one that only the other
order computes has none.

What is crossed: convolutions with a kernel of one cell, stride 1, no padding and one group, for which stands
a site that works at every position of the map (``SiteWeights.spots``); and sums, differences, products and
quotients with a constant that has one number for each channel, or one for all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from fxexport.terms.term import (
    MAXIMUM,
    Head,
    HeadTerm,
    Kind,
    SiteWeights,
    TermGraph,
    at_every_position,
    find_head,
    postorder,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MapOutput:
    """An output that holds the scores of every position of a map.

    Attributes:
        position: its place among the model's outputs.
        site: the last site above it, as a term behind the pool.
        scores: position of the output that is the average of the map itself, or None.
    """

    position: int
    site: HeadTerm
    scores: int | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Commuted:
    """A model with its sites behind their pools.

    Attributes:
        head: of the outputs that are no maps.
        maps: the others.
    """

    graph: TermGraph
    head: Head
    maps: tuple[MapOutput, ...]


def is_dense(graph: TermGraph) -> bool:
    """True if a pool averages what a site gives at every position."""
    terms = postorder(graph, stop=lambda _: False)
    return any(_is_average(term) and _has_site(term.operands[0]) for term in terms)


def _has_site(source: HeadTerm) -> bool:
    """Whether a value is made of what a site gives at every position, by scales and shifts."""
    while _crossed(source) is None:
        scaled = _scaled(source)
        if scaled is None:
            return False
        source = scaled
    return True


def has_norm_before_pool(graph: TermGraph) -> bool:
    """True if an average is taken of what a batch norm gives, which is not moved."""
    terms = postorder(graph, stop=lambda _: False)
    return any(_is_average(term) and _is_of_norm(term.operands[0]) for term in terms)


def _is_of_norm(source: HeadTerm) -> bool:
    while (scaled := _scaled(source)) is not None or _crossed(source) is not None:
        source = source.operands[0] if scaled is None else scaled
    return any(name in source.signature for name in ("BatchNorm", "batch_norm"))


def commuted(graph: TermGraph) -> Commuted:
    """The terms with every average above the sites that it commutes with."""
    moving = _Moving()
    for term in postorder(graph, stop=lambda _: False):
        moving.take(term)
    maps = []
    for position, term in enumerate(graph):
        site = moving.averaged.get(term)
        if site is not None and any(_is_above(term, other) for other in graph if other is not term):
            pools = [i for i, other in enumerate(graph) if moving.of(other) is site]
            maps.append(MapOutput(position=position, site=site, scores=next(iter(pools), None)))
    left_out = {entry.position for entry in maps}
    outputs = tuple(map(moving.of, graph))
    kept = tuple(output for i, output in enumerate(outputs) if i not in left_out)
    return Commuted(graph=outputs, head=find_head(kept), maps=tuple(maps))


def spread_sites(head: Head, partner: Mapping[HeadTerm, HeadTerm]) -> frozenset[HeadTerm]:
    """The sites of a head that it, or the other head, applies before the pool."""
    return frozenset(
        site
        for site in head.sites
        if any(term.affine is not None and term.affine.is_spread for term in (site, partner.get(site, site)))
    )


class _Moving:
    """Writes terms anew, operands first; ``averaged`` has the sites that stand for the average of a map."""

    def __init__(self) -> None:
        self._new: dict[HeadTerm, HeadTerm] = {}
        self._means: dict[HeadTerm, HeadTerm] = {}
        self.averaged: dict[HeadTerm, HeadTerm] = {}

    def of(self, term: HeadTerm) -> HeadTerm:
        return self._new[term]

    def take(self, term: HeadTerm) -> None:
        """Notes what stands for a term whose operands were taken before."""
        if _is_average(term) and (_crossed(term.operands[0]) or _scaled(term.operands[0])) is not None:
            source = term.operands[0]
            site = dataclasses.replace(self._mean(source, term), value=term.value)
            self._new[term] = self.averaged[source] = site
            return
        operands = tuple(self._new[operand] for operand in term.operands)
        is_same = all(a is b for a, b in zip(operands, term.operands, strict=True))
        self._new[term] = term if is_same else dataclasses.replace(term, operands=operands)

    def _mean(self, source: HeadTerm, pool: HeadTerm) -> HeadTerm:
        """The average of a map, as far down as it goes; without a name, as nobody computes it."""
        if source not in self._means and (scaled := _scaled(source)) is not None:
            operand, shape = self._mean(scaled, pool), (source.shape or ())[:1]
            self._means[source] = dataclasses.replace(
                source,
                value="",
                operands=tuple(operand if given is scaled else _row(given) for given in source.operands),
                shape=shape,
                constants=tuple(
                    number.reshape(-1) if number.size > 1 else number for number in source.constants
                ),
            )
        elif source not in self._means:
            affine, shape = _crossed(source), source.shape or ()
            operand = self._new[source] if affine is None else self._mean(source.operands[0], pool)
            self._means[source] = HeadTerm(
                kind=Kind.POOL if affine is None else Kind.AFFINE,
                value="",
                node=pool.node if affine is None else source.node,
                signature=pool.signature if affine is None else "affine",
                operands=(operand,),
                shape=shape[:1],
                affine=affine,
            )
        return self._means[source]


def _is_average(term: HeadTerm) -> bool:
    return term.kind is Kind.POOL and term.function != MAXIMUM


def _crossed(source: HeadTerm) -> SiteWeights | None:
    """What a value is at every position, if that is a site; a map of one cell is a map too."""
    if source.kind is Kind.AFFINE and source.affine is not None:
        is_cell = len(source.affine.operand) > 1 and all(extent == 1 for extent in source.affine.operand[1:])
        is_kernel = set(source.affine.kernel_size) == {1} and source.affine.columns is None
        rank = len(source.affine.operand) + 1
        return at_every_position(source.affine, source.value, rank) if is_cell and is_kernel else None
    return source.pointwise if source.pointwise is not None and source.pointwise.is_spread else None


def _scaled(source: HeadTerm) -> HeadTerm | None:
    """The map that a scale or shift of each channel is one of; else None."""
    return None if source.scaling is None or len(source.shape or ()) < 2 else source.varying[0]


def _row(term: HeadTerm) -> HeadTerm:
    """A constant of one number for each channel as the vector that a head behind the pool reads."""
    while term.kind is Kind.OP and len(term.operands) == 1:
        term = term.operands[0]
    return term


def _is_above(term: HeadTerm, root: HeadTerm) -> bool:
    return term in postorder([root], stop=lambda _: False)
