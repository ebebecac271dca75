"""The reference's head in float64, with a rigorous bound at every value, from values that were observed.

The evaluation starts afresh at every value that a run tapped: at the boundary of the head, and behind
every affine site. So each segment's bound is that of one layer, however deep the head is, and a run whose
every segment holds has computed the reference's head up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from export.activations import ACTIVATIONS, apply_activation
from export.bounds import Interval, Precision, affine_interval, exactly, mean_interval
from export.terms import Array, Head, Kind, Term


def evaluate_head(
    head: Head, observed: Mapping[Term, Array], precision: Precision
) -> Mapping[Term, Interval]:
    """Interval of every term of the head that can be bounded.

    A term's interval is computed from the observed values of its operands where there are some, else from
    their intervals; its own observed value is not used for it. Terms behind an operator without a bound
    are absent unless that operator's result was observed.

    Shapes:
        observed: [N, …]; affine results: [N, O]; pools: [N, C]; others as their operand.
    """
    known: dict[Term, Interval] = {}
    start = {term: exactly(value) for term, value in observed.items()}
    for term in head.terms:
        operands = [start.get(operand, known.get(operand)) for operand in term.operands]
        interval = None if not operands or operands[0] is None else _apply(term, operands[0], precision)
        if interval is not None:
            known[term] = interval
    return known


def has_bound(term: Term) -> bool:
    """True if ``evaluate_head`` knows the operator."""
    if term.kind in (Kind.AFFINE, Kind.POOL):
        return True
    return term.kind is Kind.ELEMENTWISE and term.function in ACTIVATIONS


def _apply(term: Term, x: Interval, precision: Precision) -> Interval | None:
    rows = len(x.value)
    if term.affine is not None:
        flat = Interval(value=x.value.reshape(rows, -1), error=x.error.reshape(rows, -1))
        return affine_interval(flat, term.affine.weight, term.affine.bias, precision)
    if term.kind is Kind.POOL:
        channels = x.value.shape[1]
        cells = (rows, channels, -1)
        return mean_interval(Interval(value=x.value.reshape(cells), error=x.error.reshape(cells)), precision)
    if term.kind is Kind.ELEMENTWISE and term.function in ACTIVATIONS:
        return apply_activation(str(term.function), x, precision)
    return None


def flat(array: Array) -> Array:
    """``[N, K]`` of an array of any rank, in float64."""
    return np.asarray(array, np.float64).reshape(len(array), -1)
