"""Which outputs of two models are compared with each other."""

from __future__ import annotations

import dataclasses
import re

from fxexport.subjects.subject import Subject
from fxexport.terms.pool_first import has_norm_before_pool
from fxpasses.errors import CheckError
from fxpasses.graph.maps import KEY as MAP

PairedOutputs = tuple[tuple[str, int, int], ...]
"""Name of each output, its place in the reference and in the candidate."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pair:
    """Two models that are run beside each other.

    Attributes:
        subjects: the reference and the candidate.
        on: what runs each of them.
        outputs: which of their outputs belong together.
    """

    subjects: tuple[Subject, Subject]
    on: tuple[str, str]
    outputs: PairedOutputs

    @classmethod
    def at(cls, target: str, left: Subject, right: Subject, outputs: PairedOutputs) -> Pair:
        """The two where a target runs them."""
        return cls(subjects=(left, right), on=(left.runs_on(target), right.runs_on(target)), outputs=outputs)


def paired_outputs(left: Subject, right: Subject) -> PairedOutputs:
    """Pairs of outputs: by name where names are equal, else by position.

    Raises:
        CheckError: there is no output, or the two have other numbers of them.
    """
    compared = _compared(left, right), _compared(right, left)
    a, b = ([name for name, _ in side] for side in compared)
    if not a or not b:
        raise CheckError("there is no output to compare", where=(left if not a else right).name)
    # an output of the right name is the one that is meant, whatever it holds
    by_name = set(a) == set(b) or (len(a) == len(b) and {*a} <= {*right.output_names})
    if not by_name and len(a) != len(b):
        missing = [name for name in a if name not in b]
        raise CheckError(
            f"output {missing[0]!r} is missing (it has {', '.join(map(repr, b))})"
            if missing
            else f"it has outputs {b}, the reference has {a}",
            where=right.name,
            fix="compare models with as many outputs each, or give them the same names",
        )
    places = {name: place for place, name in enumerate(right.output_names)} if by_name else {}
    return tuple(
        (name, i, places[name] if by_name else compared[1][number][1])
        for number, (name, i) in enumerate(compared[0])
    )


def is_by_position(left: Subject, outputs: PairedOutputs, right: Subject) -> bool:
    """True if outputs of two files were paired that have other names."""
    both_files = left.dialect == right.dialect == "onnx"
    return both_files and any(right.output_names[j] != name for name, _, j in outputs)


def is_map_name(name: str) -> bool:
    """True for the names that ``export_onnx`` gives maps of scores: ``map``, and ``map_0``, … of several."""
    return re.fullmatch(rf"{MAP}(_\d+)?", name) is not None


def unexplained(side: Subject, other: Subject) -> list[str]:
    """Names of maps that only one of two models has, and that a batch norm before the pool hides."""
    if not has_norm_before_pool(side.graph):
        return []
    maps = {found.position for found in side.maps}
    names = [(i, name) for i, name in enumerate(side.output_names) if is_map_name(name)]
    return [name for i, name in names if i not in maps and name not in other.output_names]


def _compared(side: Subject, other: Subject) -> list[tuple[str, int]]:
    """Name and position of the outputs that are no maps: these are told by the outputs that they explain."""
    maps = {found.position for found in side.maps}
    left_out = unexplained(side, other)
    return [(name, i) for i, name in enumerate(side.output_names) if i not in maps and name not in left_out]
