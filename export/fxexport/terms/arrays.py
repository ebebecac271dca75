"""Tensors as NumPy arrays on the host, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import ml_dtypes
import numpy as np
import torch
from onnx_ir.tensor_adapters import TorchTensor

from fxexport.terms.term import Array


def numpy_of(tensor: torch.Tensor) -> Array:
    """The tensor's values as an array on the host, sharing memory where they lie there one by one."""
    host = tensor.detach().cpu().resolve_conj().resolve_neg()
    host = host.dequantize() if host.is_quantized else host.to_dense()  # which leaves others as they are
    return TorchTensor(host).numpy()  # NumPy has no bfloat16 of its own


def tensor_of(array: Array) -> torch.Tensor:
    """The array's values as a tensor, sharing memory."""
    plain = np.ascontiguousarray(array)
    if plain.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(plain.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(plain)


def arrays_of(values: Iterable[object]) -> tuple[Array, ...]:
    """Those of ``values`` that are tensors, as arrays."""
    return tuple(numpy_of(value) for value in values if isinstance(value, torch.Tensor))


def nudge(array: Array, by: float, rng: np.random.Generator) -> Array:
    """Every number changed by a relative ``by``, up or down at random; integers as they are."""
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        return array
    wide = np.float64 if array.dtype == np.float64 or by < np.finfo(np.float32).eps else np.float32
    factors = (1 + by * rng.choice((-1.0, 1.0), min(array.size, _DRAWN))).astype(wide)
    flat, changed = array.reshape(-1), np.empty(array.size, array.dtype)
    for start in range(0, flat.size, _DRAWN):
        part: Array = flat[start : start + _DRAWN].astype(wide, copy=False)
        changed[start : start + _DRAWN] = np.multiply(part, factors[: part.size])
    return changed.reshape(array.shape)


_DRAWN = 2**16 + 1
"""So many signs are drawn, and used again: 10^8 take seconds. Odd, so that rows do not get the same ones."""


def is_chosen(operator: str, results: Array, read: Sequence[Array]) -> bool:
    """Whether no rounding has made the numbers: every one is among those that are read, or zero.

    Of sums that is not said: of 2^100 and 6 it is what rounding left.
    """
    held = [array.reshape(-1) for array in read if array.dtype.kind in "fiub"]
    is_sum = any(word in operator.lower() for word in ("add", "sub", "sum"))
    return not is_sum and bool(np.isin(results, np.concatenate([*held, [0.0]])).all())
