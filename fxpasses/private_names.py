"""Names that torch keeps to itself and that this package cannot do without, each with the reason.

They may change with any release of torch; this is the only file that imports them, so that one look says
what to try with a new one. Names of operators (``torch.ops.aten._unsafe_view``) are none of them.
"""

from torch._C import _functorch as FUNCTORCH
from torch._dispatch.python import enable_python_dispatcher
from torch._guards import detect_fake_mode
from torch._ops import HigherOrderOperator, OpOverload
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    in_kernel_invocation_manager,
)
from torch.fx.graph import _PyTreeCodeGen as PyTreeCodeGen
from torch.nn.modules.conv import _ConvNd as ConvNd
from torch.utils import _pytree as pytree

__all__ = [
    "FUNCTORCH",  # what torch.vmap has begun, and what fails inside of it leaves so
    "ConvNd",  # the base of all convolutions; the public ones have no common ancestor
    "DataDependentOutputException",  # a model whose shapes hang on its values
    "DynamicOutputShapeException",  # the same, of operators such as nonzero
    "FakeTensor",  # what torch.export leaves as meta["val"]
    "FakeTensorMode",  # shapes of a graph without computing it
    "HigherOrderOperator",  # torch.cond and autocast regions have no public type
    "OpOverload",  # the type of every operator in an ATen graph
    "PyTreeCodeGen",  # how a graph takes and gives nested values
    "detect_fake_mode",  # a new value has to be of the mode of those beside it
    "enable_python_dispatcher",  # without it some kernels make symbolic sizes numbers
    "in_kernel_invocation_manager",  # views of fake tensors without their dispatch, which is slow
    "pytree",  # torch.export's specs of inputs and outputs are of this module
]
