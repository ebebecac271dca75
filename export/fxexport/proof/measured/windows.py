"""A head on windows, at a size that has several: a position is the classifier on the map's window there."""

from __future__ import annotations

import functools

import numpy as np

from fxexport.numerics.bounds import FP32, Precision, precision_of
from fxexport.numerics.evaluate import evaluate_head
from fxexport.proof.measured.rounding import Pairing, Side, check_side, observable, positions_of
from fxexport.proof.pairing.heads import PairedHeads
from fxexport.results import Failure
from fxexport.subjects.samples import Samples
from fxexport.subjects.subject import Subject
from fxexport.terms.term import Array, HeadTerm, Kind

_SAMPLES = 2
UNPAIRED = "the heads do not read one map, of which there are windows"
"""A gap in which nothing is known of the windows."""


def is_windowed(classifier: Subject, other: Subject, outputs: tuple[tuple[str, int, int], ...]) -> bool:
    """True if a model gives a map of one position for every ``[N, O]`` of a classifier."""
    ranks = [(classifier.output_ranks[i], other.output_ranks[j]) for _, i, j in outputs]
    return bool(ranks) and all(a == 2 and b is not None and b > 2 for a, b in ranks)


def check_windows(
    classifier: Subject,
    other: Subject,
    walk: PairedHeads,
    outputs: tuple[tuple[str, int, int], ...],
    samples: Samples,
    target: str,
) -> tuple[list[Failure], list[str]]:
    """Where a position is not what the classifier's head gives for its window, and what was not compared.

    Args:
        classifier: the model whose head is right by definition, read at the native size.
        other: the model with the head on windows, read at the native size too.
        walk: their heads side by side.
        outputs: which outputs belong together.
        samples: of a size that has several windows.
        target: where ``other`` runs.
    """
    boundary = [term for term in classifier.head.boundary if term.kind is not Kind.CONSTANT]
    partner = observable(classifier.head, other.head, walk)
    if len(boundary) != 1 or boundary[0] not in partner:
        return [], [UNPAIRED]
    (features,), native = boundary, boundary[0].shape or ()
    feed = samples.ordered(other.input_names).batch(0, other.fixed_batch or _SAMPLES)
    on = other.runs_on(target)
    run = other.runner(on, is_tapped=True)(feed)
    whole = run.taps[partner[features].value]
    rank = whole.ndim - 2
    counts = tuple(have - window + 1 for have, window in zip(whole.shape[2:], native[1:], strict=False))
    if len(native) != rank + 1 or not rank or min(counts) < 1 or max(counts) < 2:
        return [], [f"a map of {whole.shape[2:]} has no several windows of {native[1:]}"]
    if all({*run.outputs[j].shape[2:]} == {1} for _, _, j in outputs):
        return [], ["it gives one position at every size, and no windows"]
    observed: dict[HeadTerm, Array] = {features: _windows(whole, native[1:])}
    for term in classifier.head.sites:
        value = partner[term].value if term in partner else ""
        if value in run.taps and run.taps[value].shape[2:] == counts:
            observed[term] = positions_of(run.taps[value])
    for name, _, j in outputs:
        if run.outputs[j].shape[2:] != counts:
            what = f"gives {run.outputs[j].shape[2:]} positions where the map has {counts} windows"
            return [Failure(what=what, name=name, side="candidate", provider=on)], []
    pairing = Pairing(
        reference=classifier.graph,
        head=classifier.head,
        outputs=outputs,
        observed=partner,
        boundary=(features,),
    )
    gaps: list[str] = []
    kind = classifier.head.kind
    found: list[Failure] = []
    for claim in other.claims(kind, on):
        precision = functools.partial(_claimed, first=kind, claim=claim)
        intervals = evaluate_head(classifier.head, observed, precision)
        side = Side(
            outputs=tuple(positions_of(array) if array.ndim > 2 else array for array in run.outputs),
            observed=observed,
            intervals=intervals,
        )
        found, gaps = check_side(side, pairing, "candidate", on)
        if not found:
            break
    unknown = [name for name, i, _ in outputs if classifier.graph[i] not in intervals]
    return found, [*gaps, *(f"output {name!r} has no bound" for name in unknown)]


def _claimed(kind: str, first: str, claim: Precision) -> Precision:
    return claim if kind == first else precision_of(kind) or FP32


def _windows(whole: Array, native: tuple[int, ...]) -> Array:
    """``[N · windows, C, *native]`` in the order of the positions."""
    axes = tuple(range(2, whole.ndim))
    found = np.lib.stride_tricks.sliding_window_view(whole, native, axis=axes)
    return np.moveaxis(found, 1, 1 + len(axes)).reshape(-1, whole.shape[1], *native)
