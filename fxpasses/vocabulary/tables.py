"""The tables of the vocabulary: which torch function, tensor method or ATen operator a handler reads."""

from __future__ import annotations

import functools
import operator
from typing import Any

import torch
import torch.nn.functional as F

from fxpasses.vocabulary import aten, column_handlers, handlers
from fxpasses.vocabulary.handlers import MAX_RANK
from fxpasses.vocabulary.ops import Plain, Role

# names that tensor methods and ATen operators share, with alike arguments
_ALIKE: dict[str, handlers.Handler] = {
    "mean": handlers.reduce(average=True),
    "sum": handlers.reduce(average=False),
    "amax": handlers.reduce(average=False),
    "amin": handlers.reduce(average=False),
    "flatten": handlers.flatten,
    "unflatten": handlers.unflatten,
    "view": handlers.view,
    "reshape": handlers.view,
    "squeeze": handlers.squeeze,
    "unsqueeze": handlers.unsqueeze,
    "permute": handlers.permute,
    "transpose": handlers.transpose,
}


def _function_table() -> dict[Any, handlers.Handler]:
    table: dict[Any, handlers.Handler] = dict.fromkeys(handlers.ELEMENTWISE_FUNCTIONS, handlers.elementwise)
    table |= dict.fromkeys(handlers.functions_named(handlers.INPLACE_ONLY, torch, F), handlers.inplace)
    table |= dict.fromkeys(handlers.INPLACE_OPERATORS, handlers.inplace)
    for role, names in handlers.ROLES.items():
        known = set(table) & handlers.functions_named(list(names), torch, operator)
        table |= {
            target: handlers.in_role(role, inplace=target in handlers.INPLACE_OPERATORS) for target in known
        }
    table |= dict.fromkeys((F.dropout, torch.dropout, F.alpha_dropout, torch.alpha_dropout), handlers.dropout)
    table |= dict.fromkeys((torch.dropout_, torch.alpha_dropout_), handlers.dropout_in_place)
    for rank in range(1, MAX_RANK + 1):
        table[getattr(F, f"adaptive_avg_pool{rank}d")] = handlers.adaptive_pool(rank, average=True)
        table[getattr(torch.nn.functional, f"adaptive_max_pool{rank}d")] = handlers.adaptive_pool(
            rank, average=False
        )
        table[getattr(F, f"avg_pool{rank}d")] = handlers.window_pool(rank, average=True)
        table[getattr(F, f"max_pool{rank}d")] = handlers.window_pool(rank, average=False)
        table[getattr(F, f"dropout{rank}d")] = handlers.channel_dropout
        table[getattr(F, f"conv{rank}d")] = handlers.conv(rank)
        table[getattr(F, f"conv_transpose{rank}d")] = handlers.conv(rank, transposed=True)
    table |= {
        torch.adaptive_avg_pool1d: handlers.adaptive_pool(1, average=True),
        torch.mean: handlers.reduce(average=True),
        torch.sum: handlers.reduce(average=False),
        torch.amax: handlers.reduce(average=False),
        torch.amin: handlers.reduce(average=False),
        torch.flatten: handlers.flatten,
        torch.unflatten: handlers.unflatten,
        torch.reshape: handlers.view,
        torch.squeeze: handlers.squeeze,
        torch.unsqueeze: handlers.unsqueeze,
        torch.permute: handlers.permute,
        torch.transpose: handlers.transpose,
        torch.swapaxes: handlers.transpose,
        operator.getitem: handlers.getitem,
        torch.select: handlers.select_of,
        torch.cat: handlers.concat,
        torch.concat: handlers.concat,
        F.linear: handlers.linear,
        operator.matmul: column_handlers.matmul,
        torch.matmul: column_handlers.matmul,
        torch.mm: column_handlers.matmul,
        torch.bmm: column_handlers.matmul,
        torch.addmm: handlers.product,
        torch.einsum: column_handlers.einsum,
        F.unfold: column_handlers.unfold,
        F.fold: column_handlers.fold,
        torch.clone: handlers.copied(Plain.COPY),
        torch.add: handlers.added(Role.SUM),
        operator.add: handlers.added(Role.SUM),
        operator.iadd: handlers.added(Role.SUM, inplace=True),
        F.bilinear: handlers.product,
        F.layer_norm: handlers.shaped_norm,
        F.batch_norm: handlers.batch_norm,
        F.group_norm: handlers.group_norm,
        F.prelu: handlers.channelwise,
        torch.prelu: handlers.channelwise,
        F.softmax: handlers.on_channels,
        torch.softmax: handlers.on_channels,
        F.log_softmax: handlers.on_channels,
        torch.log_softmax: handlers.on_channels,
        F.normalize: handlers.normalize,
    }
    if hasattr(F, "rms_norm"):
        table[F.rms_norm] = handlers.shaped_norm
    return table


def _method_table() -> dict[str, handlers.Handler]:
    table: dict[str, handlers.Handler] = dict.fromkeys(handlers.ELEMENTWISE_METHODS, handlers.elementwise)
    table |= {
        f"{name}_": handlers.inplace for name in handlers.ARITHMETIC if hasattr(torch.Tensor, f"{name}_")
    }
    for role, names in handlers.ROLES.items():
        table |= {name: handlers.in_role(role) for name in names if name in table}
        table |= {f"{name}_": handlers.in_role(role, inplace=True) for name in names if f"{name}_" in table}
    table |= _ALIKE | {
        "swapaxes": handlers.transpose,
        "select": handlers.select_of,
        "matmul": column_handlers.matmul,
        "mm": column_handlers.matmul,
        "bmm": column_handlers.matmul,
        "addmm": handlers.product,
        "clone": handlers.copied(Plain.COPY),
        "contiguous": handlers.copied(Plain.SAME),
        "add": handlers.added(Role.SUM),
        "add_": handlers.added(Role.SUM, inplace=True),
        "expand": column_handlers.expand,
        "t": handlers.matrix_transpose,
        "softmax": handlers.on_channels,
        "log_softmax": handlers.on_channels,
    }
    return table


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
def aten_handlers() -> dict[str, handlers.Handler]:
    """Handlers of ATen operators by name, those of torch's functions where the arguments are alike."""
    table: dict[str, handlers.Handler] = dict.fromkeys(aten.ELEMENTWISE, handlers.elementwise)
    table |= dict.fromkeys(aten.CHANNELWISE, handlers.channelwise)
    table |= dict.fromkeys(aten.NORMS, handlers.feature_norm)
    table |= dict.fromkeys(aten.ALONG_DIM, handlers.on_channels)
    table |= {f"{name}_": handlers.inplace for name in aten.ELEMENTWISE}
    for role, names in handlers.ROLES.items():
        table |= {name: handlers.in_role(role) for name in names if name in aten.ELEMENTWISE}
        table |= {
            f"{name}_": handlers.in_role(role, inplace=True) for name in names if name in aten.ELEMENTWISE
        }
    table |= dict.fromkeys(("dropout", "native_dropout", "alpha_dropout"), handlers.dropout)
    table |= dict.fromkeys(("dropout_", "alpha_dropout_"), handlers.dropout_in_place)
    table |= dict.fromkeys(("batch_norm", "native_batch_norm"), handlers.batch_norm)
    shaped = ("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm")
    table |= dict.fromkeys(shaped, handlers.shaped_norm)
    table |= dict.fromkeys(("feature_dropout", "feature_alpha_dropout"), handlers.channel_dropout)
    table["group_norm"] = handlers.group_norm
    table |= dict.fromkeys(aten.EVAL_BATCH_NORMS, handlers.batch_norm_in_eval_mode)
    for rank in range(1, MAX_RANK + 1):
        for prefix in ("", "_"):
            table[f"{prefix}adaptive_avg_pool{rank}d"] = handlers.adaptive_pool(rank, average=True)
        table[f"adaptive_max_pool{rank}d"] = handlers.adaptive_pool(rank, average=False)
        table[f"avg_pool{rank}d"] = handlers.window_pool(rank, average=True)
        table[f"max_pool{rank}d"] = handlers.window_pool(rank, average=False)
        table[f"conv{rank}d"] = handlers.conv(rank)
        table[f"conv_transpose{rank}d"] = handlers.conv(rank, transposed=True)
    return (
        table
        | _ALIKE
        | {
            "_unsafe_view": handlers.view,
            "t": handlers.matrix_transpose,
            "select": aten.select,
            "slice": aten.slice_,
            "as_strided": aten.as_strided,
            "cat": handlers.concat,
            "linear": handlers.linear,
            "addmm": lambda *args, **kwargs: (
                aten.addmm(handlers.linear, *args, **kwargs) or handlers.product(*args)
            ),
            "mm": lambda input, other: (
                aten.mm(handlers.linear, input, other) or column_handlers.matmul(input, other)
            ),
            "matmul": lambda input, other: (
                aten.mm(handlers.linear, input, other) or column_handlers.matmul(input, other)
            ),
            "bmm": column_handlers.matmul,
            "baddbmm": handlers.product,
            "einsum": column_handlers.einsum,
            "im2col": column_handlers.unfold,
            "col2im": column_handlers.fold,
            "expand": column_handlers.expand,
            "clone": handlers.copied(Plain.COPY),
            "contiguous": handlers.copied(Plain.SAME),
            "add": handlers.added(Role.SUM),
            "add_": handlers.added(Role.SUM, inplace=True),
            "bilinear": handlers.product,
            "_trilinear": handlers.product,
            "convolution": lambda *args: aten.convolution(handlers.conv, *args),
        }
    )
