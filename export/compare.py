"""Two graphs of terms side by side: the same operators over the same constants, or where they part."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from export.terms import Array, Head, Kind, Term


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConstantDifference:
    """A constant of two paired operators that differs.

    Attributes:
        name: node in the reference.
        index: first position that differs; None where shape or type differ.
        expected: value in the reference.
        found: value in the candidate.
    """

    name: str
    index: tuple[int, ...] | None
    expected: float | None
    found: float | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """How two sets of terms compare.

    Attributes:
        nodes: pairs of terms compared.
        parting: first place where the operators differ, as a clause; None where they never do.
        constants: constants that differ between operators that are the same.
        partner: the candidate's term for each of the reference's terms.
    """

    nodes: int
    parting: str | None
    constants: tuple[ConstantDifference, ...]
    partner: Mapping[Term, Term]


def compare_heads(reference: Head, candidate: Head, roots: tuple[tuple[Term, Term], ...]) -> Comparison:
    """The heads side by side, from paired outputs down to the boundaries; weights are not compared.

    Boundaries must pair one to one: the same features must reach the same sites.
    """
    return _walk(roots, frozenset(reference.boundary), frozenset(candidate.boundary))


def compare_backbones(reference: Head, candidate: Head) -> Comparison:
    """What is upstream of both heads side by side, constants included.

    The weights of affine sites are no constants: ``weights_layer`` compares them in normalised form.
    """
    left, right = reference.boundary, candidate.boundary
    if len(left) != len(right):
        parting = f"the reference's head reads {len(left)} values, the candidate's {len(right)}"
        return Comparison(nodes=0, parting=parting, constants=(), partner={})
    return _walk(tuple(zip(left, right, strict=True)), frozenset(), frozenset())


def _walk(roots: tuple[tuple[Term, Term], ...], left: frozenset[Term], right: frozenset[Term]) -> Comparison:
    partner: dict[Term, Term] = {}
    taken: dict[Term, Term] = {}
    constants: list[ConstantDifference] = []
    parting: str | None = None
    stack = list(reversed(roots))
    while stack:
        a, b = stack.pop()
        if partner.get(a) is b:
            continue
        is_end = a in left and b in right
        reason = (None if is_end else _part(a, b)) or _pairing(partner, taken, a, b)
        if (a in left) != (b in right):
            reason = reason or f"the head ends at {a.node!r} in one and not at {b.node!r} in the other"
        partner[a], taken[b] = b, a
        if reason is not None:
            parting = parting or reason
        if reason is not None or is_end:
            continue
        constants.extend(_constant_differences(a, b))
        stack.extend(reversed(list(zip(a.operands, b.operands, strict=True))))
    return Comparison(nodes=len(partner), parting=parting, constants=tuple(constants), partner=partner)


def _pairing(partner: dict[Term, Term], taken: dict[Term, Term], a: Term, b: Term) -> str | None:
    """A clause where one term would have two partners: two values are mixed up or computed twice."""
    other = partner.get(a)
    if other is not None and not _same_source(other, b):
        return f"{a.node!r} stands for both {other.node!r} and {b.node!r}"
    twin = taken.get(b)
    if twin is not None and not _same_source(twin, a):
        return f"{twin.node!r} and {a.node!r} both stand for {b.node!r}"
    return None


def _same_source(a: Term, b: Term) -> bool:
    """True for two constants: which of two equal ones an operator reads is no difference."""
    return a.kind is Kind.CONSTANT and b.kind is Kind.CONSTANT


def _part(a: Term, b: Term) -> str | None:
    if a.kind is not b.kind or not _same_operator(a, b):
        return f"{_told(a)} in the reference, {_told(b)} in the candidate"
    if len(a.operands) != len(b.operands):
        return f"{a.node!r} reads {len(a.operands)} values, {b.node!r} reads {len(b.operands)}"
    if a.kind is Kind.OP and a.operand_shapes != b.operand_shapes:
        return f"{a.node!r} reads shapes {a.operand_shapes}, {b.node!r} reads {b.operand_shapes}"
    if a.affine is not None and b.affine is not None and a.affine.weight.shape != b.affine.weight.shape:
        return f"{a.node!r} has weights {a.affine.weight.shape}, {b.node!r} {b.affine.weight.shape}"
    return None


def _same_operator(a: Term, b: Term) -> bool:
    """Equal signatures; a known function is the same in both dialects, whatever its spelling."""
    return a.signature == b.signature or (a.function is not None and a.function == b.function)


def _told(term: Term) -> str:
    return f"{term.node!r} is {term.signature}"


def _constant_differences(a: Term, b: Term) -> list[ConstantDifference]:
    if len(a.constants) != len(b.constants):
        return [ConstantDifference(name=a.node, index=None, expected=None, found=None)]
    return [
        difference
        for left, right in zip(a.constants, b.constants, strict=True)
        if (difference := constant_difference(a.node, left, right)) is not None
    ]


def constant_difference(name: str, reference: Array, candidate: Array) -> ConstantDifference | None:
    """Where two arrays differ in any bit, or None where they are the same, bit for bit."""
    if reference.shape != candidate.shape or reference.dtype != candidate.dtype:
        return ConstantDifference(name=name, index=None, expected=None, found=None)
    if reference is candidate or _same_memory(reference, candidate):
        return None
    left, right = _bits(reference), _bits(candidate)
    different = left != right
    if not different.any():
        return None
    index = tuple(int(axis) for axis in np.unravel_index(int(np.argmax(different)), different.shape))
    return ConstantDifference(
        name=name, index=index, expected=float(reference[index]), found=float(candidate[index])
    )


def _same_memory(a: Array, b: Array) -> bool:
    same_start = a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
    return same_start and a.strides == b.strides


def _bits(array: Array) -> Array:
    """The array as unsigned integers, so that NaNs and signed zeros compare by their bits."""
    if array.dtype.kind in "fV" and array.dtype.itemsize in (1, 2, 4, 8):
        return array.view(f"u{array.dtype.itemsize}")
    return array
