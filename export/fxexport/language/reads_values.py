"""Whether code asks for the values of tensors: what it does then may be no part of a recording."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import nn

from fxexport.language.calls import Calls, name_of
from fxexport.private_names import TorchDispatchMode

_ASKS = frozenset(
    "numpy tolist allclose equal data_ptr untyped_storage __array__ __contains__ __dlpack__ __format__ "
    "__reduce_ex__ __repr__ is_inference is_pinned is_shared "
    "_version".split()
)
"""What reads memory by no operator, or is no operator of its own, or asks where a tensor comes from."""
_TELL = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""Operators that give a number, or as many cells as values say."""


class ReadsValues(Calls):
    """Notes what is called within it, and by which function values were asked for.

    Recording refuses such code; but what catches the refusal, or tells the tensors of a recording from those
    of a run before it asks, is recorded as if it had not asked.
    """

    def __init__(self, module: nn.Module, inputs: Sequence[torch.Tensor]) -> None:
        """Nobody has asked yet."""
        super().__init__(module, inputs)
        self._operators = _Operators()
        self._by: str | None = None

    @property
    def by(self) -> str | None:
        """The function that asked; None where nobody did."""
        return self._by or self._operators.asked

    def __enter__(self) -> Self:
        """Both modes."""
        self._operators.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        """Both modes end."""
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        self._operators.__exit__(*raised)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = name_of(func).removeprefix("__get__ ")
        if name in _ASKS:
            self._by = self._by or name
        asked = self._operators.asked
        result = super().__torch_function__(func, types, args, kwargs)
        given = args[1:2] or [(kwargs or {}).get("num_classes", -1)]
        if func is F.one_hot and given[0] >= 0:  # else the largest value tells how many classes there are
            self._operators.asked = asked  # whether there are so many: it fails if there are not
        return result


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its __init_subclass__
    """Notes the first operator within it that tells values."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.asked: str | None = None

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if _TELL & set(func.tags) and not _is_by_places(func, args):
            self.asked = self.asked or func.overloadpacket.__name__.strip("_")
        return func(*args, **(kwargs or {}))


def _is_by_places(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether cells are taken by their places: as many as there are places, whatever these are."""
    return func is torch.ops.aten.index.Tensor and not any(
        item is not None and item.dtype in (torch.bool, torch.uint8) for item in args[1]
    )
