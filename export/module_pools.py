"""Which calls of a torch.fx graph average over exactly the spatial axes of ``[N, C, *k]``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx, nn

from export.terms import Shape

_ADAPTIVE = ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
_FIXED = ("avg_pool1d", "avg_pool2d", "avg_pool3d")
_ADAPTIVE_MODULES = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
_FIXED_MODULES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


def averages_map(node: fx.Node, module: nn.Module | None, before: Shape, after: Shape) -> bool:
    """True if the result is the mean over all cells of each channel.

    Shapes:
        before: (C, *k); after: (C,) or (C, 1, …), both without the batch.
    """
    if len(before) < 2 or after[:1] != before[:1] or any(extent != 1 for extent in after[1:]):
        return False
    if module is not None:
        return type(module) in _ADAPTIVE_MODULES or (
            type(module) in _FIXED_MODULES
            and getattr(module, "divisor_override", None) is None
            and _covers(module.kernel_size, module.padding, before)
        )
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name in _ADAPTIVE:
        return True
    if name in _FIXED:
        kernel = _argument(node, 1, "kernel_size", None)
        has_divisor = _argument(node, 6, "divisor_override", None) is not None
        return not has_divisor and _covers(kernel, _argument(node, 3, "padding", 0), before)
    return name == "mean" and _axes(_argument(node, 1, "dim", None), len(before) + 1) == set(
        range(2, len(before) + 1)
    )


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _covers(kernel: Any, padding: Any, before: Shape) -> bool:
    rank = len(before) - 1
    extents = tuple(kernel) if isinstance(kernel, Sequence) else (kernel,) * rank
    pads = tuple(padding) if isinstance(padding, Sequence) else (padding,)
    return (extents if len(extents) == rank else extents * rank) == before[1:] and not any(pads)


def _axes(dim: Any, rank: int) -> set[int]:
    if isinstance(dim, int):
        return {dim % rank}
    is_axes = isinstance(dim, Sequence) and all(isinstance(axis, int) for axis in dim)
    return {axis % rank for axis in dim} if is_axes else set()
