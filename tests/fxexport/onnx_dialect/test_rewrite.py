"""ONNX in, ONNX out: the spellings of a head, both ways, and the way back byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper, parser

from fxexport.certificate import certify
from fxexport.language import derive, graph_of_onnx
from fxexport.onnx_dialect.content import Content
from fxexport.onnx_dialect.extents import FakeValues
from fxexport.onnx_dialect.open import OpenOnnx
from fxexport.onnx_dialect.rewrite import find_onnx_sites, rewrite_onnx
from fxexport.results import Verdict
from fxpasses.errors import FileError, InputError
from onnx_files import classifier, images, operators, outputs, require_same, weights

W, B = weights(5, 8), weights(5)
I64 = np.int64
DIMS = {"batch of one": "1,3,6,6"}

# body, constants, opset, the head after it became a convolution
HEADS: dict[str, tuple[str, dict[str, Any], int, list[str]]] = {
    "flatten": (
        "p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, w, b)",
        {"w": W, "b": B},
        7,
        ["GlobalAveragePool", "Conv", "Flatten"],
    ),
    "newest": (
        "p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, w, b)",
        {"w": W, "b": B},
        25,
        ["GlobalAveragePool", "Conv", "Flatten"],
    ),
    "untransposed": (
        "p = GlobalAveragePool(r) f = Flatten(p) y = Gemm(f, w, b)",
        {"w": W.T.copy(), "b": B},
        13,
        ["GlobalAveragePool", "Conv", "Flatten"],
    ),
    "matmul": (
        "p = GlobalAveragePool(r) f = Flatten(p) q = MatMul(f, w) y = Add(q, b)",
        {"w": W.T.copy(), "b": B},
        13,
        ["GlobalAveragePool", "Conv", "Flatten"],
    ),
    "bias first": (
        "p = GlobalAveragePool(r) f = Flatten(p) q = MatMul(f, w) y = Add(b, q)",
        {"w": W.T.copy(), "b": B},
        13,
        ["GlobalAveragePool", "Conv", "Flatten"],
    ),
    "matmul alone": (
        "p = GlobalAveragePool(r) f = Flatten(p) y = MatMul(f, w)",
        {"w": W.T.copy()},
        9,
        ["GlobalAveragePool", "Conv", "Flatten"],
    ),
    "reshape": (
        "p = GlobalAveragePool(r) f = Reshape(p, s) y = Gemm<transB=1>(f, w, b)",
        {"w": W, "b": B, "s": np.array([-1, 8], I64)},
        13,
        ["GlobalAveragePool", "Conv", "Reshape"],
    ),
    "zero reshape": (
        "p = GlobalAveragePool(r) f = Reshape(p, s) y = Gemm<transB=1>(f, w, b)",
        {"w": W, "b": B, "s": np.array([0, -1], I64)},
        13,
        ["GlobalAveragePool", "Conv", "Reshape"],
    ),
    "size chain": (
        "p = GlobalAveragePool(r) sh = Shape(p) n = Gather(sh, i) u = Unsqueeze(n, i1) "
        "s = Concat<axis=0>(u, m1) f = Reshape(p, s) y = Gemm<transB=1>(f, w, b)",
        {"w": W, "b": B, "i": np.array(0, I64), "i1": np.array([0], I64), "m1": np.array([-1], I64)},
        13,
        ["GlobalAveragePool", "Conv", "Reshape"],
    ),
    "mean, attribute": (
        "f = ReduceMean<axes=[2,3], keepdims=0>(r) y = Gemm<transB=1>(f, w, b)",
        {"w": W, "b": B},
        13,
        ["ReduceMean", "Conv", "Flatten"],
    ),
    "mean, input": (
        "f = ReduceMean<keepdims=0>(r, axes) y = Gemm<transB=1>(f, w, b)",
        {"w": W, "b": B, "axes": np.array([-1, -2], I64)},
        18,
        ["ReduceMean", "Conv", "Flatten"],
    ),
    "mean, axes computed from constants": (  # torch.onnx.export(optimize=False)
        "i = Reshape(last, last) a = Reshape(axes, i) f = ReduceMean<keepdims=0>(r, a) "
        "y = Gemm<transB=1>(f, w, b)",
        {"w": W, "b": B, "axes": np.array([-1, -2], I64), "last": np.array([-1], I64)},
        18,
        ["ReduceMean", "Conv", "Flatten"],
    ),
    "stored in half precision": (
        "p = GlobalAveragePool(r) f = Flatten(p) v = Cast<to=1>(w) c = Cast<to=1>(b) "
        "y = Gemm<transB=1>(f, v, c)",
        {"w": W.astype(np.float16), "b": B.astype(np.float16)},
        13,
        ["GlobalAveragePool", "Cast", "Cast", "Conv", "Flatten"],
    ),
    "stored in half precision, untransposed": (
        "p = GlobalAveragePool(r) f = Flatten(p) v = Cast<to=1>(w) q = MatMul(f, v) y = Add(q, b)",
        {"w": W.T.astype(np.float16), "b": B},
        13,
        ["GlobalAveragePool", "Cast", "Conv", "Flatten"],
    ),
    "squeeze, attribute": (
        "p = GlobalAveragePool(r) f = Squeeze<axes=[2,3]>(p) y = Gemm<transB=1>(f, w, b)",
        {"w": W, "b": B},
        11,
        ["GlobalAveragePool", "Conv", "Flatten"],
    ),
    "squeeze, input": (
        "p = GlobalAveragePool(r) f = Squeeze(p, axes) y = Gemm<transB=1>(f, w, b)",
        {"w": W, "b": B, "axes": np.array([2, 3], I64)},
        13,
        ["GlobalAveragePool", "Conv", "Flatten"],
    ),
    "grid": (
        "p = AveragePool<kernel_shape=[3,2], strides=[3,2]>(r) f = Flatten(p) y = Gemm<transB=1>(f, w, b)",
        {"w": weights(5, 48), "b": B},
        13,
        ["AveragePool", "Conv", "Flatten"],
    ),
    "channels last grid": (
        "p = AveragePool<kernel_shape=[3,2], strides=[3,2]>(r) d = Dropout(p) "
        "t = Transpose<perm=[0,2,3,1]>(d) f = Reshape(t, s) y = MatMul(f, w)",
        {"w": weights(48, 5), "s": np.array([0, -1], I64)},
        13,
        ["AveragePool", "Dropout", "Conv", "Reshape"],
    ),
    "average pool behind computed pads": (
        "a = Reshape(pads, pairs) c = Slice(a, last, first, zero, last) d = Transpose<perm=[1,0]>(c) "
        "e = Reshape(d, last) q = Pad(r, e) p = AveragePool<kernel_shape=[8,8]>(q) f = Flatten(p) "
        "y = Gemm<transB=1>(f, w, b)",
        {
            "w": W,
            "b": B,
            "pads": I64([1, 1, 1, 1, 0, 0, 0, 0]),
            "pairs": I64([-1, 2]),
            "last": I64([-1]),
            "first": I64([-(2**62)]),
            "zero": I64([0]),
        },
        13,
        ["Reshape", "Slice", "Transpose", "Reshape", "Pad", "AveragePool", "Conv", "Flatten"],
    ),
    "average pool": (
        "p = AveragePool<kernel_shape=[6,6]>(r) f = Flatten(p) y = Gemm<transB=1>(f, w, b)",
        {"w": W, "b": B},
        13,
        ["AveragePool", "Conv", "Flatten"],
    ),
    "max pool": (
        "p = GlobalMaxPool(r) f = Flatten(p) y = Gemm<transB=1>(f, w, b)",
        {"w": W, "b": B},
        13,
        ["GlobalMaxPool", "Conv", "Flatten"],
    ),
    "softmax behind": (
        "p = GlobalAveragePool(r) f = Flatten(p) g = Gemm<transB=1>(f, w, b) y = Softmax<axis=-1>(g)",
        {"w": W, "b": B},
        13,
        ["GlobalAveragePool", "Conv", "Flatten", "Softmax"],
    ),
    "between": (
        "p = GlobalAveragePool(r) f = Flatten(p) d = Dropout(f) e = Identity(d) c = Cast<to=1>(e) "
        "y = Gemm<transB=1>(c, w, b)",
        {"w": W, "b": B},
        13,
        ["GlobalAveragePool", "Dropout", "Identity", "Cast", "Conv", "Flatten"],
    ),
    "two layers": (
        "p = GlobalAveragePool(r) f = Flatten(p) g = Gemm<transB=1>(f, v, c) h = HardSwish(g) "
        "y = Gemm<transB=1>(h, w, b)",
        {"v": weights(8, 8, seed=2), "c": weights(8), "w": W, "b": B},
        14,
        ["GlobalAveragePool", "Conv", "HardSwish", "Conv", "Flatten"],
    ),
    "clip": (
        "p = GlobalAveragePool(r) f = Flatten(p) g = Gemm<transB=1>(f, v) h = Clip(g, low, high) "
        "y = Gemm<transB=1>(h, w, b)",
        {
            "v": weights(8, 8, seed=2),
            "w": W,
            "b": B,
            "low": np.array(0, np.float32),
            "high": np.array(6, np.float32),
        },
        13,
        ["GlobalAveragePool", "Conv", "Clip", "Conv", "Flatten"],
    ),
    "alpha": (
        "p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1, alpha=0.5, beta=3.0>(f, w, b)",
        {"w": W, "b": B},
        13,
        ["GlobalAveragePool", "Conv", "Flatten", "Mul", "Mul", "Add"],
    ),
    "bias of two axes": (
        "p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, w, b)",
        {"w": W, "b": B[None]},
        13,
        ["GlobalAveragePool", "Conv", "Flatten", "Add"],
    ),
    "constants": (
        "p = GlobalAveragePool(r) f = Flatten(p) i = Identity(w) j = Identity(b) y = Gemm<transB=1>(f, i, j)",
        {"w": W, "b": B},
        13,
        ["GlobalAveragePool", "Conv", "Flatten"],
    ),
    "mask": (
        "p = GlobalAveragePool(r) f = Flatten(p) d, mask = Dropout(f, ratio, training) "
        "y = Gemm<transB=1>(d, w, b)",
        {"w": W, "b": B, "ratio": np.array(0.3, np.float32), "training": np.array(False)},
        13,
        ["GlobalAveragePool", "Dropout", "Conv", "Flatten"],
    ),
    "by columns": (
        "p = GlobalAveragePool(r) f = Flatten(p) t = Transpose<perm=[1,0]>(f) "
        "y = Gemm<transA=1, transB=1>(t, w, b)",
        {"w": W, "b": B},
        13,
        ["GlobalAveragePool", "Conv", "Flatten"],
    ),
    "layer norm": (
        "p = GlobalAveragePool(r) f = Flatten(p) n = LayerNormalization(f, v, c) y = Gemm<transB=1>(n, w, b)",
        {"w": W, "b": B, "v": weights(8), "c": weights(8, seed=3)},
        17,
        ["GlobalAveragePool", "Flatten", "LayerNormalization", "Reshape", "Conv", "Flatten"],
    ),
    "batch norm": (
        "p = GlobalAveragePool(r) f = Flatten(p) n = BatchNormalization(f, v, c, c, u) "
        "y = Gemm<transB=1>(n, w, b)",
        {"w": W, "b": B, "v": weights(8), "c": weights(8, seed=3), "u": np.ones(8, np.float32)},
        15,
        ["GlobalAveragePool", "BatchNormalization", "Conv", "Flatten"],
    ),
    "batch of one": (
        "p = GlobalAveragePool(r) f = Reshape(p, s) y = Gemm<transB=1>(f, w, b)",
        {"w": W, "b": B, "s": np.array([1, 8], I64)},
        13,
        ["GlobalAveragePool", "Conv", "Reshape"],
    ),
    "channels last": (
        "p = GlobalAveragePool(r) t = Transpose<perm=[0,2,3,1]>(p) f = Reshape(t, s) q = MatMul(f, w) "
        "y = Add(q, b)",
        {"w": W.T.copy(), "b": B, "s": np.array([-1, 8], I64)},
        13,
        ["GlobalAveragePool", "Conv", "Reshape"],
    ),
    "mean and maximum of channels last": (
        "t = Transpose<perm=[0,2,3,1]>(r) u = Relu(t) a = ReduceMean<axes=[1,2], keepdims=0>(u) "
        "m2 = ReduceMax<axes=[1,2], keepdims=0>(u) f = Concat<axis=-1>(a, m2) y = Gemm<transB=1>(f, w, b)",
        {"w": weights(5, 16), "b": B},
        13,
        ["Transpose", "Relu", "ReduceMean", "ReduceMax", "Concat", "Reshape", "Conv", "Flatten"],
    ),
    "mean of channels last": (
        "t = Transpose<perm=[0,2,3,1]>(r) f = ReduceMean<axes=[1,2], keepdims=0>(t) q = MatMul(f, w) "
        "y = Add(q, b)",
        {"w": W.T.copy(), "b": B},
        13,
        ["ReduceMean", "Conv", "Flatten"],
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_becomes_a_convolution_and_comes_back(name: str) -> None:
    body, constants, opset, expected = HEADS[name]
    sizes = (1,) if name == "batch of one" else (1, 2, 5)
    model = classifier(body, constants, opset=opset, dims=DIMS.get(name, "N,3,6,6"))
    before = model.SerializeToString()
    result = rewrite_onnx(model, to="conv")
    assert [miss.code for miss in result.report.misses] == []
    assert operators(result.module) == expected
    onnx.checker.check_model(result.module, full_check=True)
    for batch in sizes:
        require_same(model, result.module, images(batch))
    assert model.SerializeToString() == before
    back = rewrite_onnx(result.module, to="linear")
    assert back.module.SerializeToString() == before
    assert back.plan == result.plan.invert()


@pytest.mark.parametrize("name", HEADS)
def test_without_its_record_a_convolution_becomes_a_linear(name: str) -> None:
    body, constants, opset, _ = HEADS[name]
    model = classifier(body, constants, opset=opset, dims=DIMS.get(name, "N,3,6,6"))
    conv = rewrite_onnx(model, to="conv").module
    del conv.metadata_props[:]
    linear = rewrite_onnx(conv, to="linear")
    assert "Conv" not in operators(linear.module)
    onnx.checker.check_model(linear.module, full_check=True)
    require_same(conv, linear.module, images(1 if name == "batch of one" else 3))


@pytest.mark.parametrize("activation", ["Relu", "Tanh"])
def test_operators_that_were_fused_with_an_activation(activation: str) -> None:
    fused = f'g = com.microsoft.FusedGemm<transB=1, activation="{activation}">(f, v, c)'
    body = f"p = GlobalAveragePool(r) f = Flatten(p) {fused} y = Gemm<transB=1>(g, w, b)"
    constants = {"v": weights(8, 8), "c": weights(8), "w": W, "b": B}
    model = classifier(body, constants, also=', "com.microsoft" : 1')
    made = rewrite_onnx(model, to="conv").module
    assert operators(made) == ["GlobalAveragePool", "Conv", activation, "Conv", "Flatten"]
    require_same(model, made, images())
    assert rewrite_onnx(made, to="linear").module.SerializeToString() == model.SerializeToString()


GEMM = "p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, w, b)"


def test_the_way_back_of_a_head_of_both_forms_is_no_way_back() -> None:
    body = "p = GlobalAveragePool(r) c = Conv(p, v) f = Flatten(c) y = Gemm<transB=1>(f, w, b)"
    model = classifier(body, {"v": weights(8, 8, 1, 1), "w": W, "b": B})
    made = rewrite_onnx(model, to="conv")
    assert made.report.trace.notes == ()
    back = rewrite_onnx(made.module, to="linear")
    assert operators(back.module) == ["GlobalAveragePool", "Flatten", "Gemm", "Gemm"]
    (note,) = back.report.trace.notes
    assert note.startswith("'v' had the form conv already in the file that this one was made from")


def test_a_head_behind_fused_convolutions(tmp_path: Path) -> None:
    """Nothing was known of the shape that they give: their head was called one that no pool feeds."""
    body = 's = com.microsoft.FusedConv<activation="Relu", pads=[1,1,1,1]>(r, k, c) ' + GEMM.replace(
        "(r)", "(s)"
    )
    constants = {"k": weights(8, 8, 3, 3), "c": weights(8), "w": W, "b": B}
    model = classifier(body, constants, also=', "com.microsoft" : 1')
    files = tmp_path / "linear.onnx", tmp_path / "conv.onnx"
    made = rewrite_onnx(model, to="conv").module
    require_same(model, made, images())
    for path, file in zip(files, (model, made), strict=True):
        onnx.save(file, path)
    assert certify(*files, images()).verdict is Verdict.PROVED
    for node in made.graph.node:
        if node.op_type == "FusedConv":
            (activation,) = (item for item in node.attribute if item.name == "activation")
            activation.s = b"Tanh"
    onnx.save(made, files[1])
    assert certify(*files, images()).verdict is Verdict.BROKEN


def test_a_pool_goes_between_a_convolution_and_what_was_fused_with_it() -> None:
    """The node was kept, as if it read other names: the pool behind the convolution was gone."""
    body = 'p = GlobalAveragePool(r) c = com.microsoft.FusedConv<activation="Relu">(p, w, b) y = Flatten(c)'
    model = classifier(body, {"w": W[:, :, None, None], "b": B}, also=', "com.microsoft" : 1')
    made = rewrite_onnx(model, to="dense").module
    assert operators(made) == ["Conv", "GlobalAveragePool", "Relu", "Flatten"]
    require_same(model, made, images())


def test_sizes_that_are_computed_through_views_and_declared() -> None:
    """As jax2onnx writes a reshape: the graph was called broken."""
    size = (
        "s = Shape(p) g = Gather<axis=0>(s, zero) q = Squeeze(g, zero) u = Unsqueeze(q, zero) "
        "n = Concat<axis=0>(u, rest) f = Reshape(p, n) "
    )
    body = GEMM.replace("f = Flatten(p) ", size)
    stored = {"zero": np.array([0]), "rest": np.array([8]), "w": W, "b": B}
    model = classifier(body, stored)
    for name, dims in {"q": [], "u": [1]}.items():
        value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, dims)
        model.graph.value_info.append(value)
    made = rewrite_onnx(model, to="conv").module
    assert "Conv" in operators(made)
    require_same(model, made, images())
    assert rewrite_onnx(made, to="linear").module.SerializeToString() == model.SerializeToString()


def test_a_transposed_copy_is_told_in_bytes_and_a_view_costs_none() -> None:
    body, constants, opset, _ = HEADS["matmul"]
    turned = rewrite_onnx(classifier(body, constants, opset=opset), to="conv")
    assert [entry.copied_bytes for entry in turned.report.rewrites] == [W.nbytes]
    viewed = rewrite_onnx(classifier(GEMM, {"w": W, "b": B}), to="conv")
    assert [entry.copied_bytes for entry in viewed.report.rewrites] == [0]
    held = {tensor.name: tensor for tensor in viewed.module.graph.initializer}["w"]
    assert tuple(held.dims) == (5, 8, 1, 1)
    assert held.raw_data == W.tobytes()


def test_what_is_not_the_head_keeps_its_bytes() -> None:
    model = classifier(GEMM, {"w": W, "b": B})
    model.doc_string, model.producer_name = "of the model", "somebody"
    for number, node in enumerate(model.graph.node):
        node.name, node.doc_string = f"node {number}", f"doc {number}"
        node.metadata_props.add(key="k", value=str(number))
    model.graph.doc_string = "of the graph"
    made = rewrite_onnx(model, to="conv").module
    before, after = {n.name: n for n in model.graph.node}, {n.name: n for n in made.graph.node}
    assert list(after) == ["node 0", "node 1", "node 2", "node 4", "node 3"]
    for name in ("node 0", "node 1", "node 2"):
        assert after[name].SerializeToString() == before[name].SerializeToString()
    gemm, conv = before["node 4"], after["node 4"]
    assert (conv.op_type, conv.doc_string) == ("Conv", gemm.doc_string)
    assert [*conv.metadata_props] == [*gemm.metadata_props]
    assert (made.doc_string, made.producer_name, made.graph.doc_string) == (
        "of the model",
        "somebody",
        "of the graph",
    )
    assert made.graph.output == model.graph.output
    assert made.graph.input == model.graph.input


def test_declared_shapes_follow_what_moved() -> None:
    body, constants, opset, _ = HEADS["two layers"]
    model = onnx.shape_inference.infer_shapes(classifier(body, constants, opset=opset))
    for name in ("w", "v"):
        model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, 1, constants[name].shape))
    made = rewrite_onnx(model, to="conv").module
    onnx.checker.check_model(made, full_check=True)
    shapes = {value.name: value.type.tensor_type.shape.dim for value in made.graph.value_info}
    found = {name: [dim.dim_value or dim.dim_param for dim in dims] for name, dims in shapes.items()}
    assert (found["p"], found["g"], found["h"]) == (["N", 8, 1, 1], ["N", 8, 1, 1], ["N", 8, 1, 1])
    assert (found["w"], found["v"], found["r"]) == ([5, 8, 1, 1], [8, 8, 1, 1], ["N", 8, 6, 6])
    assert "f" not in found


@pytest.mark.parametrize("to", ["dense", "fcn"])
@pytest.mark.parametrize("name", ["flatten", "matmul", "mean, input", "average pool", "channels last"])
def test_a_head_before_its_pool_or_on_every_window(name: str, to: str) -> None:
    body, constants, opset, _ = HEADS[name]
    model = classifier(body, constants, opset=opset)
    made = rewrite_onnx(model, to=to)
    assert [(entry.before, entry.to) for entry in made.report.rewrites] == [("Linear(8, 5)", to)]
    onnx.checker.check_model(made.module, full_check=True)
    (before,), (after,) = outputs(model, images()), outputs(made.module, images())
    assert after.shape == (before.shape if to == "dense" else (*before.shape, 1, 1))
    np.testing.assert_allclose(after.reshape(before.shape), before, rtol=2e-5, atol=2e-6)
    assert rewrite_onnx(made.module, to="linear").module.SerializeToString() == model.SerializeToString()
    conv = rewrite_onnx(model, to="conv").module.graph
    assert rewrite_onnx(made.module, to="conv").module.graph == conv


def test_numbers_for_each_channel_between_two_layers_follow_the_form() -> None:
    body = (
        "p = GlobalAveragePool(r) f = Flatten(p) g = Gemm<transB=1>(f, v, c) h = Mul(g, c) k = Max(h, c) "
        "y = Gemm<transB=1>(k, w, b)"
    )
    model = classifier(body, {"v": weights(8, 8, seed=2), "c": weights(8), "w": W, "b": B})
    made = rewrite_onnx(model, to="conv").module
    onnx.checker.check_model(made, full_check=True)
    require_same(model, made, images())
    assert rewrite_onnx(made, to="linear").module.SerializeToString() == model.SerializeToString()
    del made.metadata_props[:]
    require_same(model, rewrite_onnx(made, to="linear").module, images())


@pytest.mark.parametrize("operator", ["Add", "Mul", "Div"])
def test_a_number_for_each_class_stands_before_the_pool_too(operator: str) -> None:
    body = GEMM.replace("y =", "g =") + f" y = {operator}(g, v)"
    model = classifier(body, {"w": W, "b": B, "v": weights(5, seed=4)})
    made = rewrite_onnx(model, to="dense")
    assert len(made.report.rewrites) == 1
    assert made.report.trace.notes == ()
    onnx.checker.check_model(made.module, full_check=True)
    require_same(model, made.module, images())


def test_a_maximum_over_all_of_a_map_of_one_size_is_a_pool() -> None:
    """So TorchScript's exporter writes an adaptive one; the window slides where it is any smaller."""
    pools = "p = GlobalAveragePool(r) q = MaxPool<kernel_shape=[6, 6], strides=[6, 6]>(r) "
    head = "c = Concat<axis=1>(p, q) f = Flatten(c) y = Gemm<transB=1>(f, w, b)"
    model = classifier(pools + head, {"w": weights(5, 16), "b": B})
    made = rewrite_onnx(model, to="conv").module
    assert operators(made) == ["GlobalAveragePool", "MaxPool", "Concat", "Conv", "Flatten"]
    require_same(model, made, images())
    assert rewrite_onnx(made, to="linear").module == model
    smaller = classifier(pools.replace("[6, 6]", "[3, 6]") + head, {"w": weights(5, 16), "b": B})
    assert not rewrite_onnx(smaller, to="conv").report.rewrites


@pytest.mark.parametrize("is_fixed", [True, False])
def test_windows_on_a_larger_input(is_fixed: bool) -> None:
    model = classifier(GEMM, {"w": W, "b": B}, dims="N,3,6,6" if is_fixed else "N,3,H,Wi")
    if is_fixed:
        model = onnx.shape_inference.infer_shapes(model)
    made = rewrite_onnx(model, to="fcn", input_shapes=() if is_fixed else [(1, 3, 6, 6)])
    onnx.checker.check_model(made.module, full_check=True)
    large = images(2, size=9)
    (scores,) = outputs(made.module, large)
    assert scores.shape == (2, 5, 4, 4)
    r = classifier("y = Identity(r)", {}, dims="N,3,9,9", result="float[N,8,9,9] y")
    (maps,) = outputs(r, large)
    window = maps[:, :, 2:8, 1:7].mean(axis=(2, 3))
    np.testing.assert_allclose(scores[:, :, 2, 1], window @ W.T + B, rtol=1e-4, atol=1e-5)
    assert rewrite_onnx(made.module, to="linear").module.SerializeToString() == model.SerializeToString()


def test_a_map_of_any_size_where_the_graph_takes_one() -> None:
    model = onnx.shape_inference.infer_shapes(classifier(GEMM, {"w": W, "b": B}))
    made = rewrite_onnx(model, to="dense")
    assert made.report.trace.notes == ()
    onnx.checker.check_model(made.module, full_check=True)
    (scores,) = outputs(made.module, images(2, size=9))
    (maps,) = outputs(
        classifier("y = Identity(r)", {}, dims="N,3,9,9", result="float[N,8,9,9] y"), images(2, size=9)
    )
    np.testing.assert_allclose(scores, maps.mean(axis=(2, 3)) @ W.T + B, rtol=1e-4, atol=1e-5)
    assert rewrite_onnx(made.module, to="linear").module.SerializeToString() == model.SerializeToString()


HELD = {
    "the output 'y' would grow": ("p = AveragePool<kernel_shape=[6,6]>(r) f = Flatten(p)", {}),
    "Reshape 't' gives one size only": (
        "q = Reshape(r, s) t = Reshape(q, u) p = GlobalAveragePool(t) f = Flatten(p)",
        {"s": np.array([0, 0, -1], I64), "u": np.array([0, 8, 6, 6], I64)},
    ),
    "op_type:Add": (
        "r1 = Add(r, grid) p = GlobalAveragePool(r1) f = Flatten(p)",
        {"grid": weights(1, 8, 6, 6)},
    ),
}


@pytest.mark.parametrize("reason", HELD)
def test_what_holds_a_file_at_its_size_is_told(reason: str) -> None:
    body, constants = HELD[reason]
    model = classifier(f"{body} y = Gemm<transB=1>(f, w, b)", {**constants, "w": W, "b": B})
    made = rewrite_onnx(model, to="dense")
    assert len(made.report.rewrites) == 1
    (note,) = made.report.trace.notes
    assert reason in note
    assert made.module.graph.input == model.graph.input
    require_same(model, made.module, images())


def test_windows_of_a_file_that_leaves_its_size_open_need_one() -> None:
    model = classifier(GEMM, {"w": W, "b": B}, dims="N,3,H,Wi")
    with pytest.raises(InputError, match="--input-shape"):
        rewrite_onnx(model, to="fcn")


def test_a_file_without_a_head_needs_no_size() -> None:
    model = classifier(
        "y = Conv(r, point)", {"point": weights(5, 8, 1, 1)}, dims="N,3,H,Wi", result="float[N,5,H,Wi] y"
    )
    made = rewrite_onnx(model, to="fcn")
    assert [miss.code for miss in made.report.misses] == ["NOT_POOLED"]
    assert made.module == model


def of_last_channels(head: str, opset: int = 17) -> onnx.ModelProto:
    """A classifier of images ``[N, H, W, C]``, as TensorFlow's exporters write it."""
    model = classifier(f"p = GlobalAveragePool(r) f = Flatten(p) {head}", {"w": W, "b": B}, opset=opset)
    model.graph.node.insert(0, onnx.helper.make_node("Transpose", ["image"], ["x"], perm=[0, 3, 1, 2]))
    model.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("image", 1, ["N", 6, 6, 3]))
    return model


@pytest.mark.parametrize("to", ["dense", "fcn"])
def test_the_map_of_an_image_whose_channels_come_last_is_open(to: str) -> None:
    """The last two axes were opened, the channels among them."""
    made = rewrite_onnx(of_last_channels("y = Gemm<transB=1>(f, w, b)"), to=to).module
    dims = made.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["N", "height", "width", 3]
    assert outputs(made, images(2, size=9).transpose(0, 2, 3, 1))[0].shape[:2] == (2, 5)


@pytest.mark.parametrize("to", ["dense", "fcn"])
def test_such_a_file_is_certified_at_another_size(to: str) -> None:
    """The channels were made more: what the file cannot run was called a bug."""
    model = of_last_channels("y = Gemm<transB=1>(f, w, b)")
    if to == "dense":
        for dim, name in zip(model.graph.input[0].type.tensor_type.shape.dim[1:3], "hw", strict=True):
            dim.dim_param = name
    found = certify(model, rewrite_onnx(model, to=to).module, weights(2, 6, 6, 3))
    assert found.verdict == ("proved" if to == "dense" else "agrees"), found.reason
    assert [size.size for size in found.sizes] == ["8x7"]
    assert found.sizes[0].verdict == found.verdict


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
def test_scores_of_a_window_sum_to_one(operator: str, opset: int) -> None:
    """Before opset 13, one along axis 1 is one of all axes behind it too."""
    body = GEMM.replace("y =", "g =") + f" y = {operator}<axis=1>(g)"
    model = classifier(body, {"w": W, "b": B}, opset=opset)
    made = rewrite_onnx(model, to="fcn").module
    onnx.checker.check_model(made, full_check=True)
    (scores,) = outputs(made, images(2, size=9))
    assert scores.shape == (2, 5, 4, 4)
    shares = scores if operator == "Softmax" else np.exp(scores)
    np.testing.assert_allclose(shares.sum(axis=1), np.ones((2, 4, 4)), rtol=1e-5)


def test_a_backbone_of_one_size_keeps_it() -> None:
    body = "q = Reshape(r, s) t = Reshape(q, u) " + GEMM.replace("(r)", "(t)")
    constants = {"w": W, "b": B, "s": np.array([0, 8, 36], I64), "u": np.array([0, 8, 6, 6], I64)}
    model = classifier(body, constants)
    made = rewrite_onnx(model, to="fcn").module
    assert made.graph.input == model.graph.input
    assert outputs(made, images())[0].shape == (3, 5, 1, 1)


def test_two_heads_and_a_value_that_is_given_out_too() -> None:
    body = (
        "p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, w, b) g = Gemm<transB=1>(f, v) "
        "z = Sigmoid(g)"
    )
    result = "float[N,5] y, float[N,8] f, float[N,2] z, float[N,2] g"
    model = classifier(body, {"w": W, "b": B, "v": weights(2, 8)}, result=result)
    made = rewrite_onnx(model, to="conv")
    assert len(made.report.rewrites) == 2
    onnx.checker.check_model(made.module, full_check=True)
    assert made.module.graph.output == model.graph.output
    require_same(model, made.module, images())
    assert rewrite_onnx(made.module, to="linear").module.SerializeToString() == model.SerializeToString()


def test_one_weight_of_two_heads_moves_with_both_and_a_strangers_stays() -> None:
    twice = "p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, w, b) z = Gemm<transB=1>(f, w)"
    model = classifier(twice, {"w": W, "b": B}, result="float[N,5] y, float[N,5] z")
    made = rewrite_onnx(model, to="conv")
    assert len(made.report.rewrites) == 2
    require_same(model, made.module, images())
    strange = "p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, w, b) z = Neg(w)"
    model = classifier(strange, {"w": W, "b": B}, result="float[N,5] y, float[5,8] z")
    missed = rewrite_onnx(model, to="conv")
    assert [miss.code for miss in missed.report.misses] == ["TIED_WEIGHT"]
    assert missed.module == model


def test_a_weight_in_a_constant_node() -> None:
    model = classifier(GEMM, {"b": B})
    held = onnx.numpy_helper.from_array(W, "w")
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], "holds w", value=held))
    made = rewrite_onnx(model, to="conv")
    assert operators(made.module) == ["Relu", "GlobalAveragePool", "Conv", "Flatten"]
    require_same(model, made.module, images())
    assert rewrite_onnx(made.module, to="linear").module.SerializeToString() == model.SerializeToString()


def test_a_sparse_initialiser_is_a_value_like_any_other() -> None:
    body = "s = Mul(r, scale) p = GlobalAveragePool(s) f = Flatten(p) y = Gemm<transB=1>(f, w, b)"
    model = classifier(body, {"w": W, "b": B})
    value, place = np.float32([2]), np.int64([0])
    parts = onnx.numpy_helper.from_array(value, "scale"), onnx.numpy_helper.from_array(place, "")
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(*parts, [1]))
    made = rewrite_onnx(model, to="conv")
    assert operators(made.module) == ["Mul", "GlobalAveragePool", "Conv", "Flatten"]
    require_same(model, made.module, images())
    assert rewrite_onnx(made.module, to="linear").module.SerializeToString() == model.SerializeToString()


def test_a_name_of_many_levels_is_no_tree_of_modules() -> None:
    name = "a." * 60_000 + "w"
    model = classifier(GEMM, {name: W, "b": B})
    next(node for node in model.graph.node if node.op_type == "Gemm").input[1] = name
    opened = OpenOnnx(Content(model.SerializeToString()))
    assert len(opened.root._modules) == 0
    made = rewrite_onnx(model, to="conv")
    require_same(model, made.module, images())
    assert rewrite_onnx(made.module, to="linear").module.SerializeToString() == model.SerializeToString()


def test_weights_that_are_inputs_too_are_declared_in_their_new_shape() -> None:
    model = classifier(GEMM, {"w": W, "b": B}, opset=8, ir_version=3)
    for tensor in model.graph.initializer:
        value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(value)
    made = rewrite_onnx(model, to="conv")
    onnx.checker.check_model(made.module, full_check=True)
    assert [value.name for value in made.module.graph.input] == ["x", "stem", "w", "b"]
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in made.module.graph.input
    }
    assert shapes["w"] == [5, 8, 1, 1]
    assert rewrite_onnx(made.module, to="linear").module.SerializeToString() == model.SerializeToString()


def test_a_subgraph_reads_what_it_read() -> None:
    body = (
        "p = GlobalAveragePool(r) f = Flatten(p) h = Relu(f) g = Gemm<transB=1>(h, w, b) "
        "t = ReduceSum<keepdims=0>(g) c = Greater(t, zero) "
        "y = If<then_branch = one () => (float[N,5] a) { a = Identity(g) }, "
        "else_branch = two () => (float[N,5] e) { n = MatMul(h, v) e = Add(g, n) }>(c)"
    )
    constants = {"w": W, "b": B, "v": W.T.copy(), "zero": np.array(0, np.float32)}
    model = classifier(body, constants)
    made = rewrite_onnx(model, to="conv")
    assert len(made.report.rewrites) == 1
    onnx.checker.check_model(made.module, full_check=True)
    for seed in range(3):
        require_same(model, made.module, weights(2, 3, 6, 6, seed=seed + 7))


def test_a_local_function_is_left_as_it_is() -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17, "own" : 1]> '
        "net (float[N,8,6,6] r) => (float[N,5] y) "
        "{ q = own.act(r) p = GlobalAveragePool(q) f = Flatten(p) y = Gemm<transB=1>(f, w, b) } "
        '<domain: "own", opset_import: ["" : 17]> act (a) => (c) { d = Relu(a) c = Neg(d) }'
    )
    model = onnx.parser.parse_model(text)
    for name, value in {"w": W, "b": B}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    made = rewrite_onnx(model, to="conv")
    assert len(made.report.rewrites) == 1
    assert [*made.module.functions] == [*model.functions]
    require_same(model, made.module, images(channels=8))


def test_sites_of_values_of_no_known_shape_change_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file was said to be broken: where open extents are added nothing tells what follows of them."""
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> net (float[N,8,6,6] r) => (float[N,5,1,1] y) '
        "{ p = GlobalAveragePool(r) f = Conv(p, square) g = Relu(f) y = Conv(g, w, b) }"
    )
    model = onnx.parser.parse_model(text)
    square = np.random.default_rng(2).standard_normal((8, 8, 1, 1)).astype(np.float32)
    for name, value in {"square": square, "w": W[..., None, None], "b": B}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    monkeypatch.setattr(FakeValues, "tensor", lambda self, shape: None)
    made = rewrite_onnx(model, to="linear", scope="all")
    assert len(made.report.rewrites) == 2
    require_same(model, made.module, images(channels=8))
    assert rewrite_onnx(made.module, to="conv", scope="all").module == model


def test_a_constant_node_stands_before_its_view() -> None:
    """The view was written first of all, and the node was taken for one that nothing reads any more."""
    numbers = ", ".join(map(str, range(1, 9)))
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> net (float[N,8,6,6] r) => (float[N,5,6,6] y) '
        "{ f = Conv(r, square) "
        f"c = Constant<value = float[1,8,1,1] {{{numbers}}}>() m = Mul(f, c) "
        f"b = Constant<value = float[1,8,1,1] {{{numbers}}}>() g = Add(m, b) h = Relu(g) y = Conv(h, w) }}"
    )
    model = onnx.parser.parse_model(text)
    square = np.random.default_rng(2).standard_normal((8, 8, 1, 1)).astype(np.float32)
    for name, value in {"square": square, "w": W[..., None, None]}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    made = rewrite_onnx(model, to="linear", scope="all")
    assert len(made.report.rewrites) == 2
    require_same(model, made.module, images(channels=8))
    assert rewrite_onnx(made.module, to="conv", scope="all").module == model


HEADS_INSIDE = {
    "a graph that reads the pool": (
        "p = GlobalAveragePool(r) f = Flatten(p) h = ReduceMax(f) "
        "k = Constant<value_float=1.0>() c = Less(h, k) "
        "y = If(c) <then_branch = then () => (float[N,5] t) { t = Gemm<transB=1>(f, w, b) }, "
        "else_branch = other () => (float[N,5] e) { g = Gemm<transB=1>(f, w, b) e = Neg(g) }>"
    ),
    "a function": "p = own.head(r, w, b) y = Identity(p)",
    "a graph": (
        "s = Shape(r) h = Size(s) k = Constant<value_int=4>() c = Equal(h, k) "
        "y = If(c) <then_branch = then () => (float[N,5] t) {"
        "p = GlobalAveragePool(r) f = Flatten(p) t = Gemm<transB=1>(f, w, b) }, "
        "else_branch = other () => (float[N,5] e) { q = ReduceMean<axes=[2, 3], keepdims=0>(r) "
        "e = Gemm<transB=1>(q, w, b) }>"
    ),
}


def test_a_view_behind_a_cast_is_declared_of_its_type() -> None:
    """It kept the type of its old place: ONNX Runtime refused the file."""
    pooled = "h = Cast<to=10>(r) p = GlobalAveragePool(h) f = Flatten(p) g = Cast<to=1>(f) "
    head = "o = Gemm<transB=1>(g, w, b) k = Cast<to=10>(o) y = Cast<to=1>(k)"
    model = classifier(pooled + head, {"w": W, "b": B})
    model = onnx.shape_inference.infer_shapes(model)
    made = rewrite_onnx(model, to="conv").module
    onnx.checker.check_model(made, full_check=True)
    (before,), (after,) = outputs(model, images()), outputs(made, images())
    np.testing.assert_allclose(after, before, atol=float(np.abs(before).max()) / 2**9)


@pytest.mark.parametrize("is_shaped", [True, False])
def test_a_pool_behind_a_cast_is_declared_of_its_type(is_shaped: bool) -> None:
    """The cast went before the pool, which kept the type of its old place: ONNX Runtime refused the file."""
    head = "q = Cast<to=10>(r) p = GlobalAveragePool(q) f = Flatten(p) g = Gemm<transB=1>(f, w, b) "
    model = classifier(head + "y = Cast<to=1>(g)", {"w": W.astype(np.float16), "b": B.astype(np.float16)})
    model = onnx.shape_inference.infer_shapes(model)
    for value in () if is_shaped else model.graph.value_info:
        value.type.tensor_type.ClearField("shape")
    made = rewrite_onnx(model, to="dense").module
    (before,), (after,) = outputs(model, images()), outputs(made, images())
    np.testing.assert_allclose(after, before, atol=float(np.abs(before).max()) / 2**9)


def test_nodes_in_any_order() -> None:
    """ONNX Runtime takes them so, and its converter to half precision puts casts of inputs last."""
    model = classifier(GEMM, {"w": W, "b": B})
    nodes = [*model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*nodes[1:], nodes[0]])
    made = rewrite_onnx(model, to="conv")
    assert len(made.report.rewrites) == 1
    onnx.checker.check_model(made.module, full_check=True)
    require_same(model, made.module, images())
    assert certify(model, made.module).verdict == "proved"
    assert rewrite_onnx(made.module, to="linear").module.SerializeToString() == model.SerializeToString()
    model.graph.node[-1].input[0] = "y"
    with pytest.raises(FileError, match="nothing before gives it"):
        rewrite_onnx(model, to="conv")


@pytest.mark.parametrize("scope", ["head", "all"])
@pytest.mark.parametrize("place", HEADS_INSIDE)
def test_a_head_inside_of_what_a_node_calls_is_a_miss(place: str, scope: str) -> None:
    """The file was said to have neither a site nor a miss."""
    text = (
        '<ir_version: 8, opset_import: ["" : 17, "own" : 1]> net (float[N,8,6,6] r) => (float[N,5] y) '
        f"{{ {HEADS_INSIDE[place]} }} "
        '<domain: "own", opset_import: ["" : 17]> head (r, w, b) => (y) '
        "{ p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, w, b) }"
    )
    model = onnx.parser.parse_model(text)
    for name, value in {"w": W, "b": B}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    missed = rewrite_onnx(model, to="conv", scope=scope)
    assert [miss.code for miss in missed.report.misses] == ["SUBGRAPH"]
    assert missed.module == model


MISSES = {
    "computed": (
        "p = GlobalAveragePool(r) f = Flatten(p) v = Neg(w) y = Gemm<transB=1>(f, v, b)",
        "COMPUTED_WEIGHT",
    ),
    "no pool": ("f = Flatten(r) y = Gemm<transB=1>(f, wide, b)", "NOT_POOLED"),
    "batch baked": (
        "p = GlobalAveragePool(r) f = Reshape(p, one) y = Gemm<transB=1>(f, w, b)",
        "BAKED_BATCH",
    ),
    "softmax behind no pool": (
        "f = Flatten(r) g = Gemm<transB=1>(f, wide, b) top = ReduceMax<axes=[1]>(g) y = Sub(g, top)",
        "NOT_POOLED",
    ),
    "one of several results": (
        "f = Flatten(r) g, h = Split<axis=1>(f) y = Gemm<transB=1>(g, half, b)",
        "NOT_POOLED",
    ),
    "what is not followed joins": (
        "p = GlobalMaxPool(r) f = Flatten(p) k = com.microsoft.nchwc.Own(r) "
        "mid = ReduceMean<axes=[1], keepdims=0>(f) u = Reshape(mid, k) e = Expand(u, k) h = Sub(f, e) "
        "y = Gemm<transB=1>(h, w, b)",
        "UNKNOWN_LAYOUT",
    ),
    "a pool of nobody knows how many axes": (
        "o = com.microsoft.nchwc.Own(r) p = GlobalAveragePool(o) f = Flatten(p) y = Gemm<transB=1>(f, w, b)",
        "UNKNOWN_LAYOUT",
    ),
    "a runtime's pool": (
        "p = com.microsoft.nchwc.GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, w, b)",
        "UNKNOWN_LAYOUT",
    ),
}


@pytest.mark.parametrize("name", MISSES)
def test_a_miss_says_the_node_and_leaves_the_model(name: str) -> None:
    body, code = MISSES[name]
    constants = {
        "w": W,
        "b": B,
        "wide": weights(5, 288),
        "half": weights(5, 144),
        "one": np.array([1, 8], I64),
    }
    used = {
        key: value
        for key, value in constants.items()
        if key in body.replace("(", " ").replace(",", " ").replace(")", " ").split()
    }
    model = classifier(body, used, also=', "com.microsoft.nchwc" : 1' if "nchwc" in body else "")
    for node in model.graph.node:
        node.name = f"the {node.op_type}"
    missed = rewrite_onnx(model, to="conv")
    found = [(miss.code, miss.node) for miss in missed.report.misses]
    assert found == [(code, "the Gemm")]
    assert missed.module == model
    assert [miss.code for miss in find_onnx_sites(model).misses] == [code]


def test_models_of_every_kind_give_their_own_kind(tmp_path: Any) -> None:
    model = classifier(GEMM, {"w": W, "b": B})
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    wanted = rewrite_onnx(model, to="conv").module
    assert rewrite_onnx(path, to="conv").module == wanted
    given = ir.from_proto(model)
    before = ir.to_proto(given)
    made = rewrite_onnx(given, to="conv").module
    assert isinstance(made, ir.Model)
    require_same(wanted, ir.to_proto(made), images())
    assert ir.to_proto(given) == before


def test_what_was_trained_meanwhile_comes_back_trained() -> None:
    wide = weights(300, 8)
    model = classifier(GEMM, {"w": wide, "b": weights(300)}, result="float[N,300] y")
    made = rewrite_onnx(model, to="conv").module
    next(tensor for tensor in made.graph.initializer if tensor.name == "w").raw_data = (wide * 2).tobytes()
    back = rewrite_onnx(made, to="linear").module
    require_same(made, back, images())
    assert operators(back) == operators(model)


def test_a_file_that_was_edited_meanwhile_goes_by_the_algebra() -> None:
    made = rewrite_onnx(classifier(GEMM, {"w": W, "b": B}), to="conv").module
    made.graph.output[0].name = made.graph.node[-1].output[0] = "scores"
    back = rewrite_onnx(made, to="linear").module
    assert [value.name for value in back.graph.output] == ["scores"]
    assert operators(back) == ["GlobalAveragePool", "Flatten", "Gemm"]
    assert not back.metadata_props or back.metadata_props[0].key == "fxhead.before"


def test_sites_are_found_with_their_scope() -> None:
    body = (
        "p = GlobalAveragePool(r) a = Conv(p, down) b1 = Relu(a) c = Conv(b1, up) d = Sigmoid(c) "
        "e = Mul(r, d) q = GlobalAveragePool(e) f = Flatten(q) y = Gemm<transB=1>(f, w, b)"
    )
    model = classifier(body, {"w": W, "b": B, "down": weights(4, 8, 1, 1), "up": weights(8, 4, 1, 1)})
    assert [site.weight for site in find_onnx_sites(model).sites] == ["w"]
    assert [site.weight for site in find_onnx_sites(model, scope="pooled").sites] == ["down", "up", "w"]
    made = rewrite_onnx(model, to="linear", scope="pooled")
    assert len(made.report.rewrites) == 2
    onnx.checker.check_model(made.module, full_check=True)
    require_same(model, made.module, images())
    back = rewrite_onnx(made.module, to="conv", scope="pooled")
    assert sum("Conv" == name for name in operators(back.module)) == 3
    require_same(model, back.module, images())


def test_an_open_extent_may_be_written_as_minus_one() -> None:
    model = classifier(GEMM, {"w": W, "b": B})
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    made = rewrite_onnx(model, to="conv")
    assert len(made.report.rewrites) == 1
    require_same(model, made.module, images())
    assert rewrite_onnx(made.module, to="linear").module.SerializeToString() == model.SerializeToString()


def test_an_attribute_that_is_no_number_is_as_it_was() -> None:
    """NaN equals nothing: its node was taken for one that had to be written anew."""
    head = "p = GlobalAveragePool(b) f = Flatten(p) y = Gemm<transB=1>(f, w)"
    body = f"b = BatchNormalization(r, s, s, s, s) {head}"
    model = classifier(body, {"s": np.ones(8, np.float32), "w": weights(5, 8)})
    (norm,) = (node for node in model.graph.node if node.op_type == "BatchNormalization")
    norm.attribute.append(onnx.helper.make_attribute("epsilon", float("nan")))
    assert "Conv" in operators(rewrite_onnx(model, "conv").module)


@pytest.mark.parametrize(
    ("kind", "prepared"),
    [
        ("float", "Scaler<offset=[1.0], scale=[0.5]>"),
        ("int64", "Scaler<offset=[1.0], scale=[0.5]>"),
        ("float", 'Normalizer<norm="L2">'),
        ("float", "Imputer<imputed_value_floats=[0.0]>"),
        ("float", "Binarizer<threshold=0.5>"),
    ],
)
def test_layers_behind_the_preparation_of_sklearn_are_rewritten_and_proved(kind: str, prepared: str) -> None:
    """ONNX has no rule for its shape: "nothing says how many axes it has", whatever inputs were given."""
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]> '
        f"net ({kind}[N,8] x) => (float[N,5] y) "
        f"{{ s = ai.onnx.ml.{prepared}(x) y = Gemm<transB=1>(s, w, b) }}"
    )
    model.graph.initializer.extend(numpy_helper.from_array(k, name) for name, k in (("w", W), ("b", B)))
    made = rewrite_onnx(model, to="conv", scope="all").module
    assert [node.op_type for node in made.graph.node][1:] == ["Reshape", "Conv", "Flatten"]
    assert derive(graph_of_onnx(model), graph_of_onnx(made)).is_proved
    given = weights(3, 8) if kind == "float" else np.arange(24, dtype=I64).reshape(3, 8)
    require_same(model, made, given)


def test_outputs_keep_their_rank_where_maps_have_their_channels_last() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> net (float[N,6,6,3] x) => (float[N,5] y) '
        "{ t = Transpose<perm=[0,3,1,2]>(x) r = Conv(t, stem) p = GlobalAveragePool(r) f = Flatten(p) "
        "y = Gemm<transB=1>(f, w, b) }"
    )
    constants = {"stem": weights(8, 3, 3, 3), "w": W, "b": B}
    model.graph.initializer.extend(numpy_helper.from_array(k, name) for name, k in constants.items())
    made = rewrite_onnx(model, to="dense").module
    onnx.checker.check_model(made, full_check=True)
    assert len(made.graph.output[0].type.tensor_type.shape.dim) == 2
    require_same(model, made, weights(2, 6, 6, 3))


@pytest.mark.parametrize("to", ["conv", "dense", "fcn"])
@pytest.mark.parametrize("axes", [[1, 2], [-3, -2]])
def test_a_mean_of_channels_last_is_a_pool_of_the_map_before_the_transposition(
    to: str, axes: list[int]
) -> None:
    """As Keras's global pool becomes one: it averaged tokens, and dense and fcn were refused."""
    body = "t = Transpose<perm=[0,2,3,1]>(r) f = ReduceMean<keepdims=0>(t, axes) y = Gemm<transB=1>(f, w, b)"
    model = classifier(body, {"w": W, "b": B, "axes": np.array(axes)}, opset=18)
    made = rewrite_onnx(model, to=to)
    assert len(made.report.rewrites) == 1
    assert "Transpose" not in operators(made.module)
    (before,), (after,) = outputs(model, images(2)), outputs(made.module, images(2))
    np.testing.assert_allclose(after.reshape(before.shape), before, rtol=2e-5, atol=1e-5)
    assert rewrite_onnx(made.module, to="linear").module.SerializeToString() == model.SerializeToString()


def test_a_mean_of_channels_last_that_stays_reads_what_it_read() -> None:
    body = "t = Transpose<perm=[0,2,3,1]>(r) f = ReduceMean<axes=[1,2], keepdims=0>(t) y = Mul(f, k)"
    both = "p = GlobalAveragePool(r) g = Flatten(p) z = Gemm<transB=1>(g, w, b) "
    model = classifier(both + body, {"w": W, "b": B, "k": weights(8)}, result="float[N,8] y, float[N,5] z")
    made = rewrite_onnx(model, to="conv").module
    assert "Transpose" in operators(made)
    require_same(model, made, images())


@pytest.mark.parametrize("sizes", [(), [(1, 3, 6, 6)]])
def test_sizes_that_were_given_are_no_part_of_the_file(sizes: Any) -> None:
    """A view that has the batch as a zero, as PaddlePaddle writes it: the height given became a constant."""
    body = (
        "t = Transpose<perm=[0,2,3,1]>(r) q = MatMul(t, v) sh = Shape(r) h = Slice(sh, two, three) "
        "s = Concat<axis=0>(zero, h, last) y = Reshape(q, s)"
    )
    numbers = {"two": 2, "three": 3, "zero": 0, "last": -1}
    constants = {"v": weights(8, 8), **{name: np.array([k]) for name, k in numbers.items()}}
    model = classifier(body, constants, dims="N,3,h,w", result="float[N,a,b] y")
    made = rewrite_onnx(model, to="conv", scope="all", input_shapes=sizes)
    assert len(made.report.rewrites) == 1
    for size in (6, 9):
        require_same(model, made.module, images(size=size))


def test_an_initialiser_that_a_file_no_longer_reads_is_asked_for_by_nobody() -> None:
    """It was an input, too, and stayed one: the file had two."""
    view = "p = GlobalAveragePool(r) f = Reshape(p, s) y = Gemm<transB=1>(f, w, b)"
    model = classifier(view, {"w": weights(5, 8), "b": weights(5), "s": np.array([-1, 8])})
    model.graph.input.append(onnx.helper.make_tensor_value_info("s", onnx.TensorProto.INT64, [2]))
    made = rewrite_onnx(model, to="conv").module
    assert certify(model, made).verdict is Verdict.PROVED


def test_a_cast_of_sizes_that_the_graph_knows_is_no_error() -> None:
    """As tf2onnx writes them; it ended in an error of the graph."""
    view = (
        "p = GlobalAveragePool(r) s = Shape(p) h = Cast<to=6>(s) z = Constant<value_ints=[0]>() "
        "o = Constant<value_ints=[1]>() n = Slice(h, z, o) k = Constant<value_ints=[8]>() l = Cast<to=6>(k) "
        "c = Concat<axis=0>(n, l) d = Cast<to=7>(c) f = Reshape(p, d) y = Gemm<transB=1>(f, w, b)"
    )
    model = classifier(view, {"w": W, "b": B})
    require_same(model, rewrite_onnx(model, to="conv").module, images())
