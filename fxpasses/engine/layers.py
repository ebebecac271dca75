"""Layers without values, for a rewrite to fill in: nothing is initialised, so no random number is drawn."""

from __future__ import annotations

from typing import Any

from torch import nn


def blank_linear(*, bias: bool) -> nn.Linear:
    """An ``nn.Linear`` without weights, and without drawing random numbers to make them."""

    class Blank(nn.Linear):
        def reset_parameters(self) -> None:
            """Leave the placeholder as it is."""

    module: Any = Blank(1, 1, bias=bias)
    module.__class__ = nn.Linear
    blank: nn.Linear = module
    return blank


def blank_conv(rank: int, kernel_size: tuple[int, ...], *, bias: bool) -> nn.Module:
    """An ``nn.ConvNd`` without weights, and without drawing random numbers to make them."""
    base: type = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]

    class Blank(base):  # type: ignore[misc]  # the base is picked by rank
        def reset_parameters(self) -> None:
            """Leave the placeholder as it is."""

    module: nn.Module = Blank(1, 1, kernel_size, bias=bias)
    module.__class__ = base
    return module


def batch_norm_class(rank: int) -> type[nn.Module]:
    """The batch norm class for ``[N, C]`` (rank 0) or a map of ``rank`` spatial axes."""
    return (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[rank]
