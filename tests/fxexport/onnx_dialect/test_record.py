"""The way back that a file holds is a stranger's word: what is no record, or does not fit, is none."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from fxexport.onnx_dialect.content import Content
from fxexport.onnx_dialect.pieces import between
from fxexport.onnx_dialect.record import KEY, record_of
from fxexport.onnx_graph.wire import head, varint_bytes
from fxhead import rewrite
from fxpasses.errors import FxHeadError


def plain() -> bytes:
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["f"])]
    graph = helper.make_graph(
        [*nodes, helper.make_node("Gemm", ["f", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor("w", TensorProto.FLOAT, [2, 3], [0.5] * 6)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return bytes(model.SerializeToString())


def forged(**data: Any) -> bytes:
    """The file with a record of whoever likes: its digest is right."""
    raw = plain()
    digest = Content(raw).digest([between(0, len(raw))], [])
    whole = {"version": 2, "to": "conv", "scope": "head", "input_shapes": [], "values": [], "digest": digest}
    whole |= {"pieces": [[0, [len(raw)], [0], 1]]} | data
    entry = onnx.StringStringEntryProto(key=KEY, value=json.dumps(whole)).SerializeToString()
    return raw + head(14, len(entry)) + bytes(entry)


def test_a_forged_record_is_a_record() -> None:
    """Else the next test shows nothing."""
    assert record_of(Content(forged())) is not None


@pytest.mark.parametrize(
    "data",
    [
        {"pieces": [[0, [0], [0], 10**30]]},
        {"pieces": [[0, [0, 10**30], [0, 1], 1]]},
        {"pieces": [[0, [10**6], [0], 1]]},
        {"pieces": [[0, [], [], 1]]},
        {"pieces": [None]},
        {"pieces": 5},
        {"values": "abc"},
        {"input_shapes": [[float("inf")]]},
        {"input_shapes": [[float("nan")]]},
        {"to": [1]},
        {"scope": {}},
    ],
)
def test_what_cannot_be_a_record_is_none(data: dict[str, Any]) -> None:
    assert record_of(Content(forged(**data))) is None


@pytest.mark.parametrize("tail", [b"\x70\x05", varint_bytes(14 << 3 | 1) + bytes(8), head(14, 0)])
def test_metadata_of_another_type_are_none(tail: bytes) -> None:
    assert record_of(Content(plain() + tail)) is None


@pytest.mark.parametrize(
    "shapes", [[], [[]], [[-1, 2, 4, 4]], [[0]], [[10**30, 2, 4, 4]], [[1, 2, 4, 4]] * 9]
)
def test_shapes_of_a_record_are_checked_as_the_user_s_are(shapes: Any, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(forged(input_shapes=shapes))
    with contextlib.suppress(FxHeadError):  # and nothing else
        rewrite(str(tmp_path / "m.onnx"), to="linear")


def test_a_record_may_stand_before_other_fields_where_the_file_was_saved_again() -> None:
    """Protobuf writes fields by their numbers: functions behind the metadata."""
    model = onnx.ModelProto.FromString(plain())
    model.opset_import.add(domain="own", version=1)
    act = helper.make_node("Relu", ["a"], ["b"])
    model.functions.append(
        helper.make_function("own", "Act", ["a"], ["b"], [act], [helper.make_opsetid("", 18)])
    )
    model.graph.node.insert(0, helper.make_node("Act", ["x"], ["z"], domain="own"))
    model.graph.node[1].input[0] = "z"
    there = rewrite(model, to="conv").module
    saved = there.SerializeToString()
    assert saved.index(KEY.encode()) < saved.index(b"Act", saved.index(KEY.encode()))
    assert rewrite(there, to="linear").module.SerializeToString() == model.SerializeToString()
