"""Whether damage changed the function at all, by evaluation in float64."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

_EXPONENTS = (0, 48, 200)
"""Of the inputs: features next to nothing grow until they show beside a bias, and pass every limit."""
_ROUNDING = 2.0**-44
"""Largest relative difference of two evaluations in float64 of one function."""


def modules_agree(a: nn.Module, b: nn.Module, example: Sequence[torch.Tensor]) -> bool:
    """True if the two compute the same function, as far as float64 shows."""
    wide = [copy.deepcopy(module).double().eval() for module in (a, b)]
    for exponent in _EXPONENTS:
        feeds = [_varied(x).double() * 2.0**exponent for x in example]
        with torch.no_grad():
            left, right = (_tensors(module(*feeds)) for module in wide)
        if len(left) != len(right) or not all(map(_agree, left, right)):
            return False
    return True


def graphs_agree(a: onnx.ModelProto, b: onnx.ModelProto, example: Sequence[torch.Tensor]) -> bool:
    """True if the two compute the same function, as far as float64 shows; names of outputs count."""
    names = [[item.name for item in proto.graph.output] for proto in (a, b)]
    if set(names[0]) != set(names[1]):
        return False
    evaluators = [ReferenceEvaluator(_widened(proto)) for proto in (a, b)]
    inputs = [item.name for item in a.graph.input]
    for exponent in _EXPONENTS:
        feeds = {
            name: _varied(x).double().numpy() * 2.0**exponent for name, x in zip(inputs, example, strict=True)
        }
        with np.errstate(all="ignore"):
            left, right = (evaluator.run(names[0], feeds) for evaluator in evaluators)
        if not all(map(_agree, left, right)):
            return False
    return True


def _varied(x: torch.Tensor) -> torch.Tensor:
    """Samples that lie elsewhere as well, so that units which none of them reaches are reached."""
    return torch.cat([x, -x, x + 2, x - 2, x.flip(1) * 3 + x.roll(1, 0)])


def _tensors(result: object) -> list[NDArray[np.float64]]:
    leaves = torch.utils._pytree.tree_leaves(result)
    return [leaf.numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _agree(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    """NaN agrees with nothing: neither model has any of its own accord."""
    with np.errstate(invalid="ignore"):
        return a.shape == b.shape and bool((np.abs(a - b) <= _ROUNDING * np.abs(a).max()).all())


def _widened(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with float64 where it has float32."""
    wide = onnx.ModelProto()
    wide.CopyFrom(proto)
    del wide.graph.value_info[:]
    for tensor in wide.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*wide.graph.input, *wide.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in wide.graph.node:
        for attribute in node.attribute:
            is_cast = node.op_type == "Cast" and attribute.name == "to"
            if is_cast and attribute.i == TensorProto.FLOAT:
                attribute.CopyFrom(helper.make_attribute("to", TensorProto.DOUBLE))
    return wide
