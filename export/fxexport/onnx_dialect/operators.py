"""ONNX operators as targets of a ``torch.fx`` graph.

Operators that an ATen operator equals are written as that one (``reading``), so that the passes can edit
them. Every other one is a call of an ``Operator``, which keeps its node; those that are functions of every
element are known as such to the vocabulary.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from fxpasses.vocabulary import handlers
from fxpasses.vocabulary.tables import FUNCTIONS

ELEMENTWISE = frozenset(
    (
        "Abs Acos Acosh And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil "
        "Celu Clip Cos Cosh DequantizeLinear Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid "
        "HardSwish IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Neg Not Or Pow "
        "QuantizeLinear Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sum "
        "Swish Tan Tanh ThresholdedRelu Where Xor"
    ).split()
)
"""Functions of every element: of one operand, or of several that are broadcast."""


def is_along(axis: int, rank: int, opset: int) -> bool:
    """Whether a softmax is one along its axis; before opset 13 it was one of all axes from this one on."""
    return opset >= 13 or (rank > 0 and axis % rank == rank - 1)


_QUANTIZED = ("fxhead", "QuantizedWeight")


class Operator:
    """An ONNX operator, as the target of a call whose arguments are the node's inputs.

    With ``calls_affine`` it is one that calls a graph or a function of the file that has an affine operator;
    ``along`` is the axis along which its numbers differ, of one that has them by a vector.
    """

    def __init__(
        self, domain: str, op_type: str, *, calls_affine: bool = False, along: int | None = None
    ) -> None:
        self.domain = domain
        self.op_type = op_type
        self.calls_affine = calls_affine
        self.__name__ = op_type or "absorbed"
        self.__module__ = "onnx"
        self.dequantizes = (domain, op_type) == _QUANTIZED
        self.is_foreign = calls_affine or along not in (None, 1) or bool(domain) or op_type not in ELEMENTWISE

    def __repr__(self) -> str:
        return f"{self.domain}::{self.op_type}" if self.domain else self.op_type

    def __call__(self, *operands: Any) -> torch.Tensor:
        """What a function of every element gives, as far as its shape goes."""
        tensors = [operand for operand in operands if isinstance(operand, torch.Tensor)]
        result = tensors[0]
        for tensor in tensors[1:]:
            result = torch.where(torch.ones_like(result, dtype=torch.bool), result, tensor)
        return result


@functools.cache
def operator(domain: str, op_type: str, *, calls_affine: bool = False, along: int | None = None) -> Operator:
    """The one target that stands for an operator; the vocabulary knows those of every element or channel."""
    made = Operator(domain, op_type, calls_affine=calls_affine, along=along)
    if not made.is_foreign:
        FUNCTIONS[made] = handlers.elementwise if along is None else handlers.channelwise
    return made


QUANTIZED = operator(*_QUANTIZED)
"""Stands between a quantised weight and the operator that reads it."""
