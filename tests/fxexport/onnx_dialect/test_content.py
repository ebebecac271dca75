"""What a file's bytes say before anything of it is decoded."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fxexport.onnx_dialect.content import bits_of, bytes_of

_NUMBERS = [name for name in onnx.TensorProto.DataType.keys() if name not in ("UNDEFINED", "STRING")]


@pytest.mark.parametrize("name", _NUMBERS)
def test_numbers_take_as_many_bytes_as_onnx_writes(name: str) -> None:
    element = onnx.TensorProto.DataType.Value(name)
    tensor = numpy_helper.from_array(np.zeros(9, onnx.helper.tensor_dtype_to_np_dtype(element)))
    assert tensor.data_type == element
    assert bytes_of(tensor) == len(tensor.raw_data)


def test_texts_and_what_is_no_type_have_no_bits() -> None:
    assert [bits_of(element) for element in (0, onnx.TensorProto.STRING, 999)] == [0, 0, 0]
