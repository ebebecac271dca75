"""What in the numbers of one affine op forbids a rewrite: its kernel, its steps, the map that it reads."""

from __future__ import annotations

from fxpasses.heads.layout import Layout
from fxpasses.miss_codes import MissCode
from fxpasses.report import Form, Problem
from fxpasses.vocabulary.ops import Affine


def stepping_problem(op: Affine) -> Problem | None:
    """Why a convolution is not the same Linear at every position of a map."""
    if op.form is Form.LINEAR:
        return None
    problem = _window_problem(op)
    if problem is None and set(op.stride) != {1}:
        return Problem(
            MissCode.STRIDE,
            f"it strides by {op.stride}",
            "slice the map before a convolution of stride 1",
        )
    return problem


def _window_problem(op: Affine) -> Problem | None:
    """Why a convolution is not one matrix for each window of its input."""
    if op.transposed:
        return Problem(
            MissCode.TRANSPOSED, "it is a transposed convolution", "write it as a plain convolution"
        )
    if op.groups != 1:
        return Problem(MissCode.GROUPS, f"it has {op.groups} groups", "only groups=1 equals one Linear")
    if any(op.padding):
        return Problem(
            MissCode.PADDING,
            f"it pads the map by {op.padding}",
            "only an unpadded convolution equals a Linear",
        )
    return None


def arithmetic_problem(op: Affine, layout: Layout, kernel: tuple[int, ...]) -> Problem | None:
    """Why a convolution is not a Linear of the flattened map that it reads."""
    if op.form is Form.LINEAR:
        return None
    problem = _window_problem(op)
    if problem is not None:
        return problem
    if any(step != 1 and extent != 1 for step, extent in zip(op.dilation, kernel, strict=True)):
        return Problem(
            MissCode.DILATION, f"it is dilated by {op.dilation}", "only a dense kernel equals a Linear"
        )
    if op.rank != layout.rank:
        return Problem(
            MissCode.RANK,
            f"it is a {op.rank}-D convolution on a pool of {layout.rank} axes",
            "pool and convolve over the same number of axes",
        )
    if None in layout.extents:
        return Problem(
            MissCode.UNKNOWN_EXTENT,
            "nothing in the graph says whether its kernel covers the pooled map",
            "pass example_inputs (--input-shape)",
        )
    if kernel != layout.extents:
        return Problem(
            MissCode.KERNEL,
            f"its kernel {kernel} does not cover the pooled {layout.extents} map",
            "pool to the kernel's size first",
        )
    return None
