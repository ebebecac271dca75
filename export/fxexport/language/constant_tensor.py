"""Tensors of torch and of ONNX as constants, over their own memory."""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable

import numpy as np
import torch
from onnx import SparseTensorProto, TensorProto

from fxexport.language.foreign import foreign
from fxexport.language.graph import NotRead
from fxexport.language.term import Array, Terms, Value, numpy_type
from fxexport.onnx_node import array_of, is_external
from fxexport.untrusted.limits import MAX_EXPANDED_ELEMENTS

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


def sparse_value(terms: Terms, sparse: SparseTensorProto) -> Value:
    """A tensor of zeros but for some elements as a constant; what is none equals its twin's bytes only."""
    array = _written_out(sparse)
    name, dims = type_name(sparse.values.data_type), tuple(sparse.dims)
    if array is not None:
        return terms.constant(array, dtype=name)
    stored: tuple[Hashable, ...] = ("sparse", sparse.SerializeToString(deterministic=True))
    return foreign(terms, stored, [], [(name, dims)], is_random=False)[0]


def _written_out(sparse: SparseTensorProto) -> Array | None:
    """All elements; None where there are too many of them, or they are not told as ONNX asks for."""
    cells = math.prod(sparse.dims)
    is_held = not (is_external(sparse.values) or is_external(sparse.indices))
    is_typed = sparse.values.data_type != TensorProto.STRING and sparse.indices.data_type == TensorProto.INT64
    is_small = cells - math.prod(sparse.values.dims) <= MAX_EXPANDED_ELEMENTS
    if min(sparse.dims, default=0) < 1 or not (is_held and is_typed and is_small):
        return None
    try:
        values, places = array_of(sparse.values), array_of(sparse.indices)
    except (TypeError, ValueError, KeyError):
        return None
    if places.ndim == 2 and places.shape[1] == len(sparse.dims):
        if not np.all((places >= 0) & (places < np.array(sparse.dims))):
            return None
        places = np.ravel_multi_index(tuple(places.T), tuple(sparse.dims))
    if values.ndim != 1 or places.shape != values.shape:
        return None
    if values.size and not (places[0] >= 0 and places[-1] < cells and np.all(np.diff(places) > 0)):
        return None
    found = np.zeros(cells, values.dtype)
    found[places] = values
    return found.reshape(tuple(sparse.dims))


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
