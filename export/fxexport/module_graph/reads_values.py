"""Whether code asks for the values of tensors: what it does then may be no part of a recording."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Self

from torch.overrides import TorchFunctionMode

from fxexport.language.kernels import Kernels

_ASKS = frozenset(
    "numpy tolist allclose equal data_ptr untyped_storage __array__ __contains__ __dlpack__ __format__ "
    "__reduce_ex__ __repr__".split()
)
"""What reads memory by no operator, or is no operator of its own."""


class ReadsValues(TorchFunctionMode):
    """Notes within it by which function values were asked for.

    Recording refuses such code; but what catches the refusal, or tells the tensors of a recording from those
    of a run before it asks, is recorded as if it had not asked.

    Attributes:
        kernels: the operators that were run.
        calls: how often each function was called.
    """

    def __init__(self) -> None:
        """Nobody has asked yet."""
        super().__init__()
        self.kernels = Kernels()
        self.calls: Counter[str] = Counter()
        self._by: str | None = None

    @property
    def by(self) -> str | None:
        """The function that asked; None where nobody did."""
        return self._by or self.kernels.asked

    def is_other(self, run: ReadsValues) -> bool:
        """Whether another run took other operators, and called other functions: else torch chose kernels."""
        return self.kernels.counts != run.kernels.counts and self.calls != run.calls

    def __enter__(self) -> Self:
        """Both modes."""
        self.kernels.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        """Both modes end."""
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        self.kernels.__exit__(*raised)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        self.calls[name] += 1
        if name in _ASKS:
            self._by = self._by or name
        return func(*args, **(kwargs or {}))
