"""Tensors of torch as constants, over their own memory."""

from __future__ import annotations

import numpy as np
import torch

from fxexport.language.graph import NotRead
from fxexport.language.term import Terms, Value, numpy_type

_BITS = {1: torch.uint8, 2: torch.int16}


def tensor_value(terms: Terms, tensor: torch.Tensor) -> Value:
    """The tensor as a constant.

    Raises:
        NotRead: it holds no plain elements: sparse, quantised, on no device.
    """
    # subclasses other than parameters decide themselves what their elements are
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
    if not plain or tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        raise NotRead(f"a parameter that is a {type(tensor).__name__} of layout {tensor.layout}")
    name = str(tensor.dtype).removeprefix("torch.")
    kept = tensor.detach().resolve_conj().resolve_neg().cpu()
    try:
        array = kept.numpy()
    except TypeError:
        bits = _BITS.get(kept.element_size())
        if bits is None:
            raise NotRead(f"a parameter of type {name}") from None
        array = kept.view(bits).numpy().view(numpy_type(name))
    return terms.constant(np.asarray(array), dtype=name)
