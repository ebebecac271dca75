"""Tensors of torch and of ONNX as constants, over their own memory."""

from __future__ import annotations

import functools
from collections.abc import Hashable

import numpy as np
import torch
from onnx import TensorProto

from fxexport.language.foreign import foreign
from fxexport.language.graph import NotRead
from fxexport.language.term import Array, Terms, Value, numpy_type
from fxexport.onnx_node import array_of, is_external

_BITS = {1: torch.uint8, 2: torch.int16}


def torch_value(terms: Terms, tensor: torch.Tensor) -> Value:
    """The tensor as a constant.

    Raises:
        NotRead: it holds no plain elements: sparse, quantised, on no device, wrapped by torch.func.
    """
    # subclasses other than parameters decide themselves what their elements are
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
    if not plain or tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        raise NotRead(f"a parameter that is a {type(tensor).__name__} of layout {tensor.layout}")
    name = str(tensor.dtype).removeprefix("torch.")
    kept = tensor.detach().resolve_conj().resolve_neg().cpu()
    try:
        array = kept.numpy()
    except RuntimeError as error:  # what torch.func left, which says that it is a plain tensor
        raise NotRead(f"a tensor without elements of its own ({error})") from error
    except TypeError:
        bits = _BITS.get(kept.element_size())
        if bits is None:
            raise NotRead(f"a parameter of type {name}") from None
        array = kept.view(bits).numpy().view(numpy_type(name))
    return terms.constant(np.asarray(array), dtype=name)


def onnx_value(terms: Terms, tensor: TensorProto, values: Array | None = None) -> Value:
    """A stored tensor as a constant; one of no known elements equals its twin's bytes only.

    ``values``: those of a tensor that does not hold its own.
    """
    name = type_name(tensor.data_type)
    if values is not None:
        return terms.constant(values, dtype=name)
    if is_external(tensor):
        raise NotRead(f"the data of {tensor.name} lie outside of the model that was given")
    if name == "string":
        key = ("strings", tuple(tensor.dims), tuple(tensor.string_data))
        return foreign(terms, key, [], [(name, tuple(tensor.dims))], is_random=False)[0]
    try:
        array = array_of(tensor)
    except (TypeError, ValueError, KeyError):
        copy = TensorProto()
        copy.CopyFrom(tensor)
        copy.ClearField("name")
        copy.ClearField("doc_string")
        stored: tuple[Hashable, ...] = ("stored", copy.SerializeToString(deterministic=True))
        return foreign(terms, stored, [], [(name, tuple(tensor.dims))], is_random=False)[0]
    return terms.constant(np.asarray(array), dtype=name)


@functools.cache
def type_name(code: int) -> str:
    """The element type's name: ``float32``.

    Raises:
        NotRead: there is no such type.
    """
    if code == TensorProto.STRING:
        return "string"
    if code not in TensorProto.DataType.values():
        raise NotRead(f"a value is of the type {code}, which ONNX has not")
    names: dict[str, str] = {"FLOAT": "float32", "DOUBLE": "float64"}
    name = str(TensorProto.DataType.Name(code))
    return names.get(name, name.lower())
