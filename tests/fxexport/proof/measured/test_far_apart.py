"""Movement of weights and inputs is asked for until it explains how far two models lie apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fxexport.numerics.bounds import FP32
from fxexport.proof.measured.far_apart import Compared, far_apart
from fxexport.proof.pairing.outputs import Pair
from fxexport.terms.term import Array, HeadTerm, Kind, TermGraph

FEEDS = [(np.ones((2, 3), np.float32),)]


class Moving:
    """A model whose only output moves by so much when it is nudged, the second time by the next number.

    With its inputs alone it moves by ``slope`` times what these do.
    """

    dialect = "onnx"
    kinds = frozenset({"float32"})
    graph: TermGraph = (HeadTerm(kind=Kind.OP, value="y", node="y", signature="?"),)

    def __init__(self, value: float, *moves: float) -> None:
        self.value, self.moves, self.asked = value, list(moves), 0

    slope = 0.0

    def rerun(self, feeds: Sequence[Sequence[Array]], on: str) -> tuple[Array, ...]:
        moved = float(np.abs(feeds[0][0] - FEEDS[0][0]).max())
        return (np.full((2, 1), self.value + self.slope * moved),)

    def nudged(self, feeds: object, on: str, by: float, seed: int) -> tuple[Array, ...]:
        self.asked += 1
        return (np.full((2, 1), self.value + self.moves[seed]),)


class Casting(Moving):
    """A module that is another function of float64, as one is that writes to what a cast may have copied."""

    dialect = "module"

    def outputs64(self, feeds: object) -> tuple[Array, ...]:
        return (np.full((2, 1), self.value + 1),)


class Sigmoid(Moving):
    """A model that ends in a sigmoid."""

    graph = (dataclasses.replace(Moving.graph[0], kind=Kind.ELEMENTWISE, function="sigmoid"),)


class Joined(Moving):
    """A model that joins what a sigmoid gives to something else."""

    graph = (
        dataclasses.replace(
            Moving.graph[0], signature="Concat(vv)", operands=(*Moving.graph, *Sigmoid.graph)
        ),
    )


def apart(*sides: Any) -> bool:
    """Whether the two lie further apart than they move."""
    arrays = [np.full((2, 1), side.value) for side in sides]
    output = Compared(name="y", positions=(0, 0), reference=arrays[0], candidate=arrays[1])
    pair = Pair(subjects=(sides[0], sides[1]), on=("cpu", "cpu"), outputs=(("y", 0, 0),))
    return bool(far_apart(pair, (FEEDS, FEEDS), [output], FP32))


@pytest.mark.parametrize(
    ("left", "right", "is_apart", "asked"),
    [
        ((0, 0, 0), (0, 0, 0), True, (3, 3)),
        ((1, 0, 0), (0, 0, 0), False, (1, 0)),
        ((0, 0, 0), (1, 0, 0), False, (1, 1)),
        ((0, 0, 0), (0, 0, 1), False, (3, 3)),
        ((0.02, 0, 0), (0.02, 0, 0), True, (3, 3)),
    ],
)
def test_no_more_is_asked_than_explains_the_difference(
    left: tuple[float, ...], right: tuple[float, ...], is_apart: bool, asked: tuple[int, int]
) -> None:
    sides = Moving(1.0, *left), Moving(2.0, *right)
    assert apart(*sides) is is_apart
    assert (sides[0].asked, sides[1].asked) == asked


def test_inputs_alone_are_nudged_first() -> None:
    sides = Moving(1.0, 0, 0, 0), Moving(2.0, 0, 0, 0)
    assert apart(*sides)
    sides[0].slope = 1e5
    sides[0].asked = sides[1].asked = 0
    assert not apart(*sides)
    assert sides[0].asked == sides[1].asked == 0


def test_equal_outputs_ask_for_nothing() -> None:
    sides = Moving(1.0), Moving(1.0)
    assert not apart(*sides)
    assert sides[0].asked == sides[1].asked == 0


def test_a_run_in_float64_explains_no_more_than_rounding() -> None:
    assert apart(Casting(1.0, 0, 0, 0), Moving(2.0, 0, 0, 0))
    assert not apart(Casting(1.0, 0, 0, 0), Moving(1.0002, 0, 0, 0))


@pytest.mark.parametrize(("kind", "is_apart"), [(Sigmoid, False), (Joined, False), (Moving, True)])
def test_a_sigmoid_is_as_exact_near_0_as_near_1(kind: type[Moving], is_apart: bool) -> None:
    # where it is off the end of its scale ONNX Runtime gives either, and neither moves
    assert apart(kind(0.0, 0, 0, 0), kind(2.0**-25, 0, 0, 0)) is is_apart
    assert apart(kind(0.5, 0, 0, 0), kind(0.501, 0, 0, 0))
