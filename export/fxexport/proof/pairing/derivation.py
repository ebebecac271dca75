"""Whether identities turn one model into the other: the only way to ``proved``."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from fxexport.language import Derivation, Graph, derive
from fxexport.language.difference import Difference
from fxexport.language.identities import TIES
from fxexport.proof.pairing.outputs import PairedOutputs
from fxexport.results import Failure
from fxexport.subjects.subject import Subject

_TIES = ("topk", "sort", "argsort", "kthvalue", "median", "mode", "TopK")
"""Operators that give places, and promise nothing of the order of equal values."""
_MASK = -64.0
_ULPS = 2.0
"""What two ways of running the same operators may leave."""
_MOVED_ULPS, _MOVED_HALVES, _HALF = 16.0, 4.0, 2.0**-12
"""What factors that moved may leave, which are rounded in other weights; in half precision, whose sums are
taken in more digits, that is less: sixteen layers leave three units there and eight in single."""
_MOVED, _MOVED_UNITS = 2.0**-10, 32
"""The share that they change.

In half precision that is more: a few units of it are a damage that outputs of few digits hardly show.
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Derived(Derivation):
    """What the closed language says of two models.

    Attributes:
        reason: on what the proof rests, or what stands in its way, as a clause.
        is_narrow: whether a proof is one of the extents of the samples alone, and both models run at others.
    """

    reason: str
    is_narrow: bool = False

    @property
    def leaves_ties(self) -> bool:
        """Whether places are compared of which nothing says which one is taken where values are equal."""
        return TIES in self.identities or any(
            str(side.operator).split(".")[-2 if "." in side.operator else -1] in _TIES
            for pair in self.unrelated
            for side in (pair.left, pair.right)
        )

    def is_shown(self, *, is_identical: bool, ulps: float, sites: Collection[str | None]) -> bool:
        """Whether the graphs tell by themselves that the two are not one function.

        They do where one draws random numbers, and where they are the same but for constants. Several
        constants may be one function all the same, by factors that moved from one to another, or channels in
        another order: then what was run has to differ, too, and where each of them is quite another number by
        more than roundings of the new ones explain.

        Weights that two libraries may have folded the same norm into differ by its roundings: so they agree,
        but for those of sites.

        A factor or summand that only one of the two has may be taken away again further on: there the outputs
        have to differ by more than another order of roundings explains.

        Args:
            is_identical: whether the outputs were equal bit for bit.
            sites: parameters of the sites, which are kept bit for bit.
            ulps: by how many units in the last place of each sample's largest value they differed.
        """
        if any(origin.is_random for pair in self.unrelated for origin in (pair.left, pair.right)):
            return True
        found = {pair.difference.digests for pair in self.constants}
        is_inserted = not all(pair.left and pair.right for pair in self.constants)
        is_rounded = any(pair.refolded == "merged" for pair in self.constants)
        if self.unrelated or not found or is_rounded or (is_inserted and not ulps > _ULPS):
            return False
        folds = {None if pair.left in sites else pair.refolded for pair in self.constants}
        if not is_inserted and folds & {"weights", "computed"} and None not in folds:
            return False
        is_half = any(pair.unit > _HALF for pair in self.constants)
        is_moved = ulps <= (_MOVED_HALVES if is_half else _MOVED_ULPS) and all(
            pair.difference.share > max(_MOVED, _MOVED_UNITS * pair.unit) for pair in self.constants
        )
        if len(found) > 1 and is_moved:
            return False
        are_exchanged = sorted(first for first, _ in found) == sorted(second for _, second in found)
        are_exchanged = are_exchanged or all(pair.difference.is_permuted for pair in self.constants)
        if is_identical and all(_are_masks(pair.difference) for pair in self.constants):
            return False  # an input has to show it
        return len(found) == 1 or not (is_identical or are_exchanged)

    def failures(self) -> tuple[Failure, ...]:
        """In what the two graphs differ."""
        constants = [
            Failure(
                what="the constant is another number",
                name=pair.left or pair.right,
                index=pair.difference.index,
                expected=pair.difference.expected,
                found=pair.difference.found,
                side="candidate",
            )
            for pair in self.constants
        ]
        operators = [
            Failure(
                what=f"no identity relates {pair.left.operator} to {pair.right} in its place",
                name=pair.left.module or pair.left.node,
                side="candidate",
            )
            for pair in self.unrelated
        ]
        return (*operators[:8], *constants[:8])


def _are_masks(difference: Difference) -> bool:
    """Whether both numbers may take away all that they are added to: -1e9 and infinity, before a softmax."""
    return all(item is not None and item <= _MASK for item in (difference.expected, difference.found))


def derived(left: Subject, right: Subject, outputs: PairedOutputs) -> Derived:
    """The derivation of one model from the other, if there is one."""
    graphs, narrow = _at_all_sizes(left, right)
    if graphs is None:
        graphs = left.language, right.language
    for side, graph in zip((left, right), graphs, strict=True):
        if isinstance(graph, str):
            problem = f"{side.name} is not read: {graph}"
            return Derived(is_proved=False, reason=problem, problem=problem)
    a, b = graphs
    assert not isinstance(a, str)
    assert not isinstance(b, str)
    found = derive(a, b, outputs=[(i, j) for _, i, j in outputs], inputs=_inputs(left, right))
    known = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    if found.is_proved and narrow is not None:
        return Derived(**known | {"is_proved": False, "fixed": ()}, is_narrow=True, reason=narrow)
    return Derived(**known, reason=_established(found) if found.is_proved else _lacking(found))


def _at_all_sizes(left: Subject, right: Subject) -> tuple[tuple[Graph | str, Graph | str] | None, str | None]:
    """The graphs where sizes are free, if both models take other sizes; else why no proof covers those."""
    sides = sorted((left, right), key=lambda side: side.dialect == "module")  # a file says so by itself
    if not all(side.has_sizes for side in sides):
        return None, None
    for side in sides:
        graph = side.language_at_all_sizes
        if isinstance(graph, str):
            both = all(item.runs_at_other_sizes for item in sides)
            return (
                None,
                f"{side.name} is not read at other sizes, at which both run: {graph}" if both else None,
            )
    return (left.language_at_all_sizes, right.language_at_all_sizes), None


def _established(found: Derivation) -> str:
    """What a proof rests on."""
    identities = len(found.identities)
    reason = f"{identities} identities turn one into the other" if identities else "the graphs are one"
    if found.steps:
        several = f" and {len(found.steps) - 1} more" if len(found.steps) > 1 else ""
        reason += (
            f", but for the last bits of what {found.steps[0]!r}{several} rounds or compares: "
            "where it lies between two steps, the two may take different ones"
        )
    if not found.folds:
        return reason
    largest = max(fold.largest_ulp for fold in found.folds)
    nodes = {fold.left for fold in found.folds}
    return (
        f"{reason}; constants of {len(nodes)} nodes are folded, within {largest:.3g} units in the last place"
    )


def _inputs(left: Subject, right: Subject) -> list[tuple[int, int]] | None:
    """Inputs by name where the two have the same names, else by position."""
    names = left.input_names, right.input_names
    if names[0] == names[1] or {*names[0]} != {*names[1]}:
        return None
    return [(i, names[1].index(name)) for i, name in enumerate(names[0])]


def _lacking(found: Derivation) -> str:
    """What keeps the two from being one, the first thing of each kind."""
    if found.problem is not None:
        return f"no derivation: {found.problem}"
    if found.unrelated:
        first = found.unrelated[0]
        more = f", and {len(found.unrelated) - 1} more" if len(found.unrelated) > 1 else ""
        return f"no identity relates {first.left} and {first.right}{more}"
    if found.constants:
        pair = found.constants[0]
        return f"constants of {pair.left!r} and {pair.right!r} differ by up to {pair.difference.size:.3g}"
    apart = next(pair for pair in found.outputs if not pair.is_equal)
    return f"no identity relates the outputs {apart.left!r} and {apart.right!r}"
