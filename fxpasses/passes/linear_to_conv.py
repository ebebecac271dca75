"""Pooled Linears as convolutions."""

from __future__ import annotations

import dataclasses
from typing import Any

from fxpasses.passes.in_place import InPlacePass
from fxpasses.report import Form


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LinearToConv(InPlacePass):
    """Writes every pooled Linear of a graph as a convolution, in place.

    ``linear(v) = flatten(conv_k(unflatten(v)))``: the weight ``[O, C·∏k]`` is viewed as ``[O, C, *k]``, and
    the flatten before it cancels with the unflatten.

    Before → after:

    >>> from torch import fx, nn
    >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    >>> graph_module = fx.symbolic_trace(model)
    >>> [str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"]
    ['0', '1', '2']
    >>> LinearToConv()(graph_module).modified
    True
    >>> [str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"]
    ['0', '2', '1']
    >>> graph_module.get_submodule("2")
    Conv2d(8, 3, kernel_size=(1, 1), stride=(1, 1))

    When not: see ``fxpasses.MissCode``; what is refused stays untouched.

    Numerics: the same products and sums, in an order of the kernel's choosing: equal up to the rounding
    of a dot product of ``C·∏k`` terms. PyTorch's default on CUDA is TF32 for convolutions and not for
    matrix products, so on CUDA the result is less precise unless
    ``torch.backends.cudnn.allow_tf32 = False``.

    Attributes:
        scope: ``"head"``, ``"pooled"`` or ``"all"``.
        example_inputs: see ``fxpasses.rewrite``.
    """

    to = Form.CONV
    scope: str = "head"
    example_inputs: Any = None
