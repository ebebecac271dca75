"""Small integers as weights and features, for which every partial sum is exact; see ``probe_site``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from fxexport.terms.term import Array

_DIGITS = {"float64": 24, "float32": 24, "float16": 11, "bfloat16": 8}
"""Digits of the significand; fp64's products are computed here in fp32, so 24 are used."""
_LARGEST = 2**10
"""Largest weight: TF32 keeps 11 digits of an operand."""
_PROBES = 4096
_WORK = 2**36
"""Most probes, and most multiply-adds that they may take."""
_SETS = 8
_ROUNDS = 16
_MISS = 1e-9
"""How rarely a wrong wiring should pass; a plan costs no more than that takes, or _PROBES."""
_SHIFT = 16
"""Elements by which a set of weights is shifted against the last: 64 bytes of fp32, for alignment."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class IntegerPlan:
    """How many integer probes of what size.

    Attributes:
        amplitude: largest weight.
        block: most features of a probe that are not zero.
        sets: sets of random weights.
        rounds: random features for each block and set.
        miss: bound on the probability that a wrong wiring passes.
    """

    amplitude: int
    block: int
    sets: int
    rounds: int
    miss: float

    def cost(self, count: int) -> int:
        """Work, in probes: a set of weights, made and laid out, is about as much as eight."""
        return self.sets * (8 + self.rounds * -(-count // self.block))


def integer_plan(out: int, count: int, dtype: str) -> IntegerPlan:
    """The cheapest plan for ``[out, count]`` weights that misses rarely enough, or as rarely as may be."""
    most = max(1, min(_PROBES, _WORK // (out * count)))
    limit = 2 ** _DIGITS[dtype]
    plans = [
        IntegerPlan(
            amplitude=amplitude,
            block=block,
            sets=sets,
            rounds=rounds,
            miss=(1 / (2 * amplitude + 1) + 3.0**-rounds) ** sets,
        )
        for amplitude in (2**power for power in range(_LARGEST.bit_length()))
        if (block := min(count, limit // amplitude))
        for rounds in range(1, _ROUNDS + 1)
        for sets in range(1, _SETS + 1)
        if sets * rounds * -(-count // block) <= most
    ]
    return min(plans, key=lambda plan: (max(plan.miss, _MISS), plan.cost(count)))


def random_integers(
    shape: tuple[int, ...], kind: np.dtype[np.generic], plan: IntegerPlan, rng: np.random.Generator
) -> Iterator[Array]:
    """Sets of weights: windows of one random sequence, so that only one set is held at a time."""
    size = int(np.prod(shape))
    sequence = np.empty(size + plan.sets * _SHIFT, kind)
    for start in range(0, len(sequence), 2**22):
        part = sequence[start : start + 2**22]
        part[:] = rng.integers(-plan.amplitude, plan.amplitude + 1, len(part), dtype=np.int16)
    for index in range(plan.sets):
        yield sequence[index * _SHIFT : index * _SHIFT + size].reshape(shape)


def sparse_features(
    count: int, kind: np.dtype[np.generic], plan: IntegerPlan, rng: np.random.Generator
) -> Iterator[tuple[Array, slice]]:
    """Features of each block of columns, zero elsewhere, and the columns of the block."""
    for start in range(0, count, plan.block):
        support = slice(start, min(count, start + plan.block))
        features = np.zeros((plan.rounds, count), kind)
        features[:, support] = rng.integers(-1, 2, (plan.rounds, support.stop - start), dtype=np.int8)
        yield features, support
