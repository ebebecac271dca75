"""The passes, one small frozen dataclass a file, in the ``torch.fx`` PassBase convention.

May import: ``api``, ``report``. Start in ``linear_to_conv``.
"""

from fxpasses.passes.conv_to_linear import ConvToLinear
from fxpasses.passes.conv_to_unfold import ConvToUnfold
from fxpasses.passes.head_to_fcn import HeadToFcn
from fxpasses.passes.linear_to_conv import LinearToConv
from fxpasses.passes.pool_to_dense import PoolToDense
from fxpasses.passes.unfold_to_conv import UnfoldToConv

__all__ = ["ConvToLinear", "ConvToUnfold", "HeadToFcn", "LinearToConv", "PoolToDense", "UnfoldToConv"]
