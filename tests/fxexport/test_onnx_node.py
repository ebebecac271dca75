"""The one reader of ONNX attributes: defaults by version, texts as text, names that graphs capture."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from fxexport.onnx_node import (
    array_of,
    attributes_of,
    captured,
    defaults_of,
    rename_reads,
    value_of,
    versions_of,
)


@pytest.mark.parametrize(("version", "axis"), [(11, 1), (13, -1)])
def test_what_is_left_out_has_the_default_of_the_files_version(version: int, axis: int) -> None:
    node = helper.make_node("Softmax", ["x"], ["y"])
    assert attributes_of(node, {"": version}) == {"axis": axis}
    node.domain = "ai.onnx"
    assert attributes_of(node, {"": version}) == {"axis": axis}


def test_a_default_that_no_schema_gives_is_none_and_what_must_be_given_is_absent() -> None:
    assert defaults_of("Conv", 13, "")["pads"] is None
    assert defaults_of("Conv", 13, "")["auto_pad"] == "NOTSET"
    assert "to" not in defaults_of("Cast", 13, "")
    assert defaults_of("Conv", onnx.defs.onnx_opset_version() + 1, "") == {}
    assert defaults_of("NoSuchOperator", 13, "") == {}


def test_texts_are_text_even_where_they_are_none() -> None:
    assert value_of(helper.make_attribute("a", "SAME")) == "SAME"
    assert value_of(helper.make_attribute("a", ["x", b"\xff"])) == ["x", "\udcff"]


def test_every_number_but_none_is_true() -> None:
    """As ONNX Runtime has it: of 256 the lowest byte is 0."""
    stored = onnx.TensorProto(data_type=onnx.TensorProto.BOOL, dims=[2, 2], int32_data=[256, 0, 1, 2])
    assert array_of(stored).tolist() == [[True, False], [True, True]]


def test_a_fused_operator_has_what_it_begins_with_has() -> None:
    node = helper.make_node("FusedConv", ["x", "w"], ["y"], domain="com.microsoft", activation="Relu")
    assert (
        attributes_of(node, {"": 13, "com.microsoft": 1}).items()
        >= {"group": 1, "activation": "Relu"}.items()
    )


def test_graphs_read_what_they_do_not_define_and_read_it_by_another_name() -> None:
    text = (
        '<ir_version: 8, opset_import: ["ai.onnx" : 13]> net (float[2] x, bool c) => (float[2] y) '
        "{ y = If<then_branch = one () => (float[2] a) { h = Neg(x) a = Identity(h) }, "
        "else_branch = two () => (float[2] x) { }>(c) }"
    )
    model = onnx.parser.parse_model(text)
    (node,) = model.graph.node
    assert versions_of(model) == {"": 13}
    assert captured(node) == ["x"]
    rename_reads(node, {"x": "z", "c": "d"})
    assert ([*node.input], captured(node)) == (["d"], ["z"])
