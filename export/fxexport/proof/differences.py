"""What differences of two graphs say of the functions: less than they seem to.

An operator that only one of two graphs has may change nothing on the values that reach it, a factor may have
moved from one constant to another, and exchanged operands may be exchanged back. So differences of the graphs
tell why two models differ where a run has shown that they do. Where the graphs are the same but for

- one constant, by more than two foldings of a batch norm lie apart, the two are other functions by that;
- several constants, or one operator that gives something else by itself, they are where outputs differ too;
- an operator that draws random numbers, they are whatever it draws.
"""

from __future__ import annotations

import dataclasses

from fxexport.proof.graphs.compare import Comparison, ConstantDifference
from fxexport.proof.layers import Walks
from fxexport.results import LayerResult, Status

_ULPS = 2.0
"""What two ways of running the same operators may leave."""


def is_same_graph(walks: Walks, different: tuple[ConstantDifference, ...]) -> bool:
    """True if nothing in the two graphs differs, and nothing was only tried."""
    return not different and all(
        not (walk.parting or walk.tried or walk.operators or walk.constants) for walk in _compared(walks)
    )


def is_shown(
    walks: Walks, different: tuple[ConstantDifference, ...], *, is_identical: bool, ulps: float
) -> bool:
    """True if the graphs tell by themselves that the two are not one function.

    Args:
        walks: the graphs side by side.
        different: sites with other parameters.
        is_identical: whether the outputs were equal bit for bit.
        ulps: by how many units in the last place of each sample's largest value they differed.
    """
    compared = _compared(walks)
    operators = [item for walk in compared for item in walk.operators]
    if any(item.is_random for item in operators):
        return True
    if any(walk.parting or walk.tried for walk in compared):
        return False
    constants = [*different, *(item for walk in compared for item in walk.constants)]
    folded = {item.name for item in constants if item.is_rounding}
    # beside weights that differ by rounding a single bias may do so, too
    constants = [item for item in constants if not (item.is_small and item.name in folded)]
    if not operators and len(constants) == 1:
        return True
    if is_identical:
        return False
    if not operators:
        return bool(constants) and not _are_exchanged(constants)
    is_telling = operators[0].expected is not None and ulps > _ULPS
    return len(operators) == 1 and not constants and is_telling


def unfolded(walks: Walks, different: tuple[ConstantDifference, ...], *, is_exported: bool) -> str | None:
    """A constant that differs in graphs that are the same otherwise: there neither folded anything.

    ``is_exported``: whether a module was compared as a file, to which its exporter may have folded it; then
    one value alone that differs is no fold.
    """
    compared = _compared(walks)
    if any(walk.parting or walk.tried or walk.operators for walk in compared):
        return None
    constants = (*different, *(item for walk in compared for item in walk.constants))
    if is_exported and (len(constants) != 1 or constants[0].is_rounding):
        return None
    return next((item.name for item in constants), None)


def unshown(layer: LayerResult) -> LayerResult:
    """A failed layer of graphs as one that held on what was run."""
    return dataclasses.replace(layer, status=Status.HELD, reason=str(layer.failures[0]), failures=())


def derived_layer(layer: LayerResult, reason: str) -> LayerResult:
    """A layer of graphs where one model was derived from the other; what failed by itself stays failed."""
    if layer.status in (Status.PROVED, Status.FAILED):
        return layer
    return dataclasses.replace(layer, status=Status.PROVED, reason=reason)


def _are_exchanged(constants: list[ConstantDifference]) -> bool:
    """True if the two models hold the same constants, in other places."""
    return sorted(item.digests[0] for item in constants) == sorted(item.digests[1] for item in constants)


def _compared(walks: Walks) -> tuple[Comparison, ...]:
    head = walks.head if walks.strict.parting is not None else walks.strict
    return (walks.upstream,) if head is walks.upstream else (head, walks.upstream)
