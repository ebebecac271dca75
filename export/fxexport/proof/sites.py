"""The sites of two models that belong together, in their heads and upstream of these."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np

from fxexport.language.difference import Difference, difference
from fxexport.proof.pairing.derivation import Derived
from fxexport.proof.pairing.heads import PairedHeads
from fxexport.results import Failure
from fxexport.subjects.subject import Subject
from fxexport.terms.term import Array, Head, HeadTerm, SiteWeights, TermGraph, affine_of, postorder

SitePairs = tuple[tuple[HeadTerm, HeadTerm], ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairedSites:
    """The sites of two models that belong together.

    Attributes:
        heads: the reference's head and the candidate's.
        nodes: number of pairs of values of the heads.
        parting: where the heads are built differently, as a clause; None where they never are.
        of_heads: pairs of sites of the heads; None where their numbers or shapes differ.
        rewritten: pairs of sites upstream of the heads that the two models write in different ways.
    """

    heads: tuple[Head, Head]
    nodes: int
    parting: str | None
    of_heads: SitePairs | None
    rewritten: SitePairs

    @classmethod
    def of(cls, left: Subject, right: Subject, paired: PairedHeads) -> PairedSites:
        """Those of two models whose heads were paired."""
        heads = left.head, right.head
        return cls(
            heads=heads,
            nodes=paired.nodes,
            parting=paired.parting,
            of_heads=_of_heads(heads, paired),
            rewritten=_rewritten((left.graph, right.graph), heads),
        )

    def names(self) -> tuple[str, ...]:
        """Their parameters."""
        heads = [affine_of(site).weight_name for site in self.heads[0].sites]
        return (*heads, *(site_name(affine_of(a), affine_of(b)) for a, b in self.rewritten))

    def has(self, derived: Derived, *, has_same_features: bool) -> bool:
        """Whether it is in the heads that the two models differ, as far as is known."""
        if self.parting is not None or not has_same_features:
            return self.parting is not None
        inside = {*self.parameters(), *(term.node for term in self.heads[1].terms)}
        names = {name for pair in derived.unrelated for name in (pair.right.node, pair.right.module)}
        names |= {pair.right or pair.left for pair in derived.constants}
        return not names or not names.isdisjoint(inside)

    def parameters(self) -> frozenset[str | None]:
        """Names of the parameters of the reference's head."""
        sites = [affine_of(site) for site in self.heads[0].sites]
        return frozenset(name for site in sites for name in (site.weight_name, site.bias_name))

    def differences(self) -> tuple[Failure, ...]:
        """The sites of the heads that hold other parameters, as the ``[O, K]`` matrix they stand for."""
        pairs = [(affine_of(a), affine_of(b)) for a, b in self.of_heads or ()]
        return tuple(failure for a, b in pairs if (failure := _site_difference(a, b)) is not None)


def _of_heads(heads: tuple[Head, Head], paired: PairedHeads) -> SitePairs | None:
    reference, candidate = heads
    if paired.parting is None:
        partner = paired.partner
        return tuple((site, partner[site]) for site in reference.sites if site in partner)
    pairs = tuple(zip(reference.sites, candidate.sites, strict=False))
    if len(reference.sites) != len(candidate.sites) or any(_shape(a) != _shape(b) for a, b in pairs):
        return None
    return pairs


def _rewritten(graphs: tuple[TermGraph, TermGraph], heads: tuple[Head, Head]) -> SitePairs:
    """Sites upstream of the heads that hold the same numbers and are written in different ways."""
    left, right = (_upstream(graph, head) for graph, head in zip(graphs, heads, strict=True))
    if {_spelling(affine_of(a)) for a in left} == {_spelling(affine_of(b)) for b in right}:
        return ()
    places: dict[tuple[object, ...], list[HeadTerm]] = {}
    for term in right:
        places.setdefault(_numbers(affine_of(term)), []).append(term)
    pairs = [
        (term, found.pop(0))
        for term in left
        if (found := places.get(_numbers(affine_of(term)))) is not None and found
    ]
    return tuple((a, b) for a, b in pairs if _spelling(affine_of(a)) != _spelling(affine_of(b)))


def _upstream(graph: TermGraph, head: Head) -> list[HeadTerm]:
    inside = {affine_of(site).weight_name for site in head.sites}
    sites = []
    for term in postorder(graph, stop=lambda _: False):
        affine = term.affine or term.pointwise
        if affine is not None and affine.weight_name not in inside:
            sites.append(dataclasses.replace(term, affine=affine))
    return sites


def _spelling(affine: SiteWeights) -> tuple[object, ...]:
    columns = None if affine.columns is None else affine.columns.tobytes()
    return affine.spelling, affine.is_transposed, columns


def _numbers(affine: SiteWeights) -> tuple[object, ...]:
    return affine.weight.shape, affine.weight.dtype, zlib.crc32(affine.weight.tobytes())


def _shape(site: HeadTerm) -> tuple[int, ...]:
    return affine_of(site).weight.shape


def _site_difference(a: SiteWeights, b: SiteWeights) -> Failure | None:
    found = difference(a.weight, b.weight)
    if found is not None:
        return as_failure(site_name(a, b), found)
    found = difference(_bias(a, b), _bias(b, a))
    name = a.bias_name or b.bias_name or f"bias of {site_name(a, b)}"
    return None if found is None else as_failure(name, found)


def site_name(a: SiteWeights, b: SiteWeights) -> str:
    """The parameter of a pair of sites: an exporter gives a weight that it transposes a name of its own."""
    return next((site.weight_name for site in (a, b) if "." in site.weight_name), a.weight_name)


def _bias(affine: SiteWeights, other: SiteWeights) -> Array:
    """The bias; zeros where there is none, which is the same function as no bias."""
    if affine.bias is not None:
        return affine.bias
    kind = affine.weight.dtype if other.bias is None else other.bias.dtype
    return np.zeros(len(affine.weight), kind)


def as_failure(name: str, found: Difference) -> Failure:
    """The difference as a failure of the candidate's parameter."""
    is_value = found.index is not None
    return Failure(
        what="the parameter is another number" if is_value else "the parameter has another shape or type",
        name=name,
        index=found.index,
        expected=found.expected,
        found=found.found,
        side="candidate",
    )
