"""Whether identities turn one model into the other: the only way to ``proved``."""

from __future__ import annotations

import dataclasses

from fxexport.language import Derivation, derive
from fxexport.language.term import Origin
from fxexport.proof.graphs.strict import PairedOutputs
from fxexport.subjects.subject import Subject


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """What the closed language says of two models.

    Attributes:
        is_proved: whether every output of the one was derived from the same inputs as that of the other.
        reason: on what the proof rests, or what stands in its way, as a clause.
        sizes: for which extents it holds.
        scope: what it is about.
        is_made: whether both models could be read at all.
        has_folds: whether constants are equal only up to the rounding of a fold.
    """

    is_proved: bool
    reason: str
    sizes: tuple[str, ...] = ()
    scope: tuple[str, ...] = ()
    is_made: bool = True
    has_folds: bool = False

    def without(self, constant: str) -> Derived:
        """No proof: the graphs are the same, so that none of them folds the constants that differ."""
        reason = f"{constant!r} is another number, and neither of the two folds anything there"
        return Derived(is_proved=False, reason=reason)


UNTRIED = Derived(is_proved=False, reason="the two were seen to differ", is_made=False)
"""Where a run has answered already."""


def derived(left: Subject, right: Subject, outputs: PairedOutputs) -> Derived:
    """The derivation of one model from the other, if there is one."""
    graphs = left.language, right.language
    for side, graph in zip((left, right), graphs, strict=True):
        if isinstance(graph, str):
            return Derived(is_proved=False, reason=f"{side.name} is not read: {graph}", is_made=False)
    a, b = graphs
    assert not isinstance(a, str)
    assert not isinstance(b, str)
    found = derive(a, b, outputs=[(i, j) for _, i, j in outputs], inputs=_inputs(left, right))
    if found.is_proved:
        identities = len(found.identities)
        reason = f"{identities} identities turn one into the other" if identities else "the graphs are one"
        folds = _folds(found)
        return Derived(
            is_proved=True,
            reason=reason + folds,
            sizes=found.sizes,
            scope=found.scope,
            has_folds=bool(found.folds),
        )
    return Derived(is_proved=False, reason=_lacking(found))


def _folds(found: Derivation) -> str:
    """Which constants are equal up to the rounding of a fold."""
    if not found.folds:
        return ""
    largest = max(fold.largest_ulp for fold in found.folds)
    nodes = {fold.left for fold in found.folds}
    return f"; constants of {len(nodes)} nodes are folded, within {largest:.3g} units in the last place"


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
        return f"no identity relates {_told(first.left)} and {_told(first.right)}{more}"
    if found.constants:
        pair = found.constants[0]
        return f"constants of {pair.left!r} and {pair.right!r} differ by up to {pair.largest_difference:.3g}"
    apart = next(pair for pair in found.outputs if not pair.is_equal)
    return f"no identity relates the outputs {apart.left!r} and {apart.right!r}"


def _told(origin: Origin) -> str:
    return f"{origin.operator} {origin.node!r}"
