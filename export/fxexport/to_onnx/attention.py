"""``aten.scaled_dot_product_attention`` of other ranks than 4, which the exporter refuses (Hiera, NesT).

Source:
    ``torch.nn.functional.scaled_dot_product_attention``; the factor goes to both operands by its root, as in
    ATen (attention.cpp, ``_scaled_dot_product_attention_math``) and as the exporter does it for rank 4.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import opset18 as op
from onnxscript.function_libs.torch_lib.ops import nn

ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
_RANK = 4


def has_other_attention(program: torch.export.ExportedProgram) -> bool:
    """Whether it attends over tensors of another rank than the exporter takes."""
    calls = program.graph.find_nodes(op="call_function", target=ATTENTION)
    return any(item.meta["val"].dim() != _RANK for node in calls for item in node.all_input_nodes[:3])


def attention(
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    attn_mask: ir.Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> ir.Value:
    """``softmax(query @ keyᵀ · scale + mask) @ value`` over the last two axes; others broadcast."""
    ranks = [len(item.shape or ()) for item in (query, key, value)]
    width = query.shape[-1] if query.shape else None
    is_plain = isinstance(width, int) and (scale is None or scale > 0)
    is_masked = attn_mask is not None and attn_mask.dtype is ir.DataType.BOOL
    if set(ranks) == {_RANK} or dropout_p or is_causal or enable_gqa or is_masked or not is_plain:
        given = query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa
        return cast(ir.Value, nn.aten_scaled_dot_product_attention(*cast(Any, given)))
    rank = ranks[1]
    assert query.dtype is not None
    root: Any = math.sqrt(1 / math.sqrt(cast(int, width)) if scale is None else scale)
    root = op.Constant(value=cast(Any, ir.tensor(np.asarray(root, query.dtype.numpy()), dtype=query.dtype)))
    turned: Any = op.Transpose(cast(Any, key), perm=[*range(rank - 2), rank - 1, rank - 2])
    scores = op.MatMul(op.Mul(cast(Any, query), root), op.Mul(turned, root))
    if attn_mask is not None:
        scores = op.Add(scores, cast(Any, attn_mask))
    return cast(ir.Value, op.MatMul(op.Softmax(scores, axis=-1), cast(Any, value)))
