"""Heads before their pool."""

from __future__ import annotations

import dataclasses
from typing import Any

from fxpasses.passes.in_place import InPlacePass
from fxpasses.report import Form


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PoolToDense(InPlacePass):
    """Moves the average pool of every head below its convolutions, in place.

    ``conv_1(avgpool(u)) = avgpool(conv_1(u))``: an average commutes with a map that is affine and the same at
    every position. So do batch norms and dropouts in eval mode, sums, and products with a number. Linears
    become convolutions first. Before the pool there is then a map of scores, ``[N, K, H, W]``, whose mean
    the logits are. Values that leave the head elsewhere (two logits, features that are returned) get a
    pool each.

    Before → after:

    >>> from torch import fx, nn
    >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    >>> graph_module = fx.symbolic_trace(model)
    >>> PoolToDense()(graph_module).modified
    True
    >>> [str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"]
    ['2', '0', '1']
    >>> graph_module.get_submodule("2")
    Conv2d(8, 3, kernel_size=(1, 1), stride=(1, 1))

    When not: a nonlinearity between pool and logits (``NONLINEAR``: VGG, MobileNetV3), a pool to a grid
    (``POOL_GRID``), a maximum, a sum or an average of tokens (``POOL_KIND``), dropout or batch norm in train
    mode (``TRAIN_MODE``), a squeeze-excite branch (``SIDE_BRANCH``), and all that ``LinearToConv`` refuses.
    In train mode the result would draw a dropout mask for every position: it is a form for inference.

    Numerics: both forms sum the same products in another order. With ``P`` positions, ``C`` channels and
    ``m`` the mean over positions of ``|W|·|x|``, each lies within ``γ_n · (m + |b|)`` of the exact logits,
    ``n = C + P + 2``, so that they differ by at most twice that (Higham, *Accuracy and Stability of
    Numerical Algorithms*, §3.1).

    Attributes:
        scope: ``"head"``; in ``"pooled"`` the side branches are refused one by one.
        example_inputs: see ``fxpasses.rewrite``.
        outputs: ``("logits",)`` or ``("logits", "map")``; see ``fxpasses.rewrite``.
    """

    to = Form.DENSE
    scope: str = "head"
    example_inputs: Any = None
    outputs: tuple[str, ...] = ("logits",)
