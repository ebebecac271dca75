"""What a file holds that no reader of its graph sees."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from fxexport.language import NotRead, derive, graph_of_onnx


def outside(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """The tensor with its values in a file of their own."""
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    return tensor


@pytest.mark.parametrize("place", ["branch", "attribute", "sparse", "function"])
def test_values_that_lie_elsewhere_are_not_taken_for_equal(place: str) -> None:
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 2])
    given = outside(numpy_helper.from_array(np.array([1, 2], np.float32), "w"))
    result = helper.make_empty_tensor_value_info("b")
    branch = helper.make_graph([helper.make_node("Add", ["x", "w"], ["b"])], "g", [], [result], [given])
    node, functions, sparse = helper.make_node("Add", ["x", "x"], ["y"]), [], []
    if place == "branch":
        node = helper.make_node("If", ["is"], ["y"], then_branch=branch, else_branch=branch)
    elif place == "attribute":
        node = helper.make_node("Constant", [], ["y"], value=given)
    elif place == "sparse":
        indices = numpy_helper.from_array(np.array([0, 1], np.int64))
        sparse = [helper.make_sparse_tensor(given, indices, [4])]
    else:
        node = helper.make_node("F", [], ["y"], domain="own")
        inner = helper.make_node("Constant", [], ["c"], value=given)
        functions = [helper.make_function("own", "F", [], ["c"], [inner], [helper.make_opsetid("", 20)])]
    graph = helper.make_graph(
        [node], "m", [value], [helper.make_empty_tensor_value_info("y")], sparse_initializer=sparse
    )
    graph.initializer.append(numpy_helper.from_array(np.asarray(True), "is"))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    with pytest.raises(NotRead, match="lie outside"):
        graph_of_onnx(helper.make_model(graph, opset_imports=opsets, functions=functions))


def behind(body: str, head: str) -> onnx.ModelProto:
    """A head behind a node without a rule, and a convolution."""
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[n,3,h,w] x, int64[8] sizes) => (float[n,2] y) '
        f"{{ {body} p = GlobalAveragePool (c) {head} }}"
    )
    weight = np.arange(8, dtype=np.float32).reshape(2, 4) + 1
    stored = {"k": np.ones((4, 3, 1, 1), np.float32), "v": weight, "w": weight.reshape(2, 4, 1, 1)}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in stored.items())
    return model


HEADS = "f = Flatten (p) y = Gemm <transB = 1> (f, v)", "d = Conv (p, w) y = Flatten (d)"


@pytest.mark.parametrize(
    "body",
    [
        "a = Pad (x, sizes) c = Conv (a, k)",
        "s = Cast <to = 1> (sizes) t = Ceil (s) u = Cast <to = 7> (t) a = Pad (x, u) c = Conv (a, k)",
        "i = IsNaN (x) z = Constant <value_float = 0.0> () a = Where (i, z, x) c = Conv (a, k)",
        "q = Constant <value_ints = [0, 1]> () t = Transpose <perm = [0, 2, 3, 1]> (x) "
        "g = Gather <axis = 3> (t, q) a = GridSample (x, g) c = Conv (a, k)",
        "z = Constant <value_ints = [0]> () e = Constant <value_ints = [6]> () i = Slice (sizes, z, e) "
        "s = Constant <value_ints = [1, 3, 2]> () q = Reshape (i, s) a = GatherND (x, q) c = Conv (a, k)",
        "b = Conv (x, k) c, i = MaxPool <kernel_shape = [2, 2], dilations = [2, 2], ceil_mode = 1> (b)",
        "s = Constant <value_ints = [-1, 3, 2, 2]> () a = Reshape (x, s) c = Conv (a, k)",
    ],
)
def test_a_head_behind_what_nobody_reads_is_proved(body: str) -> None:
    linear, convolution = (graph_of_onnx(behind(body, head)) for head in HEADS)
    assert derive(linear, convolution).is_proved
    other = behind(body, HEADS[1])
    other.graph.initializer[2].raw_data = (np.arange(8, dtype=np.float32) + 1.5).tobytes()
    assert not derive(linear, graph_of_onnx(other)).is_proved


def test_what_a_runtime_may_give_another_shape_has_none() -> None:
    """ONNX's inference takes the shape of the first operand for PRelu's; ONNX Runtime broadcasts both."""
    body = "r = ReduceMean <keepdims = 1> (x, last) q = PRelu (r, x) b = ReduceSum (q, last) c = Conv (b, k)"
    model = behind(body, HEADS[0])
    model.graph.initializer.append(numpy_helper.from_array(np.array([3]), "last"))
    other = behind(body.replace("b = ReduceSum (q, last)", "b = Identity (q)"), HEADS[0])
    other.graph.initializer.append(numpy_helper.from_array(np.array([3]), "last"))
    assert not derive(graph_of_onnx(model), graph_of_onnx(other)).is_proved


def test_a_kernel_of_free_extents_is_none_that_is_read() -> None:
    """The input itself as weights: the reader's own ValueError was an internal error."""
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[n,3,h,w] x) => (float[1,n,a,b] y) '
        "{ y = Conv (c, x) }"
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 3, 9, 9), np.float32), "c"))
    assert derive(graph_of_onnx(model), graph_of_onnx(model)).is_proved


@pytest.mark.parametrize(
    ("first", "second", "is_one"), [("New", "New", True), ("New", "Newer", False), ("Clip", "Identity", True)]
)
def test_an_operator_that_onnx_has_not_equals_its_twin_alone(first: str, second: str, is_one: bool) -> None:
    """One of a later version, say; a clip without bounds is no operator."""
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[n,3] x) => (float[n,3] y) {{ y = {} (x) }}'
    graphs = [graph_of_onnx(parser.parse_model(text.format(name))) for name in (first, second)]
    assert derive(*graphs).is_proved is is_one


def test_a_name_that_nothing_gives_is_no_graph() -> None:
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[n,3] x) => (float[n,3] y) { y = Add (x, z) }'
    graph = graph_of_onnx(parser.parse_model(text))
    assert "nothing gives z" in str(derive(graph, graph).problem)


SIZED = {
    # as torch.onnx.export writes x.expand(n, -1, -1)
    "expanded": (
        "e = ConstantOfShape <value = int64[1] {1}> (three) o = Mul (e, minus) q = Equal (s, o) "
        "z = Where (q, e, s) y = Expand (t, z)",
        "y = Expand (t, s)",
    ),
    "where equal": ("q = Equal (s, s) z = Where (q, s, two) y = Expand (t, z)", "y = Expand (t, s)"),
    "rest": (
        "r = Mod (four, three) z = Concat <axis = 0> (n, r, two) y = Expand (t, z)",
        "y = Expand (t, s)",
    ),
}


@pytest.mark.parametrize("name", SIZED)
def test_sizes_that_are_compared_chosen_and_what_divisions_leave(name: str) -> None:
    """Their results had no shape: what read them was read as no operator that is known."""
    stored = {"two": [2], "three": [3], "four": [4], "minus": [-1], "one": [1], "zero": [0]}

    def graph(body: str) -> onnx.ModelProto:
        model = parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 17]> g (float[n,3] x) => (float[n,1,2] y) '
            f"{{ d = Shape (x) n = Gather (d, zero) s = Concat <axis = 0> (n, one, two) {body} }}"
        )
        model.graph.initializer.extend(
            numpy_helper.from_array(np.array(numbers, np.int64), key) for key, numbers in stored.items()
        )
        model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 1, 2), np.float32), "t"))
        return model

    found = derive(*(graph_of_onnx(graph(body)) for body in SIZED[name]))
    assert found.is_proved, found.unrelated


CHOSEN = '<ir_version: 8, opset_import: ["" : 18]> g (float[n,3] x) => (float[n,3] y) {{ {0} }}'
ROUTES = (
    "y = If (c) <then_branch = t () => (float[n,3] a) { e = Exp(x) a = Relu(e) }, "
    "else_branch = f () => (float[n,3] b) { b = Relu(x) }>"
)


@pytest.mark.parametrize(("stored", "plain"), [(1, "e = Exp(x) y = Relu(e)"), (0, "y = Relu(x)")])
def test_the_branch_that_is_always_taken_is_the_graph(stored: int, plain: str) -> None:
    chosen, other, own = (
        graph_of_onnx(parser.parse_model(CHOSEN.format(text)))
        for text in (
            f"c = Constant <value = bool {{{stored}}}> () {ROUTES}",
            f"c = Constant <value = bool {{{1 - stored}}}> () {ROUTES}",
            plain,
        )
    )
    assert derive(chosen, own).is_proved
    assert not derive(other, own).is_proved


def test_an_old_interpolation_repeats_cells() -> None:
    text = '<ir_version: 4, opset_import: ["" : {0}]> g (float[n,3,4,4] x) => (float[n,3,8,8] y) {{ {1} }}'
    scales = "s = Constant <value = float[4] {1, 1, 2, 2}> ()"
    nearest = 'mode = "nearest", nearest_mode = "floor", coordinate_transformation_mode = "asymmetric"'
    seven, nine, ten, linear, newer = (
        graph_of_onnx(parser.parse_model(text.format(version, nodes)))
        for version, nodes in (
            (7, "y = Upsample <scales = [1.0, 1.0, 2.0, 2.0]> (x)"),
            (9, f"{scales} y = Upsample (x, s)"),
            (10, f"{scales} y = Resize (x, s)"),
            (9, f'{scales} y = Upsample <mode = "linear"> (x, s)'),
            (11, f"{scales} y = Resize <{nearest}> (x, , s)"),
        )
    )
    assert derive(seven, newer).is_proved
    assert derive(nine, newer).is_proved
    assert derive(ten, newer).is_proved
    assert not derive(linear, newer).is_proved


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_a_head_behind_a_recurrent_layer_is_proved(kind: str, gates: int) -> None:
    """Captcha readers, say: nothing was known of the layer's shape, so that no axis could be followed."""
    heads = (
        "u = Transpose <perm = [0, 2, 1, 3]> (s) f = Reshape (u, k) y = MatMul (f, v)",
        "u = Transpose <perm = [0, 2, 1, 3]> (s) f = Reshape (u, k) a = Unsqueeze (f, last) "
        "b = Transpose <perm = [0, 2, 1, 3]> (a) c = Conv (b, w) d = Squeeze (c, last) "
        "y = Transpose <perm = [0, 2, 1]> (d)",
    )
    stored = {
        "i": np.ones((2, 2 * gates, 3), np.float32),
        "r": np.ones((2, 2 * gates, 2), np.float32),
        "k": np.array([0, 0, -1]),
        "last": np.array([3]),
        "v": np.arange(20, dtype=np.float32).reshape(4, 5),
        "w": np.arange(20, dtype=np.float32).reshape(4, 5).T.reshape(5, 4, 1, 1).copy(),
    }
    graphs = []
    for head in heads:
        text = f'{{ s = {kind} <hidden_size = 2, direction = "bidirectional"> (x, i, r) {head} }}'
        model = parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 18]> g (float[t,n,3] x) => (float[t,n,5] y) ' + text
        )
        model.graph.initializer.extend(numpy_helper.from_array(k, name) for name, k in stored.items())
        graphs.append(graph_of_onnx(model))
    assert derive(*graphs).is_proved


@pytest.mark.parametrize("version", [7, 10, 12, 13])
def test_a_dropout_that_names_its_mask_is_one_in_evaluation(version: int) -> None:
    header = f'<ir_version: 8, opset_import: ["" : {version}]> '
    named, plain = (
        graph_of_onnx(parser.parse_model(f"{header} g (float[n,3] x) => (float[n,3] y) {{ {text} }}"))
        for text in ("d, m = Dropout(x) y = Relu(d)", "y = Relu(x)")
    )
    assert derive(named, named).is_proved
    assert derive(named, plain).is_proved


VAR = (
    "m = ReduceMean <keepdims = 1> (x, axes) d = Sub (x, m) "
    "q = Mul (d, d) v = ReduceMean <keepdims = 1> (q, axes)"
)
COUNT = "s = Shape <start = 2> (x) i = ReduceProd <keepdims = 0> (s) c = Cast <to = 1> (i)"


def of_images(body: str, **stored: np.ndarray) -> onnx.ModelProto:
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 18]> g (float[n,3,5,4] x) => (float[n,2] y) {{ {body} '
        "p = GlobalAveragePool (b) f = Flatten (p) y = Gemm <transB = 1> (f, w) }"
    )
    given = {"axes": np.array([2, 3]), "one": np.array(1, np.float32)} | stored
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in given.items())
    return model


def test_the_number_of_cells_is_the_product_of_the_extents() -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3) + 1
    body = f"{VAR} {COUNT} n = Mul (v, c) l = Sub (c, one) u = Div (n, l) b = Div (x, u)"
    left = graph_of_onnx(of_images(body, w=weight))
    for factor, is_proved in ((19 / 20, True), (19 / 20 + 1e-5, False)):
        right = of_images(f"{VAR} b = Div (x, v)", w=(weight * factor).astype(np.float32))
        assert derive(left, graph_of_onnx(right)).is_proved is is_proved


def test_a_factor_that_nobody_computes_may_be_what_sets_weights_apart() -> None:
    """So the weights alone do not say that the two are other functions."""
    weight = np.arange(6, dtype=np.float32).reshape(2, 3) + 1
    body = "i = ReduceMax <keepdims = 0> (many) c = Cast <to = 1> (i) b = Mul (x, c)"
    left = of_images(body, many=np.array([2] * 70), w=weight)
    found = derive(graph_of_onnx(left), graph_of_onnx(of_images("b = Identity (x)", w=weight * 2)))
    assert found.constants
    assert found.unrelated
