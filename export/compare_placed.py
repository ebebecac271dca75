"""Whole graphs side by side, whatever layouts they hold their values in.

Where sites changed form in the middle of a network, operators between them read permuted values. Compared
as placed terms the two graphs are the same operators on the same cells, or they part.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection

from torch import nn

from export.compare import Comparison, compare_whole, constant_difference, is_clean
from export.heads import OnnxSubject
from export.onnx_shapes import BATCH
from export.terms import Affine, Kind, Term, TermGraph, affine_of, postorder
from export.trials import Untried

PairedOutputs = tuple[tuple[str, int, int], ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Strict:
    """Two models side by side in one dialect, where operators can be compared by what they say.

    Attributes:
        head: the heads.
        upstream: what is upstream of them.
        is_exported: whether a module was compared as the file that it exports to.
        is_reformed: whether sites in the middle of the two have other forms.
        in_heads: values of the sites of both heads, where ``upstream`` goes over these as well.
    """

    head: Comparison
    upstream: Comparison
    is_exported: bool = False
    is_reformed: bool = False
    in_heads: frozenset[tuple[str, str]] = frozenset()


def strictly_placed(
    left: OnnxSubject, right: OnnxSubject, outputs: PairedOutputs, found: Strict, untried: Untried
) -> Strict:
    """The two files as placed terms, where that shows more than ``found`` does; else ``found``.

    Layouts may hide that two graphs are the same, and where sites changed form in their middle, operators
    were paired that do not belong together: then nothing but placed terms tells.
    """
    if is_clean(found.head, found.upstream):
        return found
    reformed = is_reformed(left.placed, right.placed)
    roots = tuple((left.placed.outputs[i][1], right.placed.outputs[j][1]) for _, i, j in outputs)
    whole = compare_whole(roots, untried)
    if not reformed and not (is_clean(whole) and _has_same_weights(whole)):
        return found
    pairs = found.head.partner.items() if found.head.parting is None else ()
    return Strict(
        head=whole,
        upstream=whole,
        is_reformed=reformed,
        in_heads=frozenset((a.value, b.value) for a, b in pairs if a.affine and b.affine),
    )


def _has_same_weights(found: Comparison) -> bool:
    """True if all sites that belong together hold the same weights, bit for bit."""
    pairs = [(affine_of(a), affine_of(b)) for a, b in found.partner.items() if a.kind is Kind.AFFINE]
    return all(_are_equal(a, b) for a, b in pairs)


def _are_equal(a: Affine, b: Affine) -> bool:
    if constant_difference("", a.weight, b.weight) is not None:
        return False
    if a.bias is None or b.bias is None:
        return not any(bias is not None and bias.any() for bias in (a.bias, b.bias))
    return constant_difference("", a.bias, b.bias) is None


def is_reformed(left: TermGraph, right: TermGraph) -> bool:
    """True if sites at many places are convolutions in one of the two and matrix products in the other."""
    (convolutions, matrices), (others, products) = _forms(left), _forms(right)
    return (others - convolutions) * (products - matrices) < 0


def _forms(graph: TermGraph) -> tuple[int, int]:
    terms = postorder([term for _, term in graph.outputs], stop=lambda term: False)
    sites = [affine_of(term) for term in terms if term.kind is Kind.AFFINE and _is_at_many_places(term)]
    convolutions = sum(1 for site in sites if site.kernel_size)
    return convolutions, len(sites) - convolutions


def _is_at_many_places(term: Term) -> bool:
    places = math.prod(term.shape or ()) // max(len(affine_of(term).weight), 1)
    return places not in (1, BATCH)


def has_reformed_weights(left: nn.Module, right: nn.Module, apart_from: Collection[str]) -> bool:
    """True if a parameter of one module has as many elements in the other, along other axes."""
    shapes = {name: tuple(tensor.shape) for name, tensor in right.named_parameters()}
    pairs = [
        (tuple(tensor.shape), shapes[name])
        for name, tensor in left.named_parameters()
        if name in shapes and name not in apart_from
    ]
    return any(len(a) != len(b) and math.prod(a) == math.prod(b) for a, b in pairs)
