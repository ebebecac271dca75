"""Layers 1 to 3, which hold for every input: weights, wiring, backbone."""

from __future__ import annotations

import dataclasses

import numpy as np
from torch import nn

from fxexport.proof.graphs.compare import Comparison, ConstantDifference, constant_difference
from fxexport.proof.wiring.probe_pool import probe_pool
from fxexport.proof.wiring.probe_site import ProbeResult, probe_site, seeded
from fxexport.results import Coverage, Failure, LayerName, LayerResult, Status
from fxexport.subjects.precisions import claims_of
from fxexport.subjects.subject import EAGER, Subject
from fxexport.terms.arrays import numpy_of
from fxexport.terms.term import Array, Head, SiteWeights, Term, affine_of
from fxpasses.errors import CheckError, PlanError, ProviderError
from fxpasses.plan import WeightPlan

Planned = tuple[nn.Module, nn.Module, WeightPlan]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Walks:
    """Both heads and both backbones side by side.

    Attributes:
        heads: the reference's head and the candidate's.
        head: the heads, from paired outputs to their boundaries.
        strict: the same in one dialect, where operators can be compared by what they say.
        upstream: what is upstream of them.
        is_reformed: whether sites in the middle of the two have other forms.
        in_heads: values of the sites of both heads, where ``upstream`` goes over these as well.
    """

    heads: tuple[Head, Head]
    head: Comparison
    strict: Comparison
    upstream: Comparison
    is_reformed: bool = False
    in_heads: frozenset[tuple[str, str]] = frozenset()

    def head_sites(self) -> tuple[tuple[Term, Term], ...] | None:
        """Sites of the heads that belong together, or None where their numbers or shapes differ."""
        reference, candidate = self.heads
        if self.head.parting is None:
            partner = self.head.partner
            return tuple((site, partner[site]) for site in reference.sites if site in partner)
        pairs = tuple(zip(reference.sites, candidate.sites, strict=False))
        if len(reference.sites) != len(candidate.sites) or any(_shape(a) != _shape(b) for a, b in pairs):
            return None
        return pairs

    def side_sites(self) -> tuple[tuple[Term, Term], ...]:
        """Sites upstream of the heads (squeeze-excite), where the backbones are built alike."""
        if self.upstream.parting is not None:
            return ()
        inside = {site for pair in self.head_sites() or () for site in pair}
        pairs = [(a, b) for a, b in self.upstream.partner.items() if a.affine and b.affine]
        return tuple((a, b) for a, b in pairs if a not in inside and (a.value, b.value) not in self.in_heads)

    def rewritten_sites(self) -> tuple[tuple[Term, Term], ...]:
        """Those of the side sites that the two models write in different ways."""
        return tuple((a, b) for a, b in self.side_sites() if _is_rewritten(affine_of(a), affine_of(b)))


def _is_rewritten(a: SiteWeights, b: SiteWeights) -> bool:
    if (a.operand, a.spelling, a.is_transposed) != (b.operand, b.spelling, b.is_transposed):
        return True
    if a.columns is None or b.columns is None:
        return a.columns is not b.columns
    return not np.array_equal(a.columns, b.columns)


def _shape(site: Term) -> tuple[int, ...]:
    return affine_of(site).weight.shape


def site_differences(walks: Walks) -> tuple[ConstantDifference, ...]:
    """The sites that belong together and hold other parameters, as the ``[O, K]`` matrix that they stand for.

    The sites are those of the head, and those upstream of it where the backbones are built alike.
    """
    heads = [_site_difference(affine_of(a), affine_of(b)) for a, b in walks.head_sites() or ()]
    # no exporter folds a batch norm into a head, so that nothing there may be rounding
    heads = [None if item is None else dataclasses.replace(item, is_rounding=False) for item in heads]
    sides = [_site_difference(affine_of(a), affine_of(b)) for a, b in walks.side_sites()]
    return tuple(difference for difference in (*heads, *sides) if difference is not None)


def weights_layer(
    walks: Walks, different: tuple[ConstantDifference, ...], planned: Planned | None
) -> LayerResult:
    """Layer 1: every site's parameters are the same numbers; ``different`` has those that are not."""
    pairs, (reference, candidate) = walks.head_sites(), walks.heads
    if not reference.sites or pairs is None:
        counts = f"{len(reference.sites)} sites in the reference, {len(candidate.sites)} in the candidate"
        reason = "no head was found" if not reference.sites else f"the heads do not pair up ({counts})"
        return _not_run(LayerName.WEIGHTS, reason)
    if walks.is_reformed and walks.upstream.parting is not None:
        reason = f"sites upstream of the head changed form, and between them {walks.upstream.parting}"
        return _not_run(LayerName.WEIGHTS, reason)
    count, is_exact = 0, True
    for a, b in (*pairs, *walks.side_sites()):
        own = affine_of(a)
        count += own.weight.size + (0 if own.bias is None else own.bias.size)
        is_exact = is_exact and own.is_exact and affine_of(b).is_exact
    failures = [as_failure(item, "parameter") for item in different]
    failures += [] if planned is None else _plan_failures(*planned)
    covered = Coverage(parameters=count)
    parting = walks.head.parting
    if failures and parting is not None:
        reason = f"the weights differ, and the heads are built differently: {parting}"
        return LayerResult(layer=LayerName.WEIGHTS, status=Status.NOT_RUN, covered=covered, reason=reason)
    if failures:
        return LayerResult(
            layer=LayerName.WEIGHTS, status=Status.FAILED, covered=covered, failures=tuple(failures)
        )
    if is_exact:
        return LayerResult(layer=LayerName.WEIGHTS, status=Status.PROVED, covered=covered)
    reason = "a factor alpha or beta was folded in with rounding"
    return LayerResult(layer=LayerName.WEIGHTS, status=Status.HELD, covered=covered, reason=reason)


def _site_difference(a: SiteWeights, b: SiteWeights) -> ConstantDifference | None:
    """That of the weights, unless it may be rounding and that of the biases may not."""
    weight = constant_difference(site_name(a, b), a.weight, b.weight)
    if weight is not None and not weight.is_rounding:
        return weight
    name = a.bias_name or b.bias_name or f"bias of {site_name(a, b)}"
    bias = constant_difference(name, _bias(a, b), _bias(b, a))
    if weight is None:
        return bias
    is_more = bias is not None and bias.index is not None and not _is_near(bias)
    return bias if is_more else weight


def _is_near(bias: ConstantDifference) -> bool:
    """Beside weights that differ by rounding one bias alone may differ, too."""
    if bias.expected is None or bias.found is None:
        return False
    return bias.is_rounding or abs(bias.expected - bias.found) <= 2.0**-18 * abs(bias.expected)


def site_name(a: SiteWeights, b: SiteWeights) -> str:
    """The parameter of a pair of sites: an exporter gives a weight that it transposes a name of its own."""
    return next((site.weight_name for site in (a, b) if "." in site.weight_name), a.weight_name)


def _bias(affine: SiteWeights, other: SiteWeights) -> Array:
    """The bias; zeros where there is none, which is the same function as no bias."""
    if affine.bias is not None:
        return affine.bias
    kind = affine.weight.dtype if other.bias is None else other.bias.dtype
    return np.zeros(len(affine.weight), kind)


def as_failure(difference: ConstantDifference, what: str) -> Failure:
    """The difference as a failure of the candidate's."""
    is_value = difference.index is not None
    clause = f"the {what} is another number" if is_value else f"the {what} has another shape or type"
    return Failure(
        what=clause,
        name=difference.name,
        index=difference.index,
        expected=difference.expected,
        found=difference.found,
        side="candidate",
    )


def _plan_failures(reference: nn.Module, candidate: nn.Module, plan: WeightPlan) -> list[Failure]:
    try:
        expected = plan.apply(reference.state_dict())
    except PlanError as error:
        raise CheckError(
            "the plan does not fit the reference", fix="give the plan of this rewrite"
        ) from error
    state = candidate.state_dict()
    failures = []
    for move in plan.moves:
        if move.name not in state:
            failures.append(Failure(what="the plan's parameter is missing", name=move.name, side="candidate"))
            continue
        difference = constant_difference(move.name, numpy_of(expected[move.name]), numpy_of(state[move.name]))
        failures.extend([] if difference is None else [as_failure(difference, "parameter")])
    return failures


def wiring_layer(
    subjects: tuple[Subject, Subject],
    walks: Walks,
    providers: tuple[str, ...],
    prober: Prober,
    *,
    is_shown: bool,
    is_derived: bool,
) -> LayerResult:
    """Layer 2: the heads are the same operators, and each site alone puts every weight in its place.

    Upstream of the heads the sites are probed that the two models write in different ways.

    ``is_shown``: whether the two were seen to differ, so that differences of the graphs are what tells why.
    ``is_derived``: whether one was derived from the other, so that how these are written tells nothing.
    """
    if not walks.heads[0].sites or not walks.heads[1].sites:
        return _not_run(LayerName.WIRING, "no head was found")
    probes, gaps, failures, held, notes = 0, [], [], [], []
    rewritten = walks.rewritten_sites()
    for index, side in enumerate(("reference", "candidate")):
        subject = subjects[index]
        for provider in (EAGER,) if subject.dialect == "module" else providers:
            for site in (*walks.heads[index].sites, *(pair[index] for pair in rewritten)):
                try:
                    probe = prober.probe(subject, site, provider)
                except ProviderError as error:
                    gaps.append(f"{affine_of(site).weight_name!r} does not run alone ({error})")
                    continue
                probes += probe.probes
                gaps.extend([] if probe.gap is None else [probe.gap])
                held.extend([] if probe.held is None else [f"{probe.held} ({side} on {provider})"])
                notes.extend([] if probe.note is None else [probe.note])
                failures.extend([] if probe.failure is None else [_placed(probe.failure, side, provider)])
            for site in walks.heads[index].sites:  # those upstream stay where they are, before no pool
                count, failure = prober.probe_pool(subject, site, provider)
                probes += count
                failures.extend([] if failure is None else [_placed(failure, side, provider)])
    walk = walks.head if walks.strict.parting is not None else walks.strict
    parting = walk.parting
    covered = Coverage(probes=probes, nodes=walk.nodes)
    if parting is None:
        found = graph_failures(walk)
        if failures or is_shown:
            failures[:0] = found
        elif not is_derived:
            held[:0] = map(str, found[:1])
    if failures:
        return LayerResult(
            layer=LayerName.WIRING, status=Status.FAILED, covered=covered, failures=tuple(failures)
        )
    if gaps:
        return LayerResult(layer=LayerName.WIRING, status=Status.NOT_RUN, covered=covered, reason=gaps[0])
    if parting is not None and not is_derived:
        held.insert(0, f"the heads are built differently: {parting}")
    elif not is_derived:
        held[:0] = walk.tried[:1]
    status = Status.HELD if held else Status.PROVED
    reason = next(iter((*held, *notes)), None)
    return LayerResult(layer=LayerName.WIRING, status=status, covered=covered, reason=reason)


def graph_failures(walk: Comparison) -> list[Failure]:
    """In which operators and constants two graphs differ."""
    operators = [
        Failure(what=item.what, name=item.name, expected=item.expected, found=item.found, side="candidate")
        for item in walk.operators[:8]
    ]
    return [*operators, *(as_failure(item, "constant") for item in walk.constants[:8])]


class Prober:
    """Probes each site of each model once on each provider, however many certificates ask."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._results: dict[tuple[Term, str], ProbeResult] = {}
        self._pools: dict[tuple[Term, str], tuple[int, Failure | None]] = {}
        self._known: set[tuple[object, ...]] = set()

    def probe_pool(self, subject: Subject, site: Term, provider: str) -> tuple[int, Failure | None]:
        """What running the pool behind a site alone showed."""
        key = (site, provider)
        if key not in self._pools:
            self._pools[key] = probe_pool(subject, site, provider, seeded(self._seed))
        return self._pools[key]

    def probe(self, subject: Subject, site: Term, provider: str) -> ProbeResult:
        """What probing the site alone showed."""
        key = (site, provider)
        if key not in self._results:
            affine = _probed(affine_of(site))
            form = _form(affine, subject, provider)
            found = probe_site(
                affine,
                lambda features, weight, has_bias: subject.run_site(
                    site, features, weight, provider, has_bias=has_bias
                ),
                seeded(self._seed),
                claims_of(affine.weight.dtype.name, subject, provider),
                is_known=form in self._known,
            )
            self._results[key] = found
            if form is not None and not (found.failure or found.gap or found.held):
                self._known.add(form)
        return self._results[key]


def _form(affine: SiteWeights, subject: Subject, provider: str) -> tuple[object, ...] | None:
    """What sites at many places have in common that differ in nothing but their weights; None for others."""
    if affine.spots is None or affine.columns is not None:
        return None
    spots = dataclasses.replace(affine.spots, result="")
    kind = affine.weight.shape, affine.weight.dtype.name, affine.bias is None, affine.is_transposed
    return provider, subject.dialect, affine.spelling, affine.is_plain, spots, *kind


def _probed(affine: SiteWeights) -> SiteWeights:
    """The site as the operator alone computes it: a bias may be added to another view of its result."""
    if affine.spots is None or affine.spots.adds_bias:
        return affine
    return dataclasses.replace(affine, bias=None, bias_name=None)


def _placed(failure: Failure, side: str, provider: str) -> Failure:
    return dataclasses.replace(failure, side=side, provider=provider)


def backbone_layer(upstream: Comparison, *, is_exported: bool, is_shown: bool) -> LayerResult:
    """Layer 3: what is upstream of the heads is the same operators over the same constants.

    ``is_exported``: whether a module was compared as the file that it exports to, which rests on the
    exporter. ``is_shown``: whether the two were seen to differ.
    """
    covered = Coverage(nodes=upstream.nodes)
    if upstream.parting is not None:
        parted = f"the backbones are built differently: {upstream.parting}"
        return LayerResult(layer=LayerName.BACKBONE, status=Status.NOT_RUN, covered=covered, reason=parted)
    failures = tuple(graph_failures(upstream))
    if failures and is_shown:
        return LayerResult(layer=LayerName.BACKBONE, status=Status.FAILED, covered=covered, failures=failures)
    exported = ("the module was compared as what it exports to",) if is_exported else ()
    reason = next(iter((*map(str, failures), *upstream.tried, *exported)), None)
    status = Status.PROVED if reason is None else Status.HELD
    return LayerResult(layer=LayerName.BACKBONE, status=status, covered=covered, reason=reason)


def _not_run(layer: LayerName, reason: str) -> LayerResult:
    return LayerResult(layer=layer, status=Status.NOT_RUN, covered=Coverage(), reason=reason)
