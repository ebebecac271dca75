"""Shapes of an ONNX file's values as torch knows them."""

from __future__ import annotations

import pytest
import torch

from fxexport.onnx_dialect.extents import FakeValues

FLOAT = 1


@pytest.mark.parametrize("shape", [(2**40,) * 4, ("N", 2**40, 2**40), (2**62, 8)])
def test_of_a_tensor_larger_than_torch_counts_nothing_is_known(shape: tuple[int | str, ...]) -> None:
    """A Resize to it made ``check`` an internal error."""
    assert FakeValues().tensor((FLOAT, shape)) is None


def test_of_others_the_shape_is() -> None:
    found = FakeValues().tensor((FLOAT, ("N", 3, 4)))
    assert found is not None
    assert (found.dtype, found.shape[1:]) == (torch.float32, (3, 4))
