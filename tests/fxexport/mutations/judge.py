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
_SINGLE_EXPONENTS = (0, 48, 100)
"""Of inputs that float32 has."""
_ROUNDING = 2.0**-44
"""Largest relative difference of two evaluations in float64 of one function."""
_HIDDEN = 2.0**-24
"""Half a unit of float32: outputs no further apart are the same there, and no input of it shows them."""


class Judge:
    """Says of a damaged model whether it still computes the reference's function.

    Args:
        module: the reference.
        graph: the reference as a file's graph.
        example: images to start from.
    """

    def __init__(self, module: nn.Module, graph: onnx.ModelProto, example: Sequence[torch.Tensor]) -> None:
        self._feeds = _scaled(example, _EXPONENTS)
        self._single = _scaled(example, _SINGLE_EXPONENTS)
        self._names = _output_names(graph)
        self._inputs = [item.name for item in graph.graph.input]
        self._of_module = [_of_module(module, feed) for feed in self._feeds]
        self._of_graph = [self._evaluated(graph, feed) for feed in self._feeds]
        self._module, self._graph = module, graph

    def is_hidden_module(self, damaged: nn.Module) -> bool:
        """True if float32 has no such input on which the module differs: no verdict can show one."""
        pairs = ((_of_module(self._module, feed), _of_module(damaged, feed)) for feed in self._single)
        return all(_all_agree(*pair, _HIDDEN) for pair in pairs)

    def is_hidden_graph(self, damaged: onnx.ModelProto) -> bool:
        """True if float32 has no such input on which the graph differs: no verdict can show one."""
        pairs = (
            (self._evaluated(self._graph, feed), self._evaluated(damaged, feed)) for feed in self._single
        )
        return all(_all_agree(*pair, _HIDDEN) for pair in pairs)

    def is_same_module(self, damaged: nn.Module) -> bool:
        """True if the module computes the same, as far as float64 shows."""
        pairs = zip(self._feeds, self._of_module, strict=True)
        return all(_all_agree(expected, _of_module(damaged, feed)) for feed, expected in pairs)

    def is_same_graph(self, damaged: onnx.ModelProto) -> bool:
        """True if the graph computes the same by the same names, as far as float64 shows."""
        if set(_output_names(damaged)) != set(self._names):
            return False
        pairs = zip(self._feeds, self._of_graph, strict=True)
        return all(_all_agree(expected, self._evaluated(damaged, feed)) for feed, expected in pairs)

    def _evaluated(self, graph: onnx.ModelProto, feed: Sequence[torch.Tensor]) -> list[NDArray[np.float64]]:
        named = {name: x.numpy() for name, x in zip(self._inputs, feed, strict=True)}
        with np.errstate(all="ignore"):
            result: list[NDArray[np.float64]] = ReferenceEvaluator(_widened(graph)).run(self._names, named)
        return result


def _output_names(graph: onnx.ModelProto) -> list[str]:
    return [item.name for item in graph.graph.output]


def _of_module(module: nn.Module, feed: Sequence[torch.Tensor]) -> list[NDArray[np.float64]]:
    wide = copy.deepcopy(module).double().eval()
    with torch.no_grad():
        leaves = torch.utils._pytree.tree_leaves(wide(*(x.clone() for x in feed)))
    return [leaf.numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _all_agree(
    a: Sequence[NDArray[np.float64]], b: Sequence[NDArray[np.float64]], most: float = _ROUNDING
) -> bool:
    return len(a) == len(b) and all(_agree(*pair, most) for pair in zip(a, b, strict=True))


def _scaled(example: Sequence[torch.Tensor], exponents: Sequence[int]) -> list[list[torch.Tensor]]:
    return [[_varied(x).double() * 2.0**exponent for x in example] for exponent in exponents]


def _varied(x: torch.Tensor) -> torch.Tensor:
    """Samples that lie elsewhere as well, flat ones too, so that units which few images reach are reached."""
    flat = x[:, :, :1, :1].expand_as(x)
    return torch.cat([x, x - 2, 3 * flat, flat.flip(0) - 2 * flat])


def _agree(a: NDArray[np.float64], b: NDArray[np.float64], most: float) -> bool:
    """NaN agrees with nothing: neither model has any of its own accord."""
    with np.errstate(invalid="ignore"):
        return a.shape == b.shape and bool((np.abs(a - b) <= most * np.abs(a).max()).all())


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
