"""Placed terms of which one holds a batch norm that the other folded into the site before it.

An exporter folds ``BatchNormalization(Conv(x))`` into the convolution, and leaves it behind a matrix product.
Folding gives ``s·W`` and ``s·(b − mean) + beta`` with ``s = scale / √(variance + epsilon)``, in a handful of
roundings of the weights' type; so the two are one function up to that, and no more is claimed.

Source:
    ONNX operator BatchNormalization-15.
"""

from __future__ import annotations

import re

import numpy as np

from fxexport.numerics.bounds import Float64
from fxexport.proof.graphs.run_alone import IsSame, Resolution, Trials, operator_of
from fxexport.terms.term import Kind, SiteWeights, Term, affine_of

_ROUNDINGS = 8.0
"""Roundings that folding may take; those of every order in which tools compute it."""
_EPSILON = re.compile(r"epsilon=([-+.0-9e]+)")
_DEFAULT_EPSILON = 1e-5


class PlacedTrials(Trials):
    """What may be written differently in placed terms; nothing is run."""

    def resolve(self, a: Term, b: Term, is_same: IsSame) -> Resolution | None:
        """A difference where inputs are exchanged or random numbers are drawn; a norm that was folded."""
        return self._source(a, b) or _folded(a, b)


def _folded(a: Term, b: Term) -> Resolution | None:
    for norm, other in ((a, b), (b, a)):
        source = norm.operands[0] if norm.operands else norm
        if operator_of(norm) != "BatchNormalization" or source.kind is not Kind.AFFINE:
            continue
        if other.kind is not Kind.AFFINE or source.signature != other.signature or not _is_of_outputs(norm):
            continue
        if not _is_folded(norm, affine_of(source), affine_of(other)):
            return None
        inner, outer = source.operands[0], other.operands[0]
        pair = (inner, outer) if norm is a else (outer, inner)
        return Resolution(
            pairs=(pair,),
            held=f"{norm.node!r} is folded into {other.node!r}: the same up to rounding of the weights",
        )
    return None


def _is_of_outputs(norm: Term) -> bool:
    """True if the norm's channels are the outputs of the site."""
    source = norm.operands[0]
    rows = len(affine_of(source).weight)
    return norm.signature.endswith(f"(along {len(source.shape or ()) - 1}:1×{rows})")


def _is_folded(norm: Term, source: SiteWeights, other: SiteWeights) -> bool:
    if source.weight.shape != other.weight.shape or source.weight.dtype != other.weight.dtype:
        return False
    found = _EPSILON.search(norm.signature)
    epsilon = _DEFAULT_EPSILON if found is None else float(found.group(1))
    scale, beta, mean, variance = (array.astype(np.float64) for array in norm.constants)
    factor = scale / np.sqrt(variance + epsilon)
    unit = _ROUNDINGS * float(np.finfo(source.weight.dtype).eps)
    expected = source.weight.astype(np.float64) * factor[:, np.newaxis]
    bias = _bias(source, len(factor))
    size = (np.abs(bias) + np.abs(mean)) * np.abs(factor) + np.abs(beta)
    is_near = np.abs(other.weight - expected) <= unit * np.abs(expected)
    is_near_bias = np.abs(_bias(other, len(factor)) - ((bias - mean) * factor + beta)) <= unit * size
    return bool(is_near.all() and is_near_bias.all())


def _bias(site: SiteWeights, rows: int) -> Float64:
    return np.zeros(rows) if site.bias is None else site.bias.astype(np.float64)
