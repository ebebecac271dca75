"""The passes, one small frozen dataclass a file, in the ``torch.fx`` PassBase convention."""

from fxpasses.passes.conv_to_linear import ConvToLinear
from fxpasses.passes.linear_to_conv import LinearToConv

__all__ = ["ConvToLinear", "LinearToConv"]
