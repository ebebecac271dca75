"""Random programs beside others that are the same or almost, derived, and run in double precision.

``tools/dev fuzz pairs`` makes modules of random operators on small maps, and of each one that spells some of
them in another way, and one in which a number, an operator or an order is another. A pair that is proved
and whose outputs differ is a fault; so is any exception.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fuzz.targets import Fault
from fxexport.language import derive, graph_of_module

SEEN = 1e-4
"""Outputs further apart, as a share of the largest, are those of two functions."""

Step: TypeAlias = Callable[..., Tensor]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """An operator of random programs.

    Attributes:
        spellings: ways to say it, of as many values as ``reads`` and then the numbers.
        numbers: how many numbers it has; a sign before it says that they are above zero.
        reads: how many values it reads.
    """

    spellings: tuple[Step, ...]
    numbers: int = 0
    reads: int = 1


def _per_channel(numbers: Tensor) -> Tensor:
    return numbers[:, None, None]


def _hand_norm(x: Tensor, dims: Sequence[int]) -> Tensor:
    centred = x - x.mean(dims, keepdim=True)
    return centred * (centred.pow(2).mean(dims, keepdim=True) + 1e-5).rsqrt()


def _hand_softmax(x: Tensor, dim: int) -> Tensor:
    raised = (x - x.amax(dim, keepdim=True)).exp()
    return raised / raised.sum(dim, keepdim=True)


KINDS: dict[str, Kind] = {
    "relu": Kind(
        spellings=(F.relu, lambda x: x.clamp(min=0), lambda x: torch.maximum(x, torch.zeros_like(x)))
    ),
    "relu6": Kind(spellings=(F.relu6, lambda x: x.clamp(0, 6), lambda x: x.clamp(min=0).clamp(max=6))),
    "silu": Kind(spellings=(F.silu, lambda x: x * x.sigmoid(), lambda x: x / (1 + (-x).exp()))),
    "hardswish": Kind(spellings=(F.hardswish, lambda x: x * F.relu6(x + 3) / 6)),
    "gelu": Kind(spellings=(F.gelu, lambda x: x * 0.5 * (1 + (x / math.sqrt(2)).erf()))),
    "mish": Kind(spellings=(F.mish, lambda x: x * F.softplus(x).tanh())),
    "tanh": Kind(spellings=(torch.tanh, lambda x: 2 * (2 * x).sigmoid() - 1)),
    "abs": Kind(spellings=(torch.abs, lambda x: torch.maximum(x, -x), lambda x: (-x).abs())),
    "square": Kind(spellings=(lambda x: x * x, lambda x: x.pow(2), torch.square)),
    "cap": Kind(
        spellings=(lambda x, c: x.clamp(-c[0], c[0] + 1), lambda x, c: x.clamp(-c[0]).clamp(max=c[0] + 1)),
        numbers=-1,
    ),
    "scale": Kind(
        spellings=(lambda x, c: x * c[0], lambda x, c: x / (1 / c[0]), lambda x, c: -(x * -c[0])), numbers=1
    ),
    "shift": Kind(
        spellings=(lambda x, c: x + c[0], lambda x, c: x - -c[0], lambda x, c: c[0] + x), numbers=1
    ),
    "channels": Kind(
        spellings=(
            lambda x, c: x * _per_channel(c[:4]) + _per_channel(c[4:]),
            lambda x, c: (x + _per_channel(c[4:] / c[:4])) * _per_channel(c[:4]),
        ),
        numbers=-8,
    ),
    "site": Kind(
        spellings=(
            lambda x, c: F.conv2d(x, c.reshape(4, 4, 1, 1)),
            lambda x, c: F.linear(x.movedim(1, -1), c.reshape(4, 4)).movedim(-1, 1),
            lambda x, c: torch.einsum("nchw,oc->nohw", x, c.reshape(4, 4)),
        ),
        numbers=16,
    ),
    "convolution": Kind(
        spellings=(
            lambda x, c: F.conv2d(x, c.reshape(4, 1, 3, 3), padding=1, groups=4),
            lambda x, c: F.conv2d(F.pad(x, (1, 1, 1, 1)), c.reshape(4, 1, 3, 3), groups=4),
        ),
        numbers=36,
    ),
    "instance norm": Kind(
        spellings=(F.instance_norm, lambda x: _hand_norm(x, (2, 3)), lambda x: F.group_norm(x, 4))
    ),
    "group norm": Kind(
        spellings=(
            lambda x: F.group_norm(x, 2),
            lambda x: _hand_norm(x.unflatten(1, (2, 2)), (2, 3, 4)).flatten(1, 2),
        )
    ),
    "layer norm": Kind(spellings=(lambda x: F.layer_norm(x, (4,)), lambda x: _hand_norm(x, (3,)))),
    "softmax": Kind(
        spellings=(lambda x: x.softmax(1), lambda x: _hand_softmax(x, 1), lambda x: x.log_softmax(1).exp())
    ),
    "log softmax": Kind(
        spellings=(
            lambda x: x.log_softmax(1),
            lambda x: x.softmax(1).log(),
            lambda x: x - x.logsumexp(1, keepdim=True),
        )
    ),
    "average": Kind(
        spellings=(lambda x: F.avg_pool2d(x, 3, 1, 1), lambda x: F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1))
    ),
    "largest": Kind(
        spellings=(
            lambda x: F.max_pool2d(x, 3, 1, 1),
            lambda x: F.max_pool2d(x, 3, 1, 1, return_indices=True)[0],
        )
    ),
    "turn": Kind(
        spellings=(
            lambda x: x.mT,
            lambda x: x.permute(0, 1, 3, 2),
            lambda x: x.flatten(0, 1).transpose(1, 2).reshape(x.shape),
        )
    ),
    "shuffle": Kind(
        spellings=(
            lambda x: x.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2),
            lambda x: x[:, [0, 2, 1, 3]],
        )
    ),
    "halves": Kind(
        spellings=(lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), lambda x: torch.cat([x[:, 2:], x[:, :2]], 1))
    ),
    "attention": Kind(
        spellings=(
            lambda x: F.scaled_dot_product_attention(x, x, x),
            lambda x: (x @ x.mT * 0.5).softmax(-1) @ x,
            lambda x: _hand_softmax((x * 0.5) @ x.mT, -1) @ x,
        )
    ),
    "gate": Kind(
        spellings=(
            lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
            lambda x: x * F.adaptive_avg_pool2d(x, 1).sigmoid(),
        )
    ),
    "least": Kind(
        spellings=(lambda x: x - x.amin((2, 3), keepdim=True), lambda x: x + (-x).amax((2, 3), keepdim=True))
    ),
    "add": Kind(spellings=(torch.add, lambda x, y: y + x, lambda x, y: x - (-y)), reads=2),
    "multiply": Kind(spellings=(torch.mul, lambda x, y: y * x, lambda x, y: -(x * -y)), reads=2),
    "larger": Kind(spellings=(torch.maximum, lambda x, y: torch.where(x > y, x, y)), reads=2),
    "subtract": Kind(spellings=(torch.sub, lambda x, y: -(y - x)), reads=2),
    "join": Kind(
        spellings=(
            lambda x, y: torch.cat([x[:, :2], y[:, 2:]], 1),
            lambda x, y: torch.cat([y[:, 2:], x[:, :2]], 1).roll(2, 1),
        ),
        reads=2,
    ),
}
"""Operators on maps of 4 channels of 4 by 4 cells, which keep their extents."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Written:
    """One operator of a program: its kind, its spelling, the values that it reads, and its numbers."""

    kind: str
    spelling: int
    reads: list[int]
    numbers: Tensor


class Program(nn.Module):
    """A sequence of operators, each of which reads what was computed before."""

    def __init__(self, steps: Sequence[Written]) -> None:
        """A program of these operators."""
        super().__init__()
        self.steps = list(steps)
        self.numbers = nn.ParameterList([step.numbers for step in steps])

    def forward(self, x: Tensor) -> Tensor:
        """The last value."""
        values = [x]
        for step, numbers in zip(self.steps, self.numbers, strict=True):
            read = [values[place] for place in step.reads]
            spelled = KINDS[step.kind].spellings[step.spelling]
            values.append(spelled(*read, *([numbers] if len(numbers) else [])))
        return values[-1]


def _numbers(chance: random.Random, count: int) -> Tensor:
    """Numbers of a model, a few of them 0, 1 or -1; above zero where the count is below."""
    found = [chance.choice((chance.uniform(-2, 2), 1.0, -1.0, 0.5)) for _ in range(abs(count))]
    return torch.tensor([abs(item) + 0.1 for item in found] if count < 0 else found)


def _program(chance: random.Random) -> list[Written]:
    steps: list[Written] = []
    for place in range(chance.randint(2, 7)):
        name = chance.choice(list(KINDS))
        kind = KINDS[name]
        reads = [place, *(chance.randint(0, place) for _ in range(kind.reads - 1))]
        steps.append(Written(kind=name, spelling=0, reads=reads, numbers=_numbers(chance, kind.numbers)))
    return steps


def _respelled(steps: Sequence[Written], chance: random.Random) -> list[Written]:
    found = copy.deepcopy(list(steps))
    for step in found:
        step.spelling = chance.randrange(len(KINDS[step.kind].spellings))
    return found


def _mutant(steps: Sequence[Written], chance: random.Random) -> list[Written]:
    """The program with one number, operator, operand or order changed."""
    found = _respelled(steps, chance)
    place = chance.randrange(len(found))
    step = found[place]
    how = chance.choice(("number", "kind", "reads", "order", "dropped"))
    if how == "number" and len(step.numbers):
        index = chance.randrange(len(step.numbers))
        step.numbers[index] *= 1 + chance.choice((1e-3, 0.1, -2.0))
    elif how == "reads":
        step.reads = [chance.randint(0, place) for _ in step.reads]
    elif how == "order" and place:
        other = found[place - 1]
        step.kind, other.kind = other.kind, step.kind
        step.spelling, other.spelling = other.spelling, step.spelling
        step.numbers, other.numbers = other.numbers, step.numbers
        for item, own in ((step, place), (other, place - 1)):
            item.reads = [own, *item.reads[1:], own][: KINDS[item.kind].reads]
    elif how == "dropped" and len(found) > 1:
        for later in found[place + 1 :]:
            later.reads = [read - (read > place) for read in later.reads]
        found.pop(place)
    else:
        alike = [name for name, kind in KINDS.items() if kind.reads == len(step.reads)]
        step.kind = chance.choice(alike)
        kind = KINDS[step.kind]
        step.spelling, step.numbers = chance.randrange(len(kind.spellings)), _numbers(chance, kind.numbers)
    return found


def _apart(first: Program, second: Program, seed: int) -> float:
    """How far outputs in double precision differ, as a share of the largest number on the way to them."""
    generator = torch.Generator().manual_seed(seed)
    one, other = copy.deepcopy(first).double(), copy.deepcopy(second).double()
    apart = 0.0
    for size in (0.1, 1.0, 4.0):
        x = torch.randn(3, 4, 4, 4, generator=generator, dtype=torch.float64) * size
        with torch.no_grad():
            ends = one(x), other(x)
        if all(bool(end.isfinite().all()) for end in ends):
            most = max(1e-3, *(float(end.abs().max()) for end in ends))
            apart = max(apart, float((ends[0] - ends[1]).abs().max()) / most)
    return apart


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two random programs.

    Attributes:
        is_same: whether one only spells the other in another way.
        steps: both of them.
    """

    is_same: bool
    steps: tuple[list[Written], list[Written]]

    @classmethod
    def drawn(cls, seed: int) -> Pair:
        """The pair of this seed."""
        chance = random.Random(seed)
        steps = _program(chance)
        is_same = chance.random() < 1 / 3
        return cls(is_same=is_same, steps=(steps, (_respelled if is_same else _mutant)(steps, chance)))


def attempt_pair(seed: int) -> tuple[Fault | None, str]:
    """What must not come of the pair of this seed, and else what came of it."""
    pair = Pair.drawn(seed)
    one, other = (Program(steps).eval() for steps in pair.steps)
    x = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(seed))
    try:
        is_proved = derive(*(graph_of_module(program, (x,)) for program in (one, other))).is_proved
    except Exception as error:  # noqa: BLE001 whatever it is, it is a fault
        return Fault(what=f"{type(error).__name__}: {error}", error=error), ""
    is_apart = _apart(one, other, seed) > SEEN
    if is_apart and (is_proved or pair.is_same):
        told = [[(step.kind, step.spelling, step.reads) for step in steps] for steps in pair.steps]
        return Fault(what=f"{'proved' if is_proved else 'spelled alike'}, and apart: {told}"), ""
    kind = "the same" if pair.is_same else "equal on samples" if not is_apart else "different"
    return None, f"{kind}, {'' if is_proved else 'not '}proved"
