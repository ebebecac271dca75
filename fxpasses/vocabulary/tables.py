"""The tables of the vocabulary: which torch function, tensor method or ATen operator a handler reads."""

from __future__ import annotations

import functools
import operator
from collections.abc import Container
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F

from fxpasses.vocabulary import aten, column_handlers, handlers
from fxpasses.vocabulary.handlers import MAX_RANK
from fxpasses.vocabulary.ops import Plain

_Table: TypeAlias = dict[str, handlers.Handler]

# names that torch's functions, tensor methods and ATen operators share, with alike arguments
_ALIKE: _Table = {
    "mean": handlers.reduce(average=True),
    **dict.fromkeys(("sum", "amax", "amin"), handlers.reduce(average=False)),
    "flatten": handlers.flatten,
    "unflatten": handlers.unflatten,
    **dict.fromkeys(("view", "reshape"), handlers.view),
    "squeeze": handlers.squeeze,
    "unsqueeze": handlers.unsqueeze,
    "permute": handlers.permute,
    **dict.fromkeys(("transpose", "swapaxes"), handlers.transpose),
    "select": handlers.select,
    **dict.fromkeys(("matmul", "mm", "bmm"), column_handlers.matmul),
    "addmm": handlers.product,
    "clone": handlers.copied(Plain.COPY),
    "add": handlers.added(),
    **dict.fromkeys(("softmax", "log_softmax"), handlers.on_channels),
}
# names that torch.nn.functional and ATen share
_LAYERS: _Table = {
    name.format(rank): handler
    for rank in range(1, MAX_RANK + 1)
    for name, handler in {
        "adaptive_avg_pool{}d": handlers.adaptive_pool(rank, average=True),
        "adaptive_max_pool{}d": handlers.adaptive_pool(rank, average=False),
        "avg_pool{}d": handlers.window_pool(rank, average=True),
        "max_pool{}d": handlers.window_pool(rank, average=False),
        "conv{}d": handlers.conv(rank),
        "conv_transpose{}d": handlers.conv(rank, transposed=True),
    }.items()
} | {
    "linear": handlers.linear,
    "bilinear": handlers.product,
    "batch_norm": handlers.batch_norm,
    "group_norm": handlers.group_norm,
    "layer_norm": handlers.shaped_norm,
    "rms_norm": handlers.shaped_norm,
}
_DROPOUTS = ("dropout", "alpha_dropout")


def _in(owner: Any, table: _Table) -> dict[Any, handlers.Handler]:
    """A table by the functions of a namespace."""
    return {getattr(owner, name): handler for name, handler in table.items() if hasattr(owner, name)}


def _in_roles(known: Container[str]) -> _Table:
    """Handlers of those among some names, with and without a trailing ``_``, that have a role."""
    found: _Table = {}
    for role, names in handlers.ROLES.items():
        found |= {name: handlers.in_role(role) for name in names if name in known}
        found |= {f"{name}_": handlers.in_role(role, inplace=True) for name in names if f"{name}_" in known}
    return found


def _function_table() -> dict[Any, handlers.Handler]:
    table: dict[Any, handlers.Handler] = dict.fromkeys(handlers.ELEMENTWISE_FUNCTIONS, handlers.elementwise)
    table |= dict.fromkeys(handlers.functions_named(handlers.INPLACE_ONLY, torch, F), handlers.inplace)
    table |= dict.fromkeys(handlers.INPLACE_OPERATORS, handlers.inplace)
    for role, names in handlers.ROLES.items():
        known = set(table) & handlers.functions_named(list(names), torch, operator)
        table |= {
            target: handlers.in_role(role, inplace=target in handlers.INPLACE_OPERATORS) for target in known
        }
    table |= _in(torch, _ALIKE) | _in(F, _LAYERS)
    table |= dict.fromkeys(handlers.functions_named([*_DROPOUTS], F, torch), handlers.dropout)
    table |= dict.fromkeys((torch.dropout_, torch.alpha_dropout_), handlers.dropout_in_place)
    channelwise = handlers.functions_named([f"dropout{rank}d" for rank in range(1, MAX_RANK + 1)], F)
    table |= dict.fromkeys(channelwise, handlers.channel_dropout)
    return table | {
        torch.adaptive_avg_pool1d: handlers.adaptive_pool(1, average=True),
        operator.getitem: handlers.getitem,
        torch.cat: handlers.concat,
        torch.concat: handlers.concat,
        operator.matmul: column_handlers.matmul,
        torch.einsum: column_handlers.einsum,
        F.unfold: column_handlers.unfold,
        F.fold: column_handlers.fold,
        operator.add: handlers.added(),
        operator.iadd: handlers.added(inplace=True),
        F.prelu: handlers.channelwise,
        torch.prelu: handlers.channelwise,
        F.softmax: handlers.on_channels,
        F.log_softmax: handlers.on_channels,
        F.normalize: handlers.normalize,
    }


def _method_table() -> _Table:
    table: _Table = dict.fromkeys(handlers.ELEMENTWISE_METHODS, handlers.elementwise)
    table |= {
        f"{name}_": handlers.inplace for name in handlers.ARITHMETIC if hasattr(torch.Tensor, f"{name}_")
    }
    table |= _in_roles({*table})
    return (
        table
        | _ALIKE
        | {
            "contiguous": handlers.copied(Plain.SAME),
            "add_": handlers.added(inplace=True),
            "expand": column_handlers.expand,
            "t": handlers.matrix_transpose,
        }
    )


FUNCTIONS = _function_table()
METHODS = _method_table()
POOL_FUNCTIONS = frozenset(
    {
        target
        for target in FUNCTIONS
        if getattr(target, "__name__", "") in ("mean", "sum", "amax", "amin")
        or "_pool" in FUNCTIONS[target].__qualname__
    }
)
POOL_METHODS = frozenset({"mean", "sum", "amax", "amin"})
UNFOLDS = (F.unfold, torch.ops.aten.im2col.default)


@functools.cache
def aten_handlers() -> _Table:
    """Handlers of ATen operators by name, those of torch's functions where the arguments are alike."""
    table: _Table = dict.fromkeys(aten.ELEMENTWISE, handlers.elementwise)
    table |= dict.fromkeys(aten.CHANNELWISE, handlers.channelwise)
    table |= dict.fromkeys(aten.NORMS, handlers.feature_norm)
    table |= dict.fromkeys(aten.ALONG_DIM, handlers.on_channels)
    table |= {f"{name}_": handlers.inplace for name in aten.ELEMENTWISE}
    table |= _in_roles({*table})
    table |= dict.fromkeys((*_DROPOUTS, "native_dropout"), handlers.dropout)
    table |= dict.fromkeys((f"{name}_" for name in _DROPOUTS), handlers.dropout_in_place)
    table["native_batch_norm"] = handlers.batch_norm
    table |= dict.fromkeys(("native_layer_norm", "_fused_rms_norm"), handlers.shaped_norm)
    table |= dict.fromkeys(("feature_dropout", "feature_alpha_dropout"), handlers.channel_dropout)
    table |= dict.fromkeys(aten.EVAL_BATCH_NORMS, handlers.batch_norm_in_eval_mode)
    table |= _LAYERS | _ALIKE
    for rank in range(1, MAX_RANK + 1):
        table[f"_adaptive_avg_pool{rank}d"] = handlers.adaptive_pool(rank, average=True)
    return table | {
        "_unsafe_view": handlers.view,
        "t": handlers.matrix_transpose,
        "slice": handlers.slice_,
        "as_strided": handlers.as_strided,
        "cat": handlers.concat,
        "addmm": column_handlers.addmm,
        **dict.fromkeys(("mm", "matmul"), column_handlers.mm),
        "baddbmm": handlers.product,
        "einsum": column_handlers.einsum,
        "im2col": column_handlers.unfold,
        "col2im": column_handlers.fold,
        "expand": column_handlers.expand,
        "contiguous": handlers.copied(Plain.SAME),
        "add_": handlers.added(inplace=True),
        "_trilinear": handlers.product,
        "convolution": handlers.convolution,
    }
