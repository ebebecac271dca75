"""Matrix products of unfolded patches as convolutions."""

from __future__ import annotations

import dataclasses
from typing import Any

from fxpasses.passes.in_place import InPlacePass
from fxpasses.report import Form, Scope


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class UnfoldToConv(InPlacePass):
    """Writes every matrix product of unfolded patches as a ``Conv2d`` again, in place.

    What ``ConvToUnfold`` wrote is taken back exactly. What was written by hand is recognised by its axes:
    unfold gives ``[N, K, L]``, a product with a weight (``@``, ``matmul``, ``einsum``, ``F.linear``,
    ``nn.Linear``) makes ``K`` into ``O``, and a view makes ``L`` into height and width, in any order and with
    permutes between.

    Before → after:

    >>> import torch
    >>> from torch import fx, nn
    >>> import torch.nn.functional as F
    >>> class ByHand(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.weight = nn.Parameter(torch.randn(8, 3, 3, 3))
    ...     def forward(self, x):
    ...         out = self.weight.view(8, -1) @ F.unfold(x, 3)
    ...         return out.view(-1, 8, x.size(2) - 2, x.size(3) - 2)
    >>> graph_module = fx.symbolic_trace(ByHand())
    >>> UnfoldToConv()(graph_module).modified
    True
    >>> [node.name for node in graph_module.graph.nodes], graph_module.graph.find_nodes(
    ...     op="call_function", target=F.conv2d)[0].args[3:]
    (['x', 'weight', 'matmul', 'output'], ((1, 1), (0, 0), (1, 1)))

    When not: sizes that are not computed from those of the unfolded map, unless the example inputs show
    that they are right (``UNKNOWN_LAYOUT``, ``UNKNOWN_EXTENT``), a batch size written as a number
    (``BAKED_BATCH``), a map that is written to in place in between (``IN_PLACE_ALIAS``), a weight that
    something else needs as it is (``TIED_WEIGHT``, ``SHARED_MODULE``). Products of columns with anything but
    a parameter are no candidates.

    Numerics: equal up to the rounding of a dot product of ``C·kh·kw`` terms.

    Attributes:
        example_inputs: see ``fxpasses.rewrite``.
    """

    to = Form.CONV
    scope = Scope.UNFOLDED
    example_inputs: Any = None
