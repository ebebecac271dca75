"""What in the numbers of one affine op forbids a rewrite."""

from __future__ import annotations

from typing import Any

import pytest
from torch import fx

from fxpasses.heads.layout import Layout, map_layout
from fxpasses.heads.refusals import arithmetic_problem, stepping_problem
from fxpasses.miss_codes import MissCode
from fxpasses.report import Form
from fxpasses.vocabulary.ops import Affine

MAP = map_layout(4, (2, 2))


def conv(**numbers: Any) -> Affine:
    usual = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "rank": 2}
    return Affine(source=fx.Graph().placeholder("x"), form=Form.CONV, **(usual | numbers))


LINEAR = Affine(source=fx.Graph().placeholder("x"), form=Form.LINEAR, rank=0)


@pytest.mark.parametrize(
    ("op", "layout", "kernel", "expected"),
    [
        (LINEAR, MAP, (), None),
        (conv(), MAP, (2, 2), None),
        (conv(stride=(2, 2)), MAP, (2, 2), None),
        (conv(transposed=True), MAP, (2, 2), MissCode.TRANSPOSED),
        (conv(groups=2), MAP, (2, 2), MissCode.GROUPS),
        (conv(padding=(0, 1)), MAP, (2, 2), MissCode.PADDING),
        (conv(dilation=(1, 2)), MAP, (2, 2), MissCode.DILATION),
        (conv(dilation=(2, 2)), map_layout(4, (1, 1)), (1, 1), None),
        (conv(rank=1, stride=(1,), padding=(0,), dilation=(1,)), MAP, (2,), MissCode.RANK),
        (conv(), map_layout(4, (2, None)), (2, 2), MissCode.UNKNOWN_EXTENT),
        (conv(), MAP, (1, 1), MissCode.KERNEL),
    ],
)
def test_arithmetic(op: Affine, layout: Layout, kernel: tuple[int, ...], expected: MissCode | None) -> None:
    problem = arithmetic_problem(op, layout, kernel)
    assert (problem and problem.code) == expected


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (LINEAR, None),
        (conv(), None),
        (conv(dilation=(2, 2)), None),
        (conv(stride=(1, 2)), MissCode.STRIDE),
        (conv(padding=(1, 1)), MissCode.PADDING),
        (conv(groups=4), MissCode.GROUPS),
        (conv(transposed=True), MissCode.TRANSPOSED),
    ],
)
def test_stepping(op: Affine, expected: MissCode | None) -> None:
    problem = stepping_problem(op)
    assert (problem and problem.code) == expected
