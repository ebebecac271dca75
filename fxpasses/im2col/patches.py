"""Which patches of a map a convolution reads, and how many: the arithmetic of im2col.

With ``p`` positions of padding on both sides together, an axis of extent ``H`` has

    (H + p - d·(k - 1) - 1) // s + 1  =  (H + shift) // s,   shift = p - d·(k - 1) - 1 + s

patches (``torch.nn.Conv2d`` and ``torch.nn.Unfold`` state the left side). Every size that a graph computes by
adding numbers and dividing by them is such a quotient, so that two ways to write it can be compared.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from typing import Any

from torch.fx import Node

from fxpasses.vocabulary.ops import Affine, Unfold
from fxpasses.vocabulary.sizes import size_of

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Patches:
    """The patches of one convolution; every pair is (height, width).

    Attributes:
        pads: padding before and after each axis.
        mode: what is padded with, as ``nn.Conv2d`` names it.
    """

    kernel: Pair
    stride: Pair
    dilation: Pair
    pads: tuple[Pair, Pair]
    mode: str = "zeros"

    @classmethod
    def of(cls, op: Affine, kernel: Pair) -> Patches:
        """Those of a convolution; with ``padding='same'`` the odd one is padded after the axis."""
        pads: list[Pair] = [(extent, extent) for extent in op.padding]
        if op.same:
            totals = [step * (extent - 1) for step, extent in zip(op.dilation, kernel, strict=True)]
            pads = [(total // 2, total - total // 2) for total in totals]
        return cls(
            kernel=kernel,
            stride=_pair(op.stride),
            dilation=_pair(op.dilation),
            pads=(pads[0], pads[1]),
            mode=op.padding_mode,
        )

    @classmethod
    def unfolded(cls, op: Unfold) -> Patches:
        """Those of an unfold."""
        first, second = op.padding
        return cls(
            kernel=_pair(op.kernel),
            stride=_pair(op.stride),
            dilation=_pair(op.dilation),
            pads=((first, first), (second, second)),
        )

    @property
    def needs_pad(self) -> bool:
        """Whether unfold cannot pad so itself: other values than zero, or more after an axis than before."""
        return any(map(any, self.pads)) and (
            self.mode != "zeros" or any(before != after for before, after in self.pads)
        )

    @property
    def padding(self) -> Pair:
        """What is padded before each axis, and as much after it where unfold pads itself."""
        return self.pads[0][0], self.pads[1][0]

    def of_padded(self) -> Patches:
        """The same patches of a map that was padded before."""
        return dataclasses.replace(self, pads=((0, 0), (0, 0)), mode="zeros")

    @property
    def per_pixel(self) -> float:
        """Numbers in the columns for each number of a large map: ``kh·kw / (sh·sw)``."""
        return math.prod(self.kernel) / math.prod(self.stride)

    def shift(self, axis: int) -> int:
        """What is added to an axis's extent before it is divided by the stride."""
        reach = self.dilation[axis] * (self.kernel[axis] - 1)
        return sum(self.pads[axis]) - reach - 1 + self.stride[axis]

    def count(self, extents: Pair) -> Pair:
        """How many patches a map of these extents has along each axis."""
        first, second = ((extents[axis] + self.shift(axis)) // self.stride[axis] for axis in (0, 1))
        return first, second

    def padded(self, extents: Pair) -> Pair:
        """The extents of the map that a pad of its own leaves to unfold."""
        return extents[0] + sum(self.pads[0]), extents[1] + sum(self.pads[1])


def _pair(numbers: tuple[int, ...]) -> Pair:
    first, second = numbers
    return first, second


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Quotient:
    """``(size + shift) // step`` of one axis of ``owner``."""

    owner: Node
    axis: int
    shift: int = 0
    step: int = 1


def quotient_of(value: Any) -> Quotient | None:
    """A size that a graph computes, as a quotient of a tensor's size; None where it is none.

    ``floor((H + a) / s) + c = floor((H + a + c·s) / s)``, and floors of floors divide by the product.
    """
    steps: list[tuple[Any, int]] = []
    while isinstance(value, Node) and (owner := size_of(value)) is None:
        if value.op != "call_function" or len(value.args) != 2 or value.kwargs:
            return None
        first, second = value.args
        if value.target is operator.add and isinstance(first, int):
            first, second = second, first
        if not isinstance(second, int):
            return None
        steps.append((value.target, second))
        value = first
    if not isinstance(value, Node) or owner is None:
        return None
    found = Quotient(owner=owner[0], axis=owner[1])
    for target, number in reversed(steps):
        if target in (operator.add, operator.sub):
            sign = 1 if target is operator.add else -1
            found = dataclasses.replace(found, shift=found.shift + sign * number * found.step)
        elif target is operator.floordiv and number > 0:
            found = dataclasses.replace(found, step=found.step * number)
        else:
            return None
    return found
