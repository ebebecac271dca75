"""Two heads side by side: which values of the one are observed for which of the other.

It says what to run, not what is proved: that is ``derivation``'s. Where heads are built differently, no more
than what both read and give is paired.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from fxexport.proof.pairing.outputs import PairedOutputs
from fxexport.subjects.subject import Subject
from fxexport.terms.term import HeadTerm, Kind


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairedHeads:
    """Two heads side by side.

    Attributes:
        nodes: pairs of terms.
        parting: first place where the two are built differently, as a clause; None where they never are.
        is_known: whether the values that pair are those of one function, and not alike by name alone.
        partner: the candidate's term for each of the reference's terms.
    """

    nodes: int
    parting: str | None
    partner: Mapping[HeadTerm, HeadTerm]
    is_known: bool = True


def paired_heads(
    left: Subject, right: Subject, outputs: PairedOutputs, *, is_proved: bool = False
) -> PairedHeads:
    """The heads from paired outputs down to the boundaries; numbers are not compared.

    Boundaries pair one to one: the same features reach the same sites. Operators of which no more is known
    than their name are known to be the same where the two models are one by proof.
    """
    reference, candidate = left.head, right.head
    ends = frozenset(reference.boundary), frozenset(candidate.boundary)
    partner: dict[HeadTerm, HeadTerm] = {}
    taken: dict[HeadTerm, HeadTerm] = {}
    parting: str | None = None
    is_known = True
    stack = [(left.graph[i], right.graph[j]) for _, i, j in reversed(outputs)]
    while stack:
        a, b = stack.pop()
        if partner.get(a) is b:
            continue
        are_ends = a in ends[0] and b in ends[1]
        reason = None if are_ends else _part(a, b, (left, right))
        is_known = is_known and (are_ends or is_proved or _is_known(a))
        if (a in ends[0]) != (b in ends[1]):
            reason = reason or f"the head ends at {a.node!r} in one and not at {b.node!r} in the other"
        if not (_may_share(partner.get(a, b), b) and _may_share(taken.get(b, a), a)):
            reason = reason or f"{a.node!r} and {b.node!r} stand for other values elsewhere"
        partner[a], taken[b] = b, a
        parting = parting or reason
        if reason is None and not are_ends:
            stack.extend(reversed(tuple(zip(a.operands, b.operands, strict=True))))
    return PairedHeads(nodes=len(partner), parting=parting, partner=partner, is_known=is_known)


def _may_share(first: HeadTerm, second: HeadTerm) -> bool:
    """True for one value, and for constants: which of two equal ones an operator reads is no difference."""
    return first is second or first.kind is second.kind is Kind.CONSTANT


def _is_known(term: HeadTerm) -> bool:
    return term.function is not None or term.kind in (Kind.AFFINE, Kind.POOL, Kind.INPUT, Kind.CONSTANT)


def _part(a: HeadTerm, b: HeadTerm, sides: tuple[Subject, Subject]) -> str | None:
    left, right = sides
    if a.kind is b.kind is Kind.INPUT:
        return None if _are_same_input(a, b, left, right) else "another input"
    is_alike = (a.kind, a.function, len(a.operands)) == (b.kind, b.function, len(b.operands))
    has_name = _is_known(a) or left.dialect != right.dialect or a.signature == b.signature
    if not (is_alike and has_name):
        return f"{_told(a)} in the reference, {_told(b)} in the candidate"
    if a.affine is not None and b.affine is not None and a.affine.weight.shape != b.affine.weight.shape:
        return f"{a.node!r} has weights {a.affine.weight.shape}, {b.node!r} {b.affine.weight.shape}"
    if a.kind is Kind.OP and _cells(a) != _cells(b):
        return f"{a.node!r} gives {a.shape}, {b.node!r} gives {b.shape}"
    return None


def _are_same_input(a: HeadTerm, b: HeadTerm, left: Subject, right: Subject) -> bool:
    """True if the two models get the same samples by these inputs: by name, else by position."""
    if {*left.input_names} == {*right.input_names}:
        return a.value == b.value
    return a.signature == b.signature


def _cells(term: HeadTerm) -> tuple[int, ...] | None:
    """The term's shape up to extents of 1, which a view adds and takes away."""
    return None if term.shape is None else tuple(extent for extent in term.shape if extent != 1)


def _told(term: HeadTerm) -> str:
    """The term with its operator as a person knows it: ``Clip``, ``ReLU``, ``mul``."""
    if term.kind in (Kind.AFFINE, Kind.POOL, Kind.INPUT, Kind.CONSTANT):
        what = {Kind.AFFINE: "the site", Kind.POOL: "the average pool"}.get(term.kind, f"the {term.kind}")
    else:
        head = term.signature.partition("(")[0].rpartition(" ")[2]
        what = head.rpartition(".")[2].partition("-")[0] or term.signature
    return f"{term.node!r} is {what}"
