"""``aten.im2col`` of a map whose size is known: gathers of constant indices, one an axis.

The exporter's own translation computes the same indices from the shape at run time. As constants they say
in the file itself which cells a patch has, for whoever reads it.

Source:
    ``torch.nn.Unfold``: block ``l`` reads cell ``i·dilation + l·stride - padding`` of an axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import onnx_ir as ir
from onnxscript import opset18 as op
from onnxscript.function_libs.torch_lib.ops import nn


def im2col(
    self: ir.Value,
    kernel_size: Sequence[int],
    dilation: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    stride: Sequence[int] = (1, 1),
) -> ir.Value:
    """``[N, C·kh·kw, L]``, by constant indices where channels, height and width are known."""
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
