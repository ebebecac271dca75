"""``aten.as_strided`` where it only restates a value: an average pool's result, and nothing else here.

An adaptive pool to 1×1 on a map in channels-last order (ConvNeXt, Swin) is traced as a mean followed by
``as_strided``, which says how the result lies in memory. ONNX values have no memory: the exporter writes
a Gather over indices that it computes from the batch size, which no compiler takes for what it is.

Source:
    ATen ``adaptive_avg_pool2d_symint`` (AdaptiveAveragePooling.cpp): ``out.as_strided_({n, c, 1, 1},
    {c, 1, c, c})``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import onnx_ir as ir
from onnxscript import opset18 as op
from onnxscript.function_libs.torch_lib.ops import core


def as_strided(
    self: ir.Value, size: Sequence[Any], stride: Sequence[Any], storage_offset: Any = None
) -> ir.Value:
    """The operand itself where size and strides are its own in row-major order, else a Gather."""
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
