"""A weight in its other form is the same numbers in the same memory, and comes back."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from fxpasses.errors import PlanError
from fxpasses.report import Form
from fxpasses.weights.move import WeightMove, WeightOrder

kernels = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)
orders = st.sampled_from([*WeightOrder])


@given(out=st.integers(1, 3), channels=st.integers(1, 3), kernel=kernels, order=orders)
def test_there_and_back_in_place(
    out: int, channels: int, kernel: tuple[int, ...], order: WeightOrder
) -> None:
    size = math.prod(kernel)
    move = WeightMove(
        name="fc.weight",
        linear_shape=(out, channels * size),
        conv_shape=(out, channels, *kernel),
        order=order,
    )
    linear = torch.arange(float(out * channels * size)).reshape(move.linear_shape)
    conv = move.convert(linear, Form.CONV)
    assert conv.shape == move.shape(Form.CONV)
    assert conv.data_ptr() == linear.data_ptr()
    back = move.convert(conv, Form.LINEAR)
    assert back.data_ptr() == linear.data_ptr()
    assert torch.equal(back, linear)
    # as the two forms read it: whole numbers, so that the sums are exact in any order
    features = torch.arange(float(channels * size)).reshape(1, channels, *kernel) % 5
    by_conv = (features * conv).flatten(1).sum(1)
    is_last = order is WeightOrder.CHANNELS_LAST
    flat = (features.movedim(1, -1) if is_last else features).flatten(1)
    assert torch.equal(F.linear(flat, linear)[0], by_conv)


def test_shapes_of_different_numbers_are_no_move() -> None:
    with pytest.raises(PlanError, match="different numbers of weights"):
        WeightMove(name="fc.weight", linear_shape=(2, 3), conv_shape=(2, 4, 1, 1))
