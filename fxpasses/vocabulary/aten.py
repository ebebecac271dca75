"""The ATen half of the vocabulary: operators of ``torch.export`` graphs, before and after decomposition.

Operators are known by name without overload (``add`` for ``aten.add.Tensor``), the names of
``aten/src/ATen/native/native_functions.yaml``. ``tables`` binds them to handlers.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

import torch
from torch.fx import Node

from fxpasses.private_names import OpOverload

ELEMENTWISE = frozenset(
    (
        "relu relu6 hardtanh hardswish hardsigmoid silu gelu mish elu selu celu leaky_relu sigmoid tanh "
        "softplus tanhshrink softshrink hardshrink threshold log_sigmoid rrelu dropout alpha_dropout "
        "native_dropout add sub mul div pow square sqrt rsqrt exp log log1p expm1 abs neg clamp clamp_min "
        "clamp_max clip reciprocal sign sin cos erf round floor ceil nan_to_num detach clone alias "
        "lift_fresh_copy contiguous to _to_copy maximum minimum true_divide where gt lt ge le eq ne "
        "masked_fill rsub"
    ).split()
)
CHANNELWISE = frozenset(
    (
        "batch_norm native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
        "_native_batch_norm_legit_functional _batch_norm_with_update _batch_norm_no_update group_norm prelu"
    ).split()
)
EVAL_BATCH_NORMS = ("_native_batch_norm_legit_no_training", "_batch_norm_no_update")
NORMS = frozenset(
    ("layer_norm native_layer_norm rms_norm _fused_rms_norm feature_dropout feature_alpha_dropout").split()
)
ALONG_DIM = frozenset("softmax _softmax log_softmax _log_softmax".split())
_POOLS = (
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d "
    "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d max_pool1d "
    "max_pool2d max_pool3d mean sum amax amin"
).split()
_QUANTIZERS = ("quantized_decomposed", "torchao")
_SIZES = frozenset(
    f"aten::{name}" for name in "sym_size sym_size.int sym_numel sym_stride sym_stride.int".split()
)
_TUPLES = frozenset(
    (
        "native_dropout native_layer_norm native_batch_norm _native_batch_norm_legit "
        "_native_batch_norm_legit_no_training _native_batch_norm_legit_functional _batch_norm_with_update "
        "_batch_norm_no_update _fused_rms_norm adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"
    ).split()
)


def is_dequantized(node: Node | None) -> bool:
    """Whether a value is a quantised one, made floating point for the next operator to read.

    Source:
        ``torch.ops.quantized_decomposed``, as ``convert_pt2e`` writes it; torchao's ``dequantize_affine``.
    """
    target = node.target if node is not None else None
    if not isinstance(target, OpOverload):
        return bool(getattr(target, "dequantizes", False))  # of another dialect
    return target.namespace in _QUANTIZERS and target._opname.startswith("dequantize")


def name_of(target: Any) -> str:
    """Name of an ATen overload without namespace and overload; empty for other namespaces and functions."""
    # a string keeps its hash, an overload computes it every time
    return _name_in(target.__qualname__) if isinstance(target, OpOverload) else ""


@functools.cache
def _name_in(qualified: str) -> str:
    """``view`` for ``aten::view`` and ``mean`` for ``aten::mean.dim``."""
    namespace, _, name = qualified.partition("::")
    return name.partition(".")[0] if namespace == "aten" else ""


@functools.cache
def pool_targets() -> tuple[OpOverload, ...]:
    """Every overload that can pool; those that write to an argument cannot stand in a graph."""
    packets = [getattr(torch.ops.aten, name) for name in _POOLS]
    overloads = ("default", "dim", "dim_IntList")
    return tuple(getattr(packet, name) for packet in packets for name in overloads if hasattr(packet, name))


def is_size(target: Any) -> bool:
    """Whether an operator gives a size and no tensor."""
    return isinstance(target, OpOverload) and target.__qualname__ in _SIZES


def is_first_result(node: Node) -> bool:
    """Whether ``getitem`` takes the value of an operator that gives statistics beside it."""
    source, index = node.args[0], node.args[1]
    name = name_of(source.target) if isinstance(source, Node) else ""
    return name in _TUPLES and type(index) is int and index == 0


def is_statistic(node: Node) -> bool:
    """Whether ``getitem`` takes a batch norm's statistics, which are the same for a map and its flat form."""
    if node.target is not operator.getitem or not isinstance(node.args[0], Node):
        return False
    return "batch_norm" in name_of(node.args[0].target) and bool(node.args[1] != 0)


def untransposed(node: Any) -> Node | None:
    """The matrix that a node transposes, or None."""
    if not isinstance(node, Node):
        return None
    args: Any = node.args
    name = name_of(node.target)
    is_transpose = (
        name in ("t", "numpy_T", "mT")
        or (name == "permute" and [dim % 2 for dim in args[1]] == [1, 0])
        or (name == "transpose" and {args[1] % 2, args[2] % 2} == {0, 1})
    )
    return args[0] if is_transpose and isinstance(args[0], Node) else None
