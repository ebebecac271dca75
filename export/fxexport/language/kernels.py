"""Which operators a run takes, whatever functions call them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from fxexport.private_names import TorchDispatchMode

_TELL = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""Operators that give a number, or as many cells as values say."""
_MOVES = frozenset(
    "_reshape_alias _unsafe_view alias as_strided clone copy detach expand lift_fresh permute select slice "
    "split split_with_sizes squeeze t transpose unbind unsqueeze view".split()
)
"""What moves cells: a recording may look at them in another way."""
_CHECKS = ("_assert", "sym_")
"""What refuses some inputs, or tells extents."""
_MEANS = {
    "_adaptive_avg_pool2d": "mean",
    "_adaptive_avg_pool3d": "mean",
    "avg_pool2d": "mean",
    "avg_pool3d": "mean",
}


class Kernels(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its __init_subclass__
    """Counts operators within it.

    Attributes:
        counts: how often each was run that computes something; a pool over a whole map is a mean.
        asked: the first that tells values; None where none did.
    """

    def __init__(self) -> None:
        """None was run yet."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()
        self.asked: str | None = None

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = func.overloadpacket.__name__.rstrip("_")
        if name not in _MOVES and not name.startswith(_CHECKS):
            self.counts[_MEANS.get(name, name)] += 1
        if _TELL & set(func.tags) and not _is_by_places(func, args):
            self.asked = self.asked or name.removeprefix("_")
        return func(*args, **(kwargs or {}))


def counted(run: Callable[..., Any], *args: Any, **kwargs: Any) -> Counter[str]:
    """How often a run takes each operator."""
    with torch.no_grad(), Kernels() as kernels:
        run(*args, **kwargs)
    found: Counter[str] = kernels.counts
    return found


def _is_by_places(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether cells are taken by their places: as many as there are places, whatever these are."""
    return func is torch.ops.aten.index.Tensor and not any(
        item is not None and item.dtype in (torch.bool, torch.uint8) for item in args[1]
    )
