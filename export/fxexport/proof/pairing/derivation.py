"""Whether identities turn one model into the other: the only way to ``proved``."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from fxexport.language import Derivation, Graph, derive
from fxexport.language.compare import ConstantPair
from fxexport.language.identities import TIES
from fxexport.proof.pairing.outputs import PairedOutputs
from fxexport.results import Failure
from fxexport.subjects.subject import Subject

_TIES = ("topk", "sort", "argsort", "kthvalue", "median", "mode", "TopK")
"""Operators that give places, and promise nothing of the order of equal values."""
_FOLDED = {"weights", "computed"}
"""As what constants may be foldings of the same numbers, which differ by their roundings alone."""
_MOVED_ULPS, _MOVED_HALVES, _HALF = 16.0, 4.0, 2.0**-12
"""What factors that moved may leave, which are rounded in other weights; in half precision, whose sums are
taken in more digits, that is less: sixteen layers leave three units there and eight in single."""
_OTHER, _UNITS = 2.0**-10, 32
"""The share that they change; in half precision so many units of it, since few are a damage."""


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

    @property
    def is_random(self) -> bool:
        """Whether one of the two draws random numbers, in a place where the other computes something else."""
        return any(origin.is_random for pair in self.unrelated for origin in (pair.left, pair.right))

    def has_other_constants(self, sites: Collection[str | None]) -> bool:
        """Whether the two are one but for constants, and some of these are no foldings of the same numbers.

        Weights that two libraries may have folded the same norm into differ by its roundings, and so do
        tables that a model's code computes; the parameters of ``sites`` are kept bit for bit.
        """
        folds = {None if pair.left in sites else pair.refolded for pair in self.constants}
        is_folded = bool(folds & _FOLDED) and None not in folds and not self.is_inserted
        return bool(folds) and not (self.unrelated or is_folded or "merged" in folds)

    @property
    def is_inserted(self) -> bool:
        """Whether one of the two has a factor or summand that the other lacks."""
        return not all(pair.left and pair.right for pair in self.constants)

    def is_presumed(self, *, ulps: float) -> bool:
        """Whether such constants are taken to make other functions where nothing can be run that tells.

        One number that differs is, if any output does, and so are several that are nearly the same; others
        may have moved, which rounds them anew.

        Args:
            ulps: by how many units in the last place of each sample's largest value outputs differed.
        """
        is_one = len({pair.difference.digests for pair in self.constants}) == 1
        if not self.is_inserted and (is_one or not all(map(is_other, self.constants))):
            return ulps > 0
        is_half = any(pair.unit > _HALF for pair in self.constants)
        return ulps > (_MOVED_HALVES if is_half else _MOVED_ULPS)

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


def is_other(pair: ConstantPair) -> bool:
    """Whether the numbers are quite other ones somewhere, as those that moved are."""
    return pair.difference.share > max(_OTHER, _UNITS * pair.unit)


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
