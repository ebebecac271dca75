"""What users import: rewrite a classifier's head, export both forms, and prove that they are one function.

>>> import torch
>>> from fxhead import rewrite
>>> head = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 3))
>>> rewrite(head, to="conv").report.rewrites[0].after
'Conv2d(8, 3, kernel_size=(1, 1))'

Everything is handed on from where it is made: the passes from ``fxpasses`` (for ONNX models from
``fxexport``), export and certificate from ``fxexport``, rules for files (no code in a file is run unless
asked for, an output appears whole or not at all) from ``fxhead.api``. Names are imported on first use, since
they import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxexport import Certificate, Verdict, available_providers, certify, export_onnx
    from fxhead.api import find_sites, load_model, rewrite, save_model
    from fxpasses import (
        ConvToLinear,
        ConvToUnfold,
        Form,
        FxHeadError,
        HeadToFcn,
        LinearToConv,
        Miss,
        MissCode,
        PoolToDense,
        Rewrite,
        RewriteReport,
        RewriteResult,
        Scope,
        Site,
        Sites,
        UnfoldToConv,
        WeightPlan,
    )

__all__ = [
    "Certificate",
    "ConvToLinear",
    "ConvToUnfold",
    "Form",
    "FxHeadError",
    "HeadToFcn",
    "LinearToConv",
    "Miss",
    "MissCode",
    "PoolToDense",
    "Rewrite",
    "RewriteReport",
    "RewriteResult",
    "Scope",
    "Site",
    "Sites",
    "UnfoldToConv",
    "Verdict",
    "WeightPlan",
    "available_providers",
    "certify",
    "export_onnx",
    "find_sites",
    "load_model",
    "rewrite",
    "save_model",
]
__version__ = "0.1.0"

_HOMES = dict.fromkeys(("find_sites", "load_model", "rewrite", "save_model"), "fxhead.api")
_HOMES |= dict.fromkeys(
    ("Certificate", "Verdict", "available_providers", "certify", "export_onnx"), "fxexport"
)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fxhead' has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "fxpasses")), name)
