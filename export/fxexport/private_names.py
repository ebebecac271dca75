"""Names that torch keeps to itself and that more than one room may need, each with the reason.

They may change with any release of torch. What is heavy to import, or belongs to one library, stands in the
``private_names`` of the one room that needs it.
"""

from torch import _meta_registrations as META
from torch._C import DisableTorchFunction
from torch._C import _jit_get_all_schemas as all_schemas
from torch._C import _linalg as C_LINALG  # type: ignore[attr-defined]
from torch._C import _nn as C_NN
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "C_LINALG",  # graphs of torch.compile name its functions
    "C_NN",  # graphs of torch.compile name its functions
    "META",  # torch 2.11 asks it for remainders, which then bind the sizes of what is recorded
    "DisableTorchFunction",  # hides what is asked of a tensor from those who note what a run calls
    "TorchDispatchMode",  # sees every operator that a module runs, also those behind functions of C++
    "all_schemas",  # which operators exist, without running what a file names
]
