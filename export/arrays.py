"""Tensors as NumPy arrays on the host."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from export.terms import Array


def numpy_of(tensor: torch.Tensor) -> Array:
    """The tensor's values as an array on the host, sharing memory where NumPy has the type.

    bfloat16, which NumPy lacks, becomes float32 (exactly).
    """
    host = tensor.detach().cpu()
    array: Array = (host.float() if host.dtype == torch.bfloat16 else host).numpy()
    return array


def arrays_of(values: Iterable[object]) -> tuple[Array, ...]:
    """Those of ``values`` that are tensors, as arrays."""
    return tuple(numpy_of(value) for value in values if isinstance(value, torch.Tensor))
