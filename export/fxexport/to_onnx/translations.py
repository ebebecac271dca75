"""ATen operators that torch's exporter writes in another way than a file should have them, or refuses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import opset18 as op
from onnxscript.function_libs.torch_lib.ops import core, nn
from torch.export import ExportedProgram

_aten = torch.ops.aten
_ATTENTION = _aten.scaled_dot_product_attention.default
_RANK = 4


def translations(program: ExportedProgram) -> Mapping[Any, Callable[..., ir.Value]]:
    """What the operators of a program are translated by, where it is not the exporter's own translation."""
    found = {_aten.as_strided.default: as_strided, _aten.im2col.default: im2col}
    calls = program.graph.find_nodes(op="call_function", target=_ATTENTION)
    ranks = {item.meta["val"].dim() for node in calls for item in node.all_input_nodes[:3]}
    return found | ({_ATTENTION: attention} if ranks - {_RANK} else {})


def as_strided(
    self: ir.Value, size: Sequence[Any], stride: Sequence[Any], storage_offset: Any = None
) -> ir.Value:
    """The operand itself where size and strides are its own in row-major order, else a Gather.

    An adaptive pool to 1×1 on a map in channels-last order (ConvNeXt, Swin) is traced as a mean followed by
    ``as_strided``, which says how the result lies in memory. ONNX values have no memory: the exporter writes
    a Gather over indices that it computes from the batch size, which no compiler takes for what it is.

    Source:
        ATen ``adaptive_avg_pool2d_symint`` (AdaptiveAveragePooling.cpp): ``out.as_strided_({n, c, 1, 1},
        {c, 1, c, c})``.
    """
    if storage_offset in (None, 0) and _is_same(self.shape, size, stride):
        same: ir.Value = op.Identity(cast(Any, self))
        return same
    gathered: ir.Value = core.aten_as_strided(self, size, stride, storage_offset)
    return gathered


def _is_same(shape: ir.Shape | None, size: Sequence[Any], stride: Sequence[Any]) -> bool:
    """True if the strides are row-major ones, but for axes of one cell, where any do."""
    if shape is None or len(shape) != len(size) or list(shape[1:]) != list(size[1:]):
        return False
    step = 1
    for extent, given in zip(reversed(size[1:]), reversed(stride[1:]), strict=True):
        if not isinstance(extent, int) or (extent != 1 and given != step):
            return False
        step *= extent
    return bool(stride[0] == step)


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
    """``softmax(query @ keyᵀ · scale + mask) @ value`` over the last two axes; others broadcast.

    The exporter refuses other ranks than 4 (Hiera, NesT).

    Source:
        ``torch.nn.functional.scaled_dot_product_attention``; the factor goes to both operands by its root, as
        in ATen (attention.cpp, ``_scaled_dot_product_attention_math``), and as the exporter does it.
    """
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


def im2col(
    self: ir.Value,
    kernel_size: Sequence[int],
    dilation: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    stride: Sequence[int] = (1, 1),
) -> ir.Value:
    """``[N, C·kh·kw, L]``, by constant indices where channels, height and width are known.

    The exporter's own translation computes the same indices from the shape at run time. As constants they say
    in the file itself which cells a patch has, for whoever reads it.

    Source:
        ``torch.nn.Unfold``: block ``l`` reads cell ``i·dilation + l·stride - padding`` of an axis.
    """
    sizes = None if self.shape is None or len(self.shape) != 4 else [*self.shape][1:]
    if sizes is None or not all(isinstance(extent, int) for extent in sizes):
        computed: ir.Value = nn.aten_im2col(self, kernel_size, dilation, padding, stride)
        return computed
    channels, *extents = cast("list[int]", sizes)
    rows, columns = (
        _cells(extents[axis], kernel_size[axis], dilation[axis], padding[axis], stride[axis])
        for axis in (0, 1)
    )
    padded: Any = self
    if any(padding):
        padded = op.Pad(cast(Any, self), _constant([0, 0, *padding, 0, 0, *padding]))
    patches = op.Gather(op.Gather(padded, _constant(rows), axis=2), _constant(columns), axis=4)
    ordered = op.Transpose(patches, perm=[0, 1, 2, 4, 3, 5])
    shape = [-1, channels * math.prod(kernel_size), rows.shape[1] * columns.shape[1]]
    whole: ir.Value = op.Reshape(ordered, _constant(shape))
    return whole


def _cells(extent: int, kernel: int, dilation: int, padding: int, stride: int) -> np.ndarray[Any, Any]:
    """``[kernel, blocks]``: the padded cells of every block of an axis."""
    starts = np.arange(0, extent + 2 * padding - dilation * (kernel - 1), stride)
    return np.arange(kernel)[:, np.newaxis] * dilation + starts


def _constant(values: Any) -> Any:
    return op.Constant(value=cast(Any, ir.tensor(np.asarray(values, np.int64))))
