"""The functions that a graph in a file may call: computations on tensors, and nothing else.

A name is admitted where ATen has an operator of that name whose every argument is a tensor, a number or
one of a few words; an operator with a file name among its arguments (``aten::save``, ``aten::from_file``)
is none, and neither are kernels that are only called by others, and trust them (``aten::nll_loss_backward``;
torchvision's, of which one reads where NaN is: no classifier calls them).
What is no ATen operator stands in the tables here.
"""

from __future__ import annotations

import functools
import importlib
import math
import operator
import re
from collections.abc import Callable
from typing import Any

import torch

from fxexport.private_names import C_LINALG, C_NN, all_schemas
from fxpasses.private_names import OpOverload

_OVERLOAD = re.compile(r"torch\.ops\.(aten|prims)\.([A-Za-z_]\w*)\.([A-Za-z_]\w*)", re.ASCII)
_SYMBOLIC = re.compile(r"torch\.(sym_(?:max|min|not|ite|float|int|sqrt|sum)|_sym_sqrt)")
_WORD_ARGUMENTS = frozenset(
    "UPLO activation approximate assert_msg driver equation indexing interpolation mode norm ord p pad_mode "
    "padding padding_side reduce rounding_mode side".split()
)
_TYPES = re.compile(
    r"(Optional\[)?(List\[)?(Optional\[)?(Tensor|int|float|bool|number|complex|Device|Generator)\]*"
)
_PRIVATE = frozenset(
    "_adaptive_avg_pool2d _adaptive_avg_pool3d _assert_async _assert_scalar _assert_tensor_metadata "
    "_convolution _fused_rms_norm _log_softmax _native_batch_norm_legit _native_batch_norm_legit_functional "
    "_native_batch_norm_legit_no_training _reshape_alias _scaled_dot_product_efficient_attention "
    "_scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu "
    "_scaled_dot_product_attention_math _softmax _to_copy _unsafe_view _unsafe_index "
    "_upsample_bilinear2d_aa _upsample_bicubic2d_aa".split()
)
_TRUSTING = (
    "backward", "jvp", "loss", "sparse", "bsc", "bsr", "csc", "csr", "segment", "nested", "quantized",
    "mkldnn", "fbgemm", "cudnn", "miopen", "mps", "polynomial",
)  # fmt: skip
"""What words begin with in the names of kernels that no model calls: for gradients, losses, other layouts and
machines. Some read and write memory by the indices that they are given, without a look."""
# operators that change a tensor's storage, its place in the autograd graph or the random numbers to come
_NOT_COMPUTATIONS = frozenset(
    "backward set_ set_data resize_ resize_as_ resize_as_sparse_ requires_grad_ retain_grad rename_ "
    "from_blob empty_strided record_stream storage manual_seed seed initial_seed "
    # or its layout
    "to_mkldnn to_sparse to_sparse_bsc to_sparse_bsr to_sparse_csc to_sparse_csr".split()
)
_FUNCTIONAL = frozenset(
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d "
    "adaptive_max_pool3d affine_grid alpha_dropout avg_pool1d avg_pool2d avg_pool3d batch_norm bilinear celu "
    "celu_ conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d cosine_similarity dropout "
    "dropout1d dropout2d dropout3d elu elu_ embedding feature_alpha_dropout fold gelu glu grid_sample "
    "group_norm hardshrink hardsigmoid hardswish hardtanh hardtanh_ instance_norm interpolate layer_norm "
    "leaky_relu leaky_relu_ linear local_response_norm log_softmax logsigmoid lp_pool1d lp_pool2d lp_pool3d "
    "max_pool1d max_pool2d max_pool3d mish normalize one_hot pad pixel_shuffle pixel_unshuffle prelu relu "
    "relu6 relu_ rms_norm rrelu scaled_dot_product_attention selu sigmoid silu softmax softmin softplus "
    "softshrink softsign tanh tanhshrink threshold unfold upsample upsample_bilinear upsample_nearest "
    "adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices max_pool1d_with_indices "
    "max_pool2d_with_indices max_pool3d_with_indices".split()
)
_OPERATORS = frozenset(
    "add sub mul truediv floordiv mod pow matmul neg pos invert and_ or_ xor lshift rshift eq ne lt le gt ge "
    "getitem iadd isub imul itruediv ifloordiv imod ipow imatmul iand ior ixor ilshift irshift not_ truth "
    "abs index is_ is_not contains".split()
)
_MATH = frozenset("ceil floor trunc sqrt log log2 exp prod pow".split())
_BUILTINS: dict[str, Callable[..., Any]] = {
    "len": len, "int": int, "float": float, "bool": bool, "max": max, "min": min, "abs": abs, "round": round,
    "sum": sum,
}  # fmt: skip
_TORCH = frozenset("_assert broadcast_shapes einsum norm split meshgrid stack sym_int sym_float".split())
_OTHER = frozenset(
    {
        "torchvision.ops.stochastic_depth.stochastic_depth",
        "torch.functional.einsum",
        "torch.functional.norm",
        "torch.functional.split",
        "torch.functional.meshgrid",
        "torch.functional.broadcast_tensors",
        "timm.layers.drop.drop_path",
    }
)
_METHODS = frozenset(
    "size dim ndimension numel nelement contiguous float half double bfloat16 int long short byte char bool "
    "to type_as cpu is_floating_point is_contiguous stride new_zeros new_ones new_empty new_full split "
    "unflatten norm".split()
)
_ATTRIBUTES = frozenset("shape dtype device layout ndim T mT H mH real imag is_cuda itemsize nbytes".split())


def find_function(name: str) -> Callable[..., Any] | None:
    """The function of that full name, if a graph may call it; else None."""
    overload = _OVERLOAD.fullmatch(name)
    if overload is not None:
        return _overload(*overload.groups())
    module, _, last = name.rpartition(".")
    if module in ("operator", "_operator"):
        return getattr(operator, last) if last in _OPERATORS else None
    if module == "math":
        return getattr(math, last, None) if last in _MATH else None
    if module in ("", "builtins"):
        return _BUILTINS.get(last)
    if module == "torch.nn.functional":
        return getattr(torch.nn.functional, last, None) if last in _FUNCTIONAL else None
    if module == "torch" and (_SYMBOLIC.fullmatch(name) or last in _TORCH or is_computation(last)):
        return _callable(torch, last)
    if module == "torch._C._nn" and is_computation(last):
        return _callable(C_NN, last)
    if module == "torch._C._linalg" and is_computation(last):
        return _callable(C_LINALG, last)
    if name in _OTHER:
        try:
            return _callable(importlib.import_module(module), last)
        except ImportError:
            return None
    return None


def is_method(name: str) -> bool:
    """Whether a graph may call this method of its values."""
    return name in _METHODS or (is_computation(name) and hasattr(torch.Tensor, name))


def is_attribute(name: str) -> bool:
    """Whether a graph may read this attribute of its values."""
    return name in _ATTRIBUTES


@functools.cache
def is_computation(name: str, space: str = "aten") -> bool:
    """Whether an operator of this name only computes: every overload takes tensors, numbers and words."""
    if name in _NOT_COMPUTATIONS or (name.startswith("_") and name not in _PRIVATE):
        return False
    if any(word.startswith(_TRUSTING) for word in name.split("_")):
        return False
    schemas = _schemas().get(f"{space}::{name}", ())
    return bool(schemas) and any(map(_is_harmless, schemas)) and not any(map(_names_a_file, schemas))


def _overload(space: str, name: str, overload: str) -> Callable[..., Any] | None:
    if not is_computation(name, space):
        return None
    try:
        found = getattr(getattr(getattr(torch.ops, space), name), overload)
    except AttributeError:
        return None
    is_overload = isinstance(found, OpOverload)
    return found if is_overload and _is_harmless(found._schema) else None


def _callable(owner: Any, name: str) -> Callable[..., Any] | None:
    found = getattr(owner, name, None)
    return found if callable(found) and not isinstance(found, type) else None


@functools.cache
def _schemas() -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for schema in all_schemas():
        if schema.name.startswith(("aten::", "prims::")):
            found.setdefault(schema.name, []).append(schema)
    return found


def _is_harmless(schema: Any) -> bool:
    for argument in schema.arguments:
        kind = str(argument.type)
        is_word = kind in ("str", "Optional[str]") and argument.name in _WORD_ARGUMENTS
        if not is_word and not _TYPES.fullmatch(kind):
            return False
    return bool(schema.arguments)


def _names_a_file(schema: Any) -> bool:
    return any(
        argument.name in ("filename", "path") and "str" in str(argument.type) for argument in schema.arguments
    )
