"""The module half of the vocabulary: ``nn`` modules by class, a typed op out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from fxpasses.report import Form
from fxpasses.vocabulary import column_handlers, handlers
from fxpasses.vocabulary.handlers import MAX_RANK
from fxpasses.vocabulary.ops import (
    Affine,
    Elementwise,
    FeatureNorm,
    Flatten,
    Op,
    Plain,
    Role,
    WeightSource,
    WindowPool,
)

_ELEMENTWISE_MODULES = frozenset(
    getattr(nn, name)
    for name in (
        "ReLU ReLU6 Hardtanh Hardswish Hardsigmoid SiLU GELU Mish ELU SELU CELU LeakyReLU "
        "Sigmoid Tanh Softplus Softsign Tanhshrink Softshrink Hardshrink Threshold LogSigmoid RReLU"
    ).split()
)
_DROPOUTS = (nn.Dropout, nn.AlphaDropout)
# of whole samples; a class of another library with such a name may do something else
_SAMPLE_DROPOUTS = {("torchvision.ops.stochastic_depth", "StochasticDepth"), ("timm.layers.drop", "DropPath")}
_CHANNEL_DROPOUTS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.FeatureAlphaDropout)
_BATCH_NORMS: dict[type, int | None] = {
    nn.BatchNorm1d: 1,
    nn.BatchNorm2d: 2,
    nn.BatchNorm3d: 3,
    nn.SyncBatchNorm: None,
}
_RANKS = range(1, MAX_RANK + 1)
_CONVS: dict[type, tuple[int, bool]] = {
    getattr(nn, f"Conv{kind}{rank}d"): (rank, bool(kind)) for rank in _RANKS for kind in ("", "Transpose")
}
_POOL_MODULES: dict[type, tuple[int, bool]] = {
    getattr(nn, f"Adaptive{kind}Pool{rank}d"): (rank, kind == "Avg")
    for rank in _RANKS
    for kind in ("Avg", "Max")
}
_WINDOW_MODULES: dict[type, tuple[int, bool]] = {
    getattr(nn, f"{kind}Pool{rank}d"): (rank, kind == "Avg") for rank in _RANKS for kind in ("Avg", "Max")
}


def module_op(module: Any, node: Node) -> Op:
    """The op of a ``call_module`` node; a subclass may compute something else and is not looked up."""
    kind = type(module)
    if kind is nn.Bilinear:
        return handlers.product(*node.args, **node.kwargs)
    source = node.args[0] if node.args else node.kwargs.get("input", node.kwargs.get("x"))
    if not isinstance(source, Node) or len(node.args) + len(node.kwargs) != 1:
        return handlers.OPAQUE
    if not is_its_class(module):
        affine = _affine_module(module, source, str(node.target))
        return affine if isinstance(affine, Affine) else handlers.OPAQUE
    if kind in _ELEMENTWISE_MODULES:
        return Elementwise((source,), inplace=getattr(module, "inplace", False) is True)
    if kind is nn.Identity:
        return Elementwise((source,), role=Role.LINEAR, plain=Plain.SAME)
    if kind in _DROPOUTS:
        trains = module.training and module.p != 0
        return Elementwise((source,), inplace=module.inplace is True, role=Role.DROPOUT, trains=trains)
    if (kind.__module__, kind.__name__) in _SAMPLE_DROPOUTS:
        return Elementwise((source,), role=Role.DROPOUT, trains=module.training)
    if kind in _CHANNEL_DROPOUTS:
        return FeatureNorm(source, role=Role.DROPOUT, trains=module.training and module.p != 0)
    if kind in _BATCH_NORMS:
        trains = module.training or module.running_mean is None
        return Elementwise(
            (source,), channels=True, module_rank=_BATCH_NORMS[kind], role=Role.BATCH_NORM, trains=trains
        )
    if kind in _POOL_MODULES:
        rank, average = _POOL_MODULES[kind]
        return handlers.adaptive_pool(rank, average)(
            source, module.output_size, getattr(module, "return_indices", False)
        )
    if kind in _WINDOW_MODULES:
        rank, average = _WINDOW_MODULES[kind]
        kernel = handlers.tuple_of(module.kernel_size, rank)
        plain = set(handlers.tuple_of(module.padding, rank)) == {0}
        plain = plain and getattr(module, "divisor_override", None) is None
        return WindowPool(source, rank, covers=False, average=average, kernel=kernel, plain=plain)
    if kind in (nn.Softmax, nn.LogSoftmax):
        return handlers.on_channels(source, module.dim)
    simple: dict[type, Callable[[], Op]] = {
        nn.Flatten: lambda: Flatten(source, module.start_dim, module.end_dim),
        nn.Unflatten: lambda: handlers.unflatten(source, module.dim, module.unflattened_size),
        nn.LayerNorm: lambda: FeatureNorm(source, is_last=len(module.normalized_shape) == 1),
        nn.Unfold: lambda: column_handlers.unfold(
            source, module.kernel_size, module.dilation, module.padding, module.stride
        ),
        nn.Fold: lambda: column_handlers.fold(
            source, module.output_size, module.kernel_size, module.dilation, module.padding, module.stride
        ),
        nn.GroupNorm: lambda: Elementwise((source,), channels=True, mixes=True),
        nn.PReLU: lambda: Elementwise((source,), channels=True),
    }
    if kind in simple:
        return simple[kind]()
    if kind.__name__ == "RMSNorm":
        return FeatureNorm(source, is_last=len(getattr(module, "normalized_shape", ())) == 1)
    return _affine_module(module, source, str(node.target))


def is_its_class(module: nn.Module) -> bool:
    """Whether a module computes what its class does: it has no forward of its own, and no hooks around it."""
    held = module.__dict__
    return not (held.get("_forward_hooks") or held.get("_forward_pre_hooks") or "forward" in held)


_CONV_NUMBERS = ("kernel_size", "stride", "padding", "dilation", "groups")


def _affine_module(module: Any, source: Node, path: str) -> Op:
    """An affine op for a module that is, or looks like, a Linear or a convolution."""
    is_parameter = isinstance(getattr(module, "weight", None), torch.Tensor)
    weight_source = WeightSource.PARAMETER if is_parameter else WeightSource.PACKED
    has_bias = isinstance(getattr(module, "bias", None), torch.Tensor)
    bias = f"{path}.bias" if has_bias else None
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        if not (isinstance(module, nn.Linear) or "Linear" in type(module).__name__):
            return handlers.OPAQUE
        return Affine(
            source=source, form=Form.LINEAR, rank=0, weight=f"{path}.weight", bias=bias,
            weight_source=weight_source, module=module,
        )  # fmt: skip
    base = next((known for known in _CONVS if isinstance(module, known)), None)
    looks_quantized = "Conv" in type(module).__name__ and all(hasattr(module, name) for name in _CONV_NUMBERS)
    if base is None and not looks_quantized:
        return handlers.OPAQUE
    rank, transposed = _CONVS[base] if base else (len(handlers.tuple_of(module.kernel_size, 1)), False)
    kernel = handlers.tuple_of(module.kernel_size, rank)
    numbers = handlers.conv_numbers(rank, module.stride, module.padding, module.dilation, kernel)
    if numbers is None:
        return handlers.OPAQUE
    return Affine(
        source=source, form=Form.CONV, rank=rank, weight=f"{path}.weight", bias=bias,
        weight_source=weight_source, module=module, groups=module.groups, transposed=transposed,
        padding_mode=getattr(module, "padding_mode", "zeros"), **numbers,
    )  # fmt: skip


POOL_TYPES = frozenset({*_POOL_MODULES, *_WINDOW_MODULES})
