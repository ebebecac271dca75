"""Whether code asks for the values of tensors: what it does then may be no part of a recording."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode

_ASKS = frozenset(
    "item tolist numpy equal allclose is_nonzero data_ptr untyped_storage __array__ __bool__ __complex__ "
    "__contains__ __dlpack__ __float__ __format__ __index__ __int__ __repr__".split()
)


class ReadsValues(TorchFunctionMode):
    """Notes within it by which function values were asked for.

    Recording refuses such code; but what catches the refusal, or tells the tensors of a recording from those
    of a run before it asks, is recorded as if it had not asked.

    Attributes:
        by: the function's name; None where nobody asked.
    """

    def __init__(self) -> None:
        """Nobody has asked yet."""
        super().__init__()
        self.by: str | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _ASKS:
            self.by = self.by or name
        return func(*args, **(kwargs or {}))
