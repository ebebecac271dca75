"""Layers 1 to 3, which hold for every input: weights, wiring, backbone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from torch import nn

from fxexport.language.difference import difference
from fxexport.proof.evidence import Evidence
from fxexport.proof.pairing.derivation import Derived
from fxexport.proof.sites import as_failure
from fxexport.proof.wiring.probe_pool import probe_pool
from fxexport.proof.wiring.probe_site import ProbeResult, probe_site, seeded
from fxexport.results import Coverage, Failure, LayerName, LayerResult, Status
from fxexport.subjects.subject import Subject
from fxexport.terms.arrays import numpy_of
from fxexport.terms.term import HeadTerm, SiteWeights, affine_of
from fxpasses.errors import CheckError, PlanError, ProviderError
from fxpasses.plan import WeightPlan

Planned = tuple[nn.Module, nn.Module, WeightPlan]


def weights_layer(found: Evidence, planned: Planned | None) -> LayerResult:
    """Layer 1: every site's parameters are the same numbers."""
    sites, different, derived = found.sites, found.different, found.derived
    reference, candidate = sites.heads
    if not reference.sites or sites.of_heads is None:
        counts = f"{len(reference.sites)} sites in the reference, {len(candidate.sites)} in the candidate"
        reason = "no head was found" if not reference.sites else f"the heads do not pair up ({counts})"
        layer = _not_run(LayerName.WEIGHTS, reason)
        return _proved(layer, derived) if derived.is_proved else layer
    pairs = [(affine_of(a), affine_of(b)) for a, b in (*sites.of_heads, *sites.rewritten)]
    count = sum(a.weight.size + (0 if a.bias is None else a.bias.size) for a, _ in pairs)
    layer = LayerResult(
        layer=LayerName.WEIGHTS, status=Status.PROVED, covered=Coverage(parameters=count), reason=None
    )
    unplanned = () if planned is None else tuple(_plan_failures(*planned))
    if unplanned or (different and found.is_broken and sites.parting is None):
        return dataclasses.replace(layer, status=Status.FAILED, failures=(*different, *unplanned))
    if derived.is_proved:
        return _proved(layer, derived) if different else layer
    if different and sites.parting is not None:
        reason = f"the weights differ, and the heads are built differently: {sites.parting}"
        return dataclasses.replace(layer, status=Status.NOT_RUN, reason=reason)
    if different:
        return dataclasses.replace(layer, status=Status.HELD, reason=str(different[0]))
    return layer


def _proved(layer: LayerResult, derived: Derived) -> LayerResult:
    return dataclasses.replace(layer, status=Status.PROVED, reason=derived.reason)


def _plan_failures(reference: nn.Module, candidate: nn.Module, plan: WeightPlan) -> Iterable[Failure]:
    try:
        expected = plan.apply(reference.state_dict())
    except PlanError as error:
        raise CheckError(
            "the plan does not fit the reference", fix="give the plan of this rewrite"
        ) from error
    state = candidate.state_dict()
    for move in plan.moves:
        if move.name not in state:
            yield Failure(what="the plan's parameter is missing", name=move.name, side="candidate")
            continue
        found = difference(numpy_of(expected[move.name]), numpy_of(state[move.name]))
        if found is not None:
            yield as_failure(move.name, found)


def wiring_layer(
    subjects: tuple[Subject, Subject],
    found: Evidence,
    providers: tuple[str, ...],
    prober: Prober,
    *,
    is_here: bool,
) -> LayerResult:
    """Layer 2: the heads are built alike, and each site alone puts every weight in its place.

    Upstream of the heads the sites are probed that the two models write in different ways. ``is_here``:
    whether the two were seen to differ in what their heads make of the same features.
    """
    sites, derived = found.sites, found.derived
    if not sites.heads[0].sites or not sites.heads[1].sites:
        layer = _not_run(LayerName.WIRING, "no head was found")
        failures = list(derived.failures()) if is_here else []
        return (
            dataclasses.replace(layer, status=Status.FAILED, failures=tuple(failures)) if failures else layer
        )
    probes, gaps, failures, held, notes = 0, [], [], [], []
    for index, side in enumerate(("reference", "candidate")):
        subject = subjects[index]
        for provider in dict.fromkeys(map(subject.runs_on, providers)):
            for site in (*sites.heads[index].sites, *(pair[index] for pair in sites.rewritten)):
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
            for site in sites.heads[index].sites:  # those upstream stay where they are, before no pool
                count, failure = prober.probe_pool(subject, site, provider)
                probes += count
                failures.extend([] if failure is None else [_placed(failure, side, provider)])
    covered = Coverage(probes=probes, nodes=sites.nodes)
    failures += derived.failures() if is_here else ()
    if failures:
        return LayerResult(
            layer=LayerName.WIRING, status=Status.FAILED, covered=covered, failures=tuple(failures)
        )
    if gaps:
        return LayerResult(layer=LayerName.WIRING, status=Status.NOT_RUN, covered=covered, reason=gaps[0])
    if sites.parting is not None and not derived.is_proved:
        held.insert(0, f"the heads are built differently: {sites.parting}")
    status = Status.HELD if held else Status.PROVED
    reason = next(iter((*held, *notes)), None)
    return LayerResult(layer=LayerName.WIRING, status=status, covered=covered, reason=reason)


class Prober:
    """Probes each site of each model once on each provider, however many certificates ask."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._results: dict[tuple[HeadTerm, str], ProbeResult] = {}
        self._pools: dict[tuple[HeadTerm, str], tuple[int, Failure | None]] = {}
        self._known: set[tuple[object, ...]] = set()

    def probe_pool(self, subject: Subject, site: HeadTerm, provider: str) -> tuple[int, Failure | None]:
        """What running the pool behind a site alone showed."""
        key = (site, provider)
        if key not in self._pools:
            self._pools[key] = probe_pool(subject, site, provider, seeded(self._seed))
        return self._pools[key]

    def probe(self, subject: Subject, site: HeadTerm, provider: str) -> ProbeResult:
        """What probing the site alone showed."""
        key = (site, provider)
        if key not in self._results:
            affine = affine_of(site)
            form = _form(affine, subject, provider)
            found = probe_site(
                affine,
                lambda features, weight, has_bias: subject.run_site(
                    site, features, weight, provider, has_bias=has_bias
                ),
                seeded(self._seed),
                subject.claims(affine.weight.dtype.name, provider),
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
    return provider, subject.dialect, affine.spelling, spots, *kind


def _placed(failure: Failure, side: str, provider: str) -> Failure:
    return dataclasses.replace(failure, side=side, provider=provider)


def backbone_layer(found: Evidence) -> LayerResult:
    """Layer 3: but for the parameters of the heads the two are one graph over the same constants."""
    sites, derived = found.sites, found.derived
    layer = LayerResult(
        layer=LayerName.BACKBONE,
        status=Status.NOT_RUN,
        covered=Coverage(nodes=derived.operators),
        reason=derived.reason,
    )
    if derived.problem is not None:
        return layer
    if derived.is_proved or (
        found.different
        and not derived.unrelated
        and all(pair.left in sites.parameters() for pair in derived.constants)
    ):
        return dataclasses.replace(layer, status=Status.PROVED, reason=None)
    failures = derived.failures() if found.is_told and not found.is_in_heads else ()
    status = Status.FAILED if failures else Status.HELD
    return dataclasses.replace(layer, status=status, failures=failures)


def _not_run(layer: LayerName, reason: str) -> LayerResult:
    return LayerResult(layer=layer, status=Status.NOT_RUN, covered=Coverage(), reason=reason)
