"""Outputs that are maps of scores: a position is the site on the features there, their mean the logits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fxexport.numerics.bounds import Interval, Precision, exactly, mean_interval
from fxexport.numerics.evaluate import evaluate_head
from fxexport.proof.measured.rounding import OutputCheck, Side, positions_of
from fxexport.proof.measured.tally import Tally
from fxexport.proof.pairing.heads import PairedHeads
from fxexport.results import Failure
from fxexport.subjects.subject import Subject
from fxexport.terms.term import Array, Head, HeadTerm, Kind, postorder


def check_maps(
    subject: Subject,
    side: Side,
    who: str,
    walk: PairedHeads,
    precision: Precision,
    provider: str,
    tally: Tally,
) -> tuple[list[OutputCheck], list[Failure]]:
    """The maps that one model gives, beside the reference's sites on the features that it computed.

    Also what lies further apart than rounding can take it. ``tally`` is told of maps of which nothing can be
    told, and of those that are no site of the reference at every position, so that their mean alone is.
    """
    checks, failures = [], []
    sites = {b: a for a, b in walk.partner.items()} if who == "candidate" else {}
    for found in subject.maps:
        name = subject.output_names[found.position]
        site = sites.get(found.site) if who == "candidate" else found.site
        due = None if site is None else _at_positions(site, side.observed, precision)
        failure = None
        if due is not None:
            checks.append(_beside(name, side.outputs[found.position], due, precision))
            failure = _worst(checks[-1], "the map is not the site at every position", who, provider)
        elif found.scores is not None:
            tally.loose.append(f"of the map {name!r} nothing but its mean is compared")
        else:
            tally.gaps.append(f"the map {name!r} belongs to no site of the reference")
        if failure is None and found.scores is not None:
            mean = _mean(name, side.outputs[found.position], side.outputs[found.scores], precision)
            failure = _worst(mean, "the mean of the map is not the output", who, provider)
        failures.extend([] if failure is None else [failure])
    return checks, failures


def _at_positions(
    site: HeadTerm, observed: Mapping[HeadTerm, Array], precision: Precision
) -> Interval | None:
    """A site, or the chain of sites below it, on every position of the map that was observed.

    Shapes:
        result: [N · positions, O].
    """
    terms = postorder([site], stop=lambda term: term.kind is Kind.POOL)
    maps = {term: term.varying[0] for term in terms if term.kind is Kind.POOL}
    rows = {pool: positions_of(observed[read]) for pool, read in maps.items() if read in observed}
    return evaluate_head(Head(sites=(), boundary=(), terms=terms), rows, lambda _: precision).get(site)


def _beside(name: str, scores: Array, due: Interval, precision: Precision) -> OutputCheck:
    wide = np.asarray(scores, np.float64)
    shape = (len(wide), *wide.shape[2:], wide.shape[1])

    def flat(rows: Array) -> Array:
        return np.moveaxis(rows.reshape(shape), -1, 1).reshape(len(wide), -1)

    return OutputCheck(
        name=name,
        reference=flat(due.value),
        candidate=wide.reshape(len(wide), -1),
        bound=flat(due.error),
        unit=precision.result,
        is_decision=False,
    )


def _mean(name: str, scores: Array, logits: Array, precision: Precision) -> OutputCheck:
    cells = exactly(scores.reshape(*scores.shape[:2], -1))
    due = mean_interval(cells, precision)
    values = np.asarray(logits, np.float64).reshape(due.value.shape)
    unit = precision.result
    return OutputCheck(name=name, reference=due.value, candidate=values, bound=due.error, unit=unit)


def _worst(check: OutputCheck, what: str, who: str, provider: str) -> Failure | None:
    if check.bound is None:
        return None
    with np.errstate(invalid="ignore"):
        excess = np.abs(check.candidate - check.reference) - check.bound
    excess = np.where(np.isfinite(check.candidate) & np.isfinite(check.reference), excess, np.inf)
    return check.furthest(excess, check.bound, what, who, provider)
