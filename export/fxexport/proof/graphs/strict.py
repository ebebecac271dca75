"""Two models of one dialect side by side, also where sites in their middle changed form.

Operators between such sites read permuted values. Compared as placed terms the two graphs are the same
operators on the same cells, or they part.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection

from torch import nn

from fxexport.onnx_graph.shapes import BATCH
from fxexport.proof.graphs.compare import (
    Comparison,
    compare_backbones,
    compare_whole,
    constant_difference,
    is_clean,
)
from fxexport.proof.graphs.folded_norm_of_site import PlacedTrials
from fxexport.proof.graphs.run_alone import Trials
from fxexport.subjects.module_subject import ModuleSubject
from fxexport.subjects.onnx_subject import OnnxSubject
from fxexport.terms.term import Kind, SiteWeights, Term, TermGraph, affine_of, postorder

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


def compare_modules(left: ModuleSubject, right: ModuleSubject, head: Comparison, trials: Trials) -> Strict:
    """Two modules by their own operators.

    If parameters upstream of the heads changed form, that is no more than a hint: ``is_reformed`` says so.
    """
    upstream = compare_backbones(left.head, right.head, head, trials.untried())
    if is_clean(head, upstream):
        return Strict(head=head, upstream=upstream)
    heads = {affine_of(site).weight_name for side in (left, right) for site in side.head.sites}
    if _has_reformed_weights(left.module, right.module, heads):
        return Strict(head=head, upstream=upstream, is_reformed=True)
    return Strict(head=head, upstream=compare_backbones(left.head, right.head, head, trials))


def compare_files(
    left: OnnxSubject, right: OnnxSubject, outputs: PairedOutputs, head: Comparison, trials: Trials
) -> Strict:
    """Two files: operator by operator, else as placed terms, else by what operators give.

    Layouts may hide that two graphs are the same. Where sites changed form in their middle, operators would
    be paired that do not belong together: then nothing but placed terms tells.
    """
    upstream = compare_backbones(left.head, right.head, head, trials.untried())
    if is_clean(head, upstream):
        return Strict(head=head, upstream=upstream)
    is_reformed = _is_reformed(left.placed, right.placed)
    roots = tuple((left.placed.outputs[i][1], right.placed.outputs[j][1]) for _, i, j in outputs)
    whole = compare_whole(roots, PlacedTrials(left, right, ("cpu",)))
    if not is_reformed and not (is_clean(whole) and _has_same_weights(whole)):
        return Strict(head=head, upstream=compare_backbones(left.head, right.head, head, trials))
    pairs = head.partner.items() if head.parting is None else ()
    return Strict(
        head=whole,
        upstream=whole,
        is_reformed=is_reformed,
        in_heads=frozenset((a.value, b.value) for a, b in pairs if a.affine and b.affine),
    )


def _has_same_weights(found: Comparison) -> bool:
    """True if all sites that belong together hold the same weights, bit for bit."""
    pairs = [(affine_of(a), affine_of(b)) for a, b in found.partner.items() if a.kind is Kind.AFFINE]
    return all(_are_equal(a, b) for a, b in pairs)


def _are_equal(a: SiteWeights, b: SiteWeights) -> bool:
    if constant_difference("", a.weight, b.weight) is not None:
        return False
    if a.bias is None or b.bias is None:
        return not any(bias is not None and bias.any() for bias in (a.bias, b.bias))
    return constant_difference("", a.bias, b.bias) is None


def _is_reformed(left: TermGraph, right: TermGraph) -> bool:
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


def _has_reformed_weights(left: nn.Module, right: nn.Module, apart_from: Collection[str]) -> bool:
    """True if a parameter of one module has as many elements in the other, along other axes."""
    shapes = {name: tuple(tensor.shape) for name, tensor in right.named_parameters()}
    pairs = [
        (tuple(tensor.shape), shapes[name])
        for name, tensor in left.named_parameters()
        if name in shapes and name not in apart_from
    ]
    return any(len(a) != len(b) and math.prod(a) == math.prod(b) for a, b in pairs)
