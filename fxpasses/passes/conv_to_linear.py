"""Pooled convolutions as Linears."""

from __future__ import annotations

import dataclasses
from typing import Any

from fxpasses.passes.in_place import InPlacePass
from fxpasses.report import Form


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ConvToLinear(InPlacePass):
    """Writes every pooled convolution of a graph as a Linear, in place.

    ``conv_k(u) = unflatten(linear(flatten(u)))`` where the kernel covers the whole map, without padding
    and with one group; the unflatten cancels with the flatten after it.

    Before → after:

    >>> import torch
    >>> from torch import fx, nn
    >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 3, 1), nn.Flatten())
    >>> graph_module = fx.symbolic_trace(model)
    >>> ConvToLinear()(graph_module).modified
    True
    >>> [str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"]
    ['0', '2', '1']
    >>> graph_module.get_submodule("1")
    Linear(in_features=8, out_features=3, bias=True)

    In scope ``"all"`` a 1×1 convolution on a whole map is a Linear on the permuted map; one-hot inputs, of
    which every product is exact, agree bit for bit:

    >>> conv = nn.Conv2d(3, 6, 1)
    >>> linear = ConvToLinear(scope="all")(fx.symbolic_trace(nn.Sequential(conv))).graph_module
    >>> one_hot = torch.zeros(2, 3, 24, 24).scatter_(1, torch.randint(3, (2, 1, 24, 24)), 1.0)
    >>> torch.equal(linear(one_hot), conv(one_hot))
    True
    >>> by_hand = nn.functional.linear(one_hot.permute(0, 2, 3, 1), conv.weight.view(6, 3), conv.bias)
    >>> torch.equal(linear(one_hot), by_hand.permute(0, 3, 1, 2))
    True

    When not: see ``fxpasses.MissCode``; what is refused stays untouched. A k×k kernel in
    ``torch.channels_last`` memory has to be copied; the report says so.

    Numerics: equal up to the rounding of a dot product of ``C·∏k`` terms.

    Attributes:
        scope: ``"head"``, ``"pooled"`` or ``"all"``.
        example_inputs: see ``fxpasses.rewrite``.
    """

    to = Form.LINEAR
    scope: str = "head"
    example_inputs: Any = None
