"""The reference's head in float64, with a rigorous bound at every value, from values that were observed.

The evaluation starts afresh at every value that a run tapped: at the boundary of the head, and behind
every affine site. So each segment's bound is that of one layer, however deep the head is, and a run whose
every segment holds has computed the reference's head up to rounding. In between, intervals are carried on.

A value's precision is that of its type: a head in fp32 behind a backbone in fp16 has fp32's bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Set

import numpy as np

from fxexport.numerics.activations import (
    ACTIVATIONS,
    apply_activation,
    dequantized_interval,
    quantized_interval,
    softmax_interval,
)
from fxexport.numerics.bounds import (
    Interval,
    Precision,
    Spread,
    affine_interval,
    exactly,
    mean_interval,
    scaled_interval,
    spread_affine,
    spread_error,
    spread_map,
    spread_scaled,
)
from fxexport.terms.term import CONCAT, DEQUANTIZE, MAXIMUM, QUANTIZE, SOFTMAX, Array, Head, HeadTerm, Kind

PrecisionOf = Callable[[str], Precision]
"""The precision that a provider is claimed to have for a storage type."""


def evaluate_head(
    head: Head,
    observed: Mapping[HeadTerm, Array],
    precision_of: PrecisionOf,
    before_pool: Set[HeadTerm] = frozenset(),
) -> Mapping[HeadTerm, Interval]:
    """Interval of every term of the head that can be bounded.

    A term's interval is computed from the observed values of its operands where there are some, else from
    their intervals; its own observed value is not used for it. Terms behind an operator without a bound
    are absent unless that operator's result was observed.

    Args:
        head: the head.
        observed: values that were tapped.
        precision_of: precision of each storage type.
        before_pool: sites that a model may apply before the pool that they read; the bounds then hold in
            both orders.

    Shapes:
        observed: [N, …]; affine results: [N, O]; pools: [N, C]; others as their operand.
    """
    known: dict[HeadTerm, Interval] = {}
    maps: dict[HeadTerm, Spread] = {}
    start = {term: exactly(value) for term, value in observed.items()}
    kinds = {term: value.dtype.name for term, value in observed.items()}
    # values that are infinite or NaN are told apart afterwards, by who compares
    with np.errstate(invalid="ignore", over="ignore"):
        for term in head.terms:
            # of steps both sides may be taken, whatever one run took: where sums may lie is what counts
            first, then = (known, start) if term.function == QUANTIZE else (start, known)
            operands = [first.get(operand, then.get(operand)) for operand in term.varying]
            present = [operand for operand in operands if operand is not None]
            kind = _kind(term, kinds)
            kinds.setdefault(term, kind)
            if present and len(present) == len(operands):
                interval = _apply(term, present, precision_of(kind))
                interval = _in_both_orders(term, interval, start, maps, before_pool, precision_of(kind))
                known |= {} if interval is None else {term: interval}
    return known


def _in_both_orders(
    term: HeadTerm,
    interval: Interval | None,
    start: Mapping[HeadTerm, Interval],
    maps: dict[HeadTerm, Spread],
    before_pool: Set[HeadTerm],
    precision: Precision,
) -> Interval | None:
    """The interval widened to what a site before its pool may give; ``maps`` has the maps so far."""
    source = term.varying[0]
    if term.kind is Kind.POOL and term.function is None and source in start:
        cells = start[source]
        maps[term] = spread_map(_shaped(cells, (*cells.value.shape[:2], -1)))
    elif source in maps and source not in start and before_pool:
        if term.affine is not None and term in before_pool:
            maps[term] = spread_affine(maps[source], term.affine.weight, term.affine.bias, precision)
        elif term.scaling is not None:
            maps[term] = spread_scaled(maps[source], term.scaling, precision)
        if interval is not None and term in maps:
            wider = np.maximum(interval.error, spread_error(maps[term], precision))
            return Interval(value=interval.value, error=wider)
    return interval


def _kind(term: HeadTerm, kinds: Mapping[HeadTerm, str]) -> str:
    """The storage type in which the term is computed: that of its weights, else of what it reads."""
    if term.affine is not None:
        return str(term.affine.weight.dtype.name)
    return next((kinds[operand] for operand in term.varying if operand in kinds), "float32")


def has_bound(term: HeadTerm) -> bool:
    """True if ``evaluate_head`` knows the operator."""
    if term.kind in (Kind.AFFINE, Kind.POOL) or term.scaling is not None:
        return True
    if term.function in (CONCAT, MAXIMUM, SOFTMAX):
        return True
    return term.kind is Kind.ELEMENTWISE and term.function in (*ACTIVATIONS, QUANTIZE, DEQUANTIZE)


def _apply(term: HeadTerm, operands: list[Interval], precision: Precision) -> Interval | None:
    x = operands[0]
    rows = len(x.value)
    if term.affine is not None:
        return affine_interval(_shaped(x, (rows, -1)), term.affine.weight, term.affine.bias, precision)
    if term.scaling is not None:
        return scaled_interval(x, term.scaling, precision)
    if term.function == CONCAT:
        parts = [_shaped(part, (rows, -1)) for part in operands]
        return Interval(
            value=np.concatenate([part.value for part in parts], axis=1),
            error=np.concatenate([part.error for part in parts], axis=1),
        )
    if term.function == SOFTMAX:
        return softmax_interval(_shaped(x, (rows, -1)), precision)
    if term.function == MAXIMUM:
        cells = _shaped(x, (rows, x.value.shape[1], -1))
        # exact: the maximum of values that are off by at most e is off by at most the largest e
        return Interval(value=cells.value.max(axis=-1), error=cells.error.max(axis=-1) + precision.tiny)
    if term.kind is Kind.POOL:
        return mean_interval(_shaped(x, (rows, x.value.shape[1], -1)), precision)
    if term.function in (QUANTIZE, DEQUANTIZE):
        scale, zero = (*term.constants, np.zeros((), np.uint8))[:2]
        interval_of = quantized_interval if term.function == QUANTIZE else dequantized_interval
        return interval_of(x, scale.astype(np.float64), zero, precision)
    if term.kind is Kind.ELEMENTWISE and term.function in ACTIVATIONS:
        return apply_activation(str(term.function), x, precision)
    return None


def _shaped(x: Interval, shape: tuple[int, ...]) -> Interval:
    return Interval(value=x.value.reshape(shape), error=x.error.reshape(shape))


def flat(array: Array) -> Array:
    """``[N, K]`` of an array of any rank, in float64; a number is one row."""
    rows = np.atleast_1d(np.asarray(array, np.float64))
    return rows.reshape(len(rows), math.prod(rows.shape[1:]))  # -1 is nothing where there are no rows
