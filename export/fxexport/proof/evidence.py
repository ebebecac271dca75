"""Everything that is known of two models before it is judged: what was derived, and what was run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from fxexport.numerics.bounds import FP32
from fxexport.proof.measured.in_float64 import Seen, hold_the_same, seen_in_float64
from fxexport.proof.measured.measure import batch_sizes, measure
from fxexport.proof.measured.own_rounding import seen_beyond_rounding
from fxexport.proof.measured.runtime import compare_by_default
from fxexport.proof.measured.search import Found, search
from fxexport.proof.measured.tally import Tally
from fxexport.proof.pairing.derivation import Derived, derived
from fxexport.proof.pairing.heads import paired_heads
from fxexport.proof.pairing.outputs import Pair, PairedOutputs, paired_outputs, unexplained
from fxexport.proof.sites import PairedSites
from fxexport.providers import is_defaults, targets_of
from fxexport.results import Failure, OutputStatistics
from fxexport.subjects.onnx_subject import OnnxSubject
from fxexport.subjects.samples import Samples
from fxexport.subjects.subject import Subject


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evidence:
    """What is known of two models.

    Attributes:
        outputs: positions of the outputs that belong together.
        derived: whether identities turn one model into the other.
        sites: the sites of both that belong together.
        different: sites of the heads that hold other parameters.
        tallies: what each target showed, the strict ones first.
        by_default: how far outputs of quantised files lie apart as ONNX Runtime runs them by default.
        untold: why that is not known of a provider, as sentences.
        tried: how many further inputs both models ran on, none of which tells them apart.
        is_broken: whether the two are not one function.
        is_told: whether that they differ is what the graphs are to explain.
        is_in_heads: whether it is in their heads that they do.
    """

    outputs: PairedOutputs
    derived: Derived
    sites: PairedSites
    different: tuple[Failure, ...]
    tallies: dict[str, Tally]
    by_default: tuple[OutputStatistics, ...]
    untold: tuple[str, ...]
    tried: int
    is_broken: bool
    is_told: bool
    is_in_heads: bool


_UNSEEN = "what the numbers that differ do could not be evaluated in float64"
_NARROW = "no graph shows what they do at other extents, at which both run"


def gathered(left: Subject, right: Subject, samples: Samples, runs_on: Sequence[str]) -> Evidence:
    """Reads both models, runs them, and searches further where nothing proves or refutes.

    Args:
        left: the reference.
        right: the candidate.
        samples: what both run on.
        runs_on: where they run.
    """
    outputs = paired_outputs(left, right)
    derivation = derived(left, right, outputs)
    walk = paired_heads(left, right, outputs, is_proved=derivation.is_proved)
    sites = PairedSites.of(left, right, walk)
    different = sites.differences()
    if different:  # a factor may have moved: no value between features and outputs need be the same
        walk = dataclasses.replace(walk, is_known=False)
    lacking = [
        f"the map {name!r} of {side.name} is not the map of its logits, as far as is known here"
        for side, other in ((left, right), (right, left))
        for name in unexplained(side, other)
    ]
    tallies = {}
    defaults = [target for provider in runs_on for target in targets_of(provider) if is_defaults(target)]
    for target in (*runs_on, *defaults):
        tally = measure(Pair.at(target, left, right, outputs), walk, samples, target, derivation)
        tally.gaps.extend(lacking)
        if False in (left.repeats(target), right.repeats(target)):
            tally.notes.append(f"a second run on {target} gave other bits")
        tallies[target] = tally
    strict, first = [tallies[target] for target in runs_on], tallies[runs_on[0]]
    ulps = max((item.max_difference_ulp for tally in strict for item in tally.statistics), default=0.0)
    found, seen, pair = Found(), Seen(), Pair.at(runs_on[0], left, right, outputs)
    is_broken = any(tally.failures for tally in strict) or derivation.is_random
    has_others = not is_broken and derivation.has_other_constants(sites.parameters())
    if has_others:
        seen = seen_in_float64(pair, samples, derivation)
        first.failures.extend(seen.failures)
        first.witness = first.witness or seen.witness
        is_broken = bool(seen.failures) or not (seen.tried or not derivation.is_presumed(ulps=ulps))
        derivation = dataclasses.replace(derivation, reason=f"{derivation.reason}; {seen}")
    precision = first.precision or FP32
    own = samples.ordered(left.input_names).rows
    run = [tuple((size, *rows.shape[1:]) for rows in own) for size in batch_sizes(left, right)]
    outside = tuple(dims for dims in derivation.outside if dims not in run)
    if not is_broken and (outside or derivation.fixed or not derivation.is_proved):
        found = search(pair, samples, precision, derivation, outside)
        first.failures.extend(found.failures)
        first.witness = first.witness or found.witness
        is_broken = bool(found.failures)
        if not is_broken and not has_others and not derivation.is_proved:
            is_exact = derivation.unrelated and hold_the_same((left, right))
            told = (seen_in_float64 if is_exact else seen_beyond_rounding)(pair, samples, derivation)
            first.failures.extend(told.failures)
            first.witness = first.witness or told.witness
            is_broken = bool(told.failures)
        if found.is_narrow and derivation.is_proved:
            derivation = dataclasses.replace(derivation, is_proved=False, reason=_NARROW)
    is_quantised = any(isinstance(side, OnnxSubject) and side.is_quantised for side in (left, right))
    on = () if is_broken or not is_quantised else runs_on
    compared = compare_by_default(pair, samples, on, precision)
    is_told = is_broken and first.is_run  # of a candidate that does not run that is what is wrong with it
    return Evidence(
        outputs=outputs,
        derived=derivation,
        sites=sites,
        different=different,
        tallies=tallies,
        by_default=compared[0],
        untold=(*compared[1], *([_UNSEEN] if has_others and not seen.tried else [])),
        tried=found.tried,
        is_broken=is_broken,
        is_told=is_told,
        is_in_heads=is_told and sites.has(derivation, has_same_features=first.has_same_features),
    )
