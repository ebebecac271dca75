"""A module's operators in float64, whatever types its code asks for."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fxexport.private_names import TorchDispatchMode
from fxexport.terms.arrays import is_chosen, numpy_of
from fxexport.terms.term import Array
from fxpasses.private_names import pytree

_SHORT = (torch.float32, torch.float16, torch.bfloat16)


class InFloat64(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its __init_subclass__
    """Within it shorter floats are widened where they are read, and none is made by a cast.

    So that a softmax that is asked for in float32 leaves no roundings of float32. Numbers in the code are
    those of float32 all the same, as files hold them.

    Args:
        rounding: by what share each operator's results are changed, up or down at random.

    Raises:
        TypeError: something is written to a tensor of shorter floats, which would round it.
    """

    def __init__(self, rounding: float = 0.0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self._rounding = rounding
        self._random = torch.Generator().manual_seed(0)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The operator on what was widened."""
        if func._schema.is_mutable:
            written = [arg for arg in args[:1] if isinstance(arg, torch.Tensor) and arg.dtype in _SHORT]
            if written:
                raise TypeError("it writes to a tensor of shorter floats")
        given = _widened(args), _widened(kwargs or {})
        result = func(*given[0], **given[1])
        if not self._rounding or any(item.alias_info is not None for item in func._schema.returns):
            return result
        read = [numpy_of(leaf) for leaf in pytree.tree_leaves(given) if isinstance(leaf, torch.Tensor)]
        read += [np.asarray(leaf) for leaf in pytree.tree_leaves(given) if isinstance(leaf, int | float)]
        return pytree.tree_map(lambda item: self._rounded(func._schema.name, item, read), result)

    def _rounded(self, operator: str, item: Any, read: Sequence[Array]) -> Any:
        if not isinstance(item, torch.Tensor) or item.dtype is not torch.float64:
            return item
        if is_chosen(operator, numpy_of(item), read):
            return item
        signs = torch.randint(0, 2, item.shape, generator=self._random).to(item.device) * 2 - 1
        return item * (1 + self._rounding * signs)


class Kept(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its __init_subclass__
    """Within it the floats that operators give are kept, by place and name, but for those of views and casts.

    Attributes:
        values: those, as they were when they were given.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values: dict[str, Array] = {}
        self._count = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The operator as it is."""
        found = func(*args, **kwargs or {})
        if not func.is_view and func is not torch.ops.aten._to_copy.default:
            self._count += 1
            for place, item in enumerate(found if isinstance(found, list | tuple) else [found]):
                if isinstance(item, torch.Tensor) and item.is_floating_point():
                    self.values[f"{self._count} {func} {place}"] = numpy_of(item).copy()
        return found


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float64 if it holds floats."""
    return tensor.double() if tensor.is_floating_point() else tensor


def _widened(item: Any) -> Any:
    if isinstance(item, list | tuple):
        return type(item)(map(_widened, item))
    if isinstance(item, dict):
        return {name: _widened(value) for name, value in item.items()}
    if isinstance(item, float):
        short = ctypes.c_float(item).value
        return short if math.isfinite(short) else item
    if isinstance(item, torch.dtype):
        return torch.float64 if item in _SHORT else item
    return item.double() if isinstance(item, torch.Tensor) and item.dtype in _SHORT else item
