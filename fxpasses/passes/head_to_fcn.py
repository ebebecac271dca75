"""Heads on every window of a larger map."""

from __future__ import annotations

import dataclasses
from typing import Any

from fxpasses.passes.in_place import InPlacePass
from fxpasses.report import Form


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class HeadToFcn(InPlacePass):
    """Makes every head slide over the map in windows of the native size, one position at a time, in place.

    With ``H`` the extent of the map at the native size and ``k`` that of the pooled grid, ``m = H / k``: the
    pool becomes an average over ``m`` positions at stride 1 (nothing where ``m`` is 1), the convolution that
    reads the grid is dilated by ``m``, and the flatten goes. At the native size the result is the logits as
    ``[N, K, 1, 1]``; at a larger one, the value at each position is what the head gives for the window of the
    map that starts there. What stands between pool and logits may be nonlinear (VGG, MobileNetV3).

    Before → after:

    >>> import torch
    >>> from torch import fx, nn
    >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    >>> graph_module = fx.symbolic_trace(model)
    >>> HeadToFcn(example_inputs=torch.randn(2, 8, 7, 7))(graph_module).modified
    True
    >>> [node.name for node in graph_module.graph.nodes]
    ['input_1', 'avg_pool2d', '_2', 'output']
    >>> graph_module(torch.randn(2, 8, 9, 7)).shape
    torch.Size([2, 3, 3, 1])

    When not: the native size is not known (``NATIVE_SIZE``); the native map is no multiple of the grid
    (``WINDOW``); a maximum, a sum or an average of tokens (``POOL_KIND``); an op after the pool that looks at
    more than one position (``NOT_A_MAP``); and all that ``LinearToConv`` refuses. An input below the native
    size is an error of the pool or of the convolution when it runs, and of ``fxpasses.fcn.native_size``
    before.

    Numerics: at the native size equal up to the rounding of a dot product of ``C·∏k`` terms.

    Attributes:
        scope: ``"head"``; in ``"pooled"`` the side branches are refused one by one.
        example_inputs: inputs of the native size; needed where the graph does not know its shapes.
    """

    to = Form.FCN
    scope: str = "head"
    example_inputs: Any = None
