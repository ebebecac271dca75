"""Convolutions as matrix products of their patches (im2col)."""

from __future__ import annotations

import dataclasses

from fxpasses.passes.in_place import InPlacePass
from fxpasses.report import Form, Scope


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ConvToUnfold(InPlacePass):
    """Writes every ``Conv2d`` of a graph as unfold, Linear and the view of a map, in place.

    ``conv_k(u) = fold_shape(linear(unfold(u)))``: a column holds the ``C·kh·kw`` numbers of a patch, and the
    weight ``[O, C, kh, kw]`` is viewed as ``[O, C·kh·kw]``. Any kernel, stride, dilation and padding; what
    unfold cannot pad itself (another mode than zeros, the odd row of ``padding='same'``) is padded before.

    Before → after:

    >>> import torch
    >>> from torch import fx, nn
    >>> graph_module = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1)))
    >>> ConvToUnfold()(graph_module).modified
    True
    >>> print(graph_module.code.strip().splitlines()[-2].partition(";")[0].strip())
    unflatten = torch.unflatten(contiguous, -1, [size, size_1])
    >>> graph_module.get_submodule("0")
    Linear(in_features=27, out_features=8, bias=True)
    >>> graph_module(torch.zeros(2, 3, 9, 5)).shape
    torch.Size([2, 8, 9, 5])

    Memory: the columns are ``kh·kw / (sh·sw)`` times the map that is unfolded, and a batch of them is copied
    once more by torch's product; ``rewrite(…).report.memory`` says how many bytes before anything runs.

    When not: groups (``GROUPS``), transposed convolutions (``TRANSPOSED``), those of one or three dimensions
    (``RANK``), and modules or weights that cannot change their shape (see ``fxpasses.MissCode``).

    Numerics: equal up to the rounding of a dot product of ``C·kh·kw`` terms.
    """

    to = Form.UNFOLD
    scope = Scope.UNFOLDED
