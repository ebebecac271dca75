"""The passes, one small frozen dataclass a file, in the ``torch.fx`` PassBase convention."""

from fxpasses.passes.conv_to_linear import ConvToLinear
from fxpasses.passes.head_to_fcn import HeadToFcn
from fxpasses.passes.linear_to_conv import LinearToConv
from fxpasses.passes.pool_to_dense import PoolToDense

__all__ = ["ConvToLinear", "HeadToFcn", "LinearToConv", "PoolToDense"]
