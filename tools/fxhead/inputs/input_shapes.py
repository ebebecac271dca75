"""Shapes of a model's inputs, and how they are known."""

from __future__ import annotations

import dataclasses
import enum
import math

import torch

from fxexport.untrusted.limits import MAX_SAMPLE_BYTES
from fxpasses.errors import InputError


class ShapeOrigin(enum.StrEnum):
    """How the input shape is known."""

    GIVEN = "given"
    METADATA = "metadata"
    GUESSED = "guessed"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InputShapes:
    """The shapes of a model's inputs, batch first, and their dtypes.

    Attributes:
        origin: how they are known.
        limit: number of embeddings that integers select from; None where there are none.
        fixed_batch: the only batch size that the model takes, where an exported program fixes one.
    """

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    origin: ShapeOrigin
    limit: int | None = None
    fixed_batch: int | None = None

    def __str__(self) -> str:
        return " ".join("x".join(map(str, shape)) for shape in self.shapes)

    def examples(self, batch: int) -> tuple[torch.Tensor, ...]:
        """Inputs at another batch size, or at the fixed one, the same in every run."""
        return self.samples(self.fixed_batch or batch)

    def samples(self, batch: int, *, seed: int = 0) -> tuple[torch.Tensor, ...]:
        """Standard normal inputs of these shapes, or tokens; any number, the same in every run."""
        if sum(math.prod(shape[1:]) for shape in self.shapes) * 8 > MAX_SAMPLE_BYTES:
            what = f"one sample of {self} takes more than {MAX_SAMPLE_BYTES // 2**30} GiB"
            raise InputError(what, fix="give a smaller --input-shape")
        generator = torch.Generator().manual_seed(seed)
        return tuple(
            self._drawn((batch, *shape[1:]), dtype, generator)
            for shape, dtype in zip(self.shapes, self.dtypes, strict=True)
        )

    def _drawn(self, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
        if dtype.is_floating_point:
            return torch.randn(shape, generator=generator).to(dtype)
        return torch.randint(self.limit or 2, shape, generator=generator).to(dtype)
