"""Affine calls of a torch.fx graph, in any dialect, as a weight, a bias and what they read."""

from __future__ import annotations

import dataclasses
import operator

import torch
from torch import nn

from fxexport.terms.term import Shape
from fxpasses.vocabulary.ops import Affine, Op

_EXACTLY = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FxAffine:
    """An affine call of a torch.fx graph.

    Attributes:
        op: what the vocabulary says of it.
        weight: weight as it is stored, ``[O, K]`` or ``[O, C, *k]``.
        bias: ``[O]`` or None.
    """

    op: Affine
    weight: torch.Tensor
    bias: torch.Tensor | None

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Kernel of a convolution; empty for a linear."""
        return tuple(self.weight.shape[2:])


def read_affine(op: Op, root: nn.Module) -> FxAffine | None:
    """The affine call that a node is by its typed op, over the parameters of ``root``; or None.

    Cases: whatever the vocabulary calls affine over parameters as they are stored. Refused: subclasses of
    Linear and Conv (they may compute something else), parametrised weights, groups, padding, transposed
    convolutions, dilation.
    """
    if not isinstance(op, Affine) or op.weight is None or op.transposed or op.groups != 1:
        return None
    if any(op.padding):
        return None
    if op.module is not None and (type(op.module) not in _EXACTLY or "weight" not in op.module._parameters):
        return None
    weight, bias = _tensor(op.weight, root), _tensor(op.bias, root)
    if weight is None or (bias is None) != (op.bias is None) or weight.dim() != op.rank + 2:
        return None
    if any(step != 1 and extent != 1 for step, extent in zip(op.dilation, weight.shape[2:], strict=False)):
        return None
    return FxAffine(op=op, weight=weight, bias=bias)


def covers_map(site: FxAffine, operand: Shape) -> bool:
    """True if the site reads all of a sample of shape ``operand`` at once.

    Shapes:
        operand: (K,) for a linear, (C, *k) with the kernel's own extents for a convolution; of any other the
            graph gives the site what it cannot take.
    """
    return operand == (site.weight.shape[1], *site.kernel_size)


def _tensor(name: str | None, root: nn.Module) -> torch.Tensor | None:
    if name is None:
        return None
    try:
        found = operator.attrgetter(name)(root)
    except AttributeError:
        return None
    return found if isinstance(found, torch.Tensor) else None
