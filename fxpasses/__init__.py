"""Rewrites classifier heads between their Linear and their 1×1-convolution form.

>>> import torch
>>> from fxpasses import rewrite
>>> head = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 3))
>>> rewrite(head, to="conv").report.rewrites[0].after
'Conv2d(8, 3, kernel_size=(1, 1))'

Names are imported on first use, since most of them import torch: who needs the errors or the wall alone
does not wait for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxpasses.api import RewriteResult, find_sites, rewrite
    from fxpasses.errors import (
        CheckError,
        ExportError,
        FileError,
        FxHeadError,
        InputError,
        InternalError,
        PlanError,
        ProviderError,
        TraceError,
    )
    from fxpasses.miss_codes import MissCode
    from fxpasses.passes import ConvToLinear, ConvToUnfold, HeadToFcn, LinearToConv, PoolToDense, UnfoldToConv
    from fxpasses.plan import WeightPlan
    from fxpasses.report import (
        Form,
        Memory,
        Miss,
        Rewrite,
        RewriteReport,
        Scope,
        Site,
        SiteMemory,
        Sites,
        TraceInfo,
    )
    from fxpasses.weights.move import WeightMove, WeightOrder

__all__ = [
    "CheckError",
    "ConvToLinear",
    "ConvToUnfold",
    "ExportError",
    "FileError",
    "Form",
    "FxHeadError",
    "HeadToFcn",
    "InputError",
    "InternalError",
    "LinearToConv",
    "Memory",
    "Miss",
    "MissCode",
    "PlanError",
    "PoolToDense",
    "ProviderError",
    "Rewrite",
    "RewriteReport",
    "RewriteResult",
    "Scope",
    "Site",
    "SiteMemory",
    "Sites",
    "TraceError",
    "TraceInfo",
    "UnfoldToConv",
    "WeightMove",
    "WeightOrder",
    "WeightPlan",
    "find_sites",
    "rewrite",
]

_HOMES = {"MissCode": "miss_codes", "WeightPlan": "plan"}
_HOMES |= dict.fromkeys(("RewriteResult", "find_sites", "rewrite"), "api")
_HOMES |= dict.fromkeys(("WeightMove", "WeightOrder"), "weights.move")
_HOMES |= {name: "errors" for name in __all__ if name.endswith("Error")}
_HOMES |= {name: "passes" for name in __all__ if "To" in name}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fxpasses' has no attribute {name!r}")
    return getattr(import_module(f"fxpasses.{_HOMES.get(name, 'report')}"), name)
