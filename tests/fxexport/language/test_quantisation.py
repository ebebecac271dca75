"""What quantising operators mean: in every version, by every attribute, as arithmetic, on ONNX Runtime."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from fxexport.language import Derivation, derive, graph_of_onnx
from fxexport.onnx_node import RUNTIME
from onnx_files import outputs

VERSIONS = (10, 13, 19, 21, 23, 24, 25, 28)
SCALES = np.array([0.1, 0.25, 0.3, 0.4], np.float32)


def model(body: str, opset: int = 21, scale: Any = SCALES, zero: Any = None) -> onnx.ModelProto:
    """A file that reads ``x`` of 4 x 4 cells, and the constants that its body names."""
    opsets = f'"" : {opset}, "{RUNTIME}" : 1'
    text = f"<ir_version: 8, opset_import: [{opsets}]> g (float[n,4,4] x) => (float[n,4,4] y) {{ {body} }}"
    made = parser.parse_model(text)
    zero = np.arange(scale.size).reshape(scale.shape).astype(np.int8) if zero is None else zero
    for name, array in {"s": scale, "z": zero, "one": np.float32(0.1), "o": np.int8(1)}.items():
        if f"{name}," in body or f"{name})" in body:
            made.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return made


def derived(first: onnx.ModelProto, second: onnx.ModelProto) -> Derivation:
    """What is derived of two files."""
    return derive(graph_of_onnx(first), graph_of_onnx(second))


@pytest.mark.parametrize("opset", VERSIONS)
def test_each_version_is_read(opset: int) -> None:
    body = "q = QuantizeLinear(x, one, o) y = DequantizeLinear(q, one, o)"
    moved = body.replace("(x,", "(t,").replace("y =", "u =")
    moved = f"t = Transpose<perm=[0,2,1]>(x) {moved} y = Transpose<perm=[0,2,1]>(u)"
    assert derived(model(body, opset), model(moved, opset)).is_proved
    if opset >= 13:  # and with the axis where the values moved
        along = body.replace("one, o", "s, z")
        turned = moved.replace("one, o", "s, z").replace("Linear(", "Linear<axis=2>(")
        assert derived(model(along, opset), model(turned, opset)).is_proved
        assert not derived(model(along, opset), model(moved.replace("one, o", "s, z"), opset)).is_proved


BLOCKS = np.full((1, 4, 2), 0.1, np.float32) * np.array([1, 2], np.float32)
OTHERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "axis": ("<axis=1>", "<axis=2>", {}),
    "block_size": ("<axis=2, block_size=2>", "<axis=2, block_size=3>", {"scale": BLOCKS}),
    "zero point": ("", "", {"zero": np.array([0, 1, 2, 4], np.int8)}),
    "scale": ("", "", {"scale": SCALES * np.float32(1.01)}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_every_argument_counts(name: str) -> None:
    first, second, constants = OTHERS[name]
    body = "q = QuantizeLinear{0}(x, s, z) y = DequantizeLinear{0}(q, s, z)"
    own = constants if first else {}
    one, other = model(body.format(first), **own), model(body.format(second), **constants)
    found = derived(one, model(body.format(first), **own))
    assert found.is_proved
    assert found.identities  # and not as foreign ones
    assert not derived(one, other).is_proved


@pytest.mark.parametrize(
    "attribute", ["output_dtype = 17, saturate = 0", "output_dtype = 3, precision = 10", "output_dtype = 22"]
)
def test_what_has_no_term_is_foreign(attribute: str) -> None:
    body = f"q = QuantizeLinear<{attribute}>(x, one) y = Cast<to=1>(q)"
    turned = f"t = Transpose<perm=[0,2,1]>(x) q = QuantizeLinear<{attribute}>(t, one) "
    turned += "c = Cast<to=1>(q) y = Transpose<perm=[0,2,1]>(c)"
    is_read = (
        attribute == "output_dtype = 22"
    )  # of 4 bits; the others are of floats of 8, and a half quotient
    found = derived(model(body, 23), model(turned, 23))
    assert found.is_proved is False
    assert ("QuantizeLinear" in str(found.unrelated[0].left.operator)) is not is_read


def test_weights_of_eight_bits_with_a_point() -> None:
    """As numbers they are reals of few bits: only to make them is a step of its own kind."""
    body = "w = DequantizeLinear(k, one) y = MatMul(x, w)"
    turned = "t = Transpose<perm=[1,0]>(k) v = DequantizeLinear(t, one) w = Transpose<perm=[1,0]>(v) "
    turned += "y = MatMul(x, w)"
    files = [model(text) for text in (body, turned)]
    for made in files:
        held = np.arange(16, dtype=np.float32).reshape(4, 4).astype(ml_dtypes.float8_e4m3fn)
        made.graph.initializer.append(numpy_helper.from_array(held, "k"))
    assert derived(*files).is_proved


def test_the_runtime_s_own_are_the_same() -> None:
    body = "q = {0}QuantizeLinear(x, s, z) y = {0}DequantizeLinear(q, s, z)"
    assert derived(model(body.format("")), model(body.format(f"{RUNTIME}."))).is_proved


def test_it_is_the_arithmetic_that_onnx_runtime_does() -> None:
    """Ties go to even numbers, and what is too large is held."""
    written = "q = QuantizeLinear(x, one, o) y = DequantizeLinear(q, one, o)"
    spelled = (
        "d = Div(x, one) r = Round(d) f = Cast<to=1>(o) a = Add(r, f) l = Constant<value_float=-128.0>() "
        "h = Constant<value_float=127.0>() c = Clip(a, l, h) q = Cast<to=3>(c) w = Cast<to=1>(q) "
        "e = Sub(w, f) y = Mul(e, one)"
    )
    one, other = model(written), model(spelled)
    assert derived(one, other).is_proved
    x = np.array([0.05, 0.15, 0.25, -0.05, -0.35, 1e6, -1e6, 12.65] * 2, np.float32).reshape(1, 4, 4)
    assert np.array_equal(outputs(one, x)[0], outputs(other, x)[0])


QUANTIZED = "q = QuantizeLinear({}, one, o) y = DequantizeLinear(q, one, o)"


@pytest.mark.parametrize("step", [QUANTIZED, "q = Greater({}, one) y = Cast<to=1>(q)"])
@pytest.mark.parametrize("is_same", [True, False])
def test_where_sums_are_rounded_or_compared_is_told(is_same: bool, step: str) -> None:
    """A step of what both files compute by the same nodes, however that is viewed, is the same step."""
    first = "a = MatMul(x, k) "
    second = first if is_same else 'a = Einsum<equation="bij,jk->bik">(x, k) '
    tail = f"v = Unsqueeze(a, axes) u = Squeeze(v, axes) {step}"
    files = [model(first + tail.format("u")), model(second + tail.format("a"))]
    for made in files:
        for name, array in {"axes": np.array([2]), "k": np.eye(4, dtype=np.float32)}.items():
            made.graph.initializer.append(numpy_helper.from_array(array, name))
    found = derived(*files)
    assert found.is_proved
    assert found.steps == (() if is_same else ("q",))


@pytest.mark.parametrize("spelled", ["MatMul(x, k)", 'Einsum<equation="bij,jk->bik">(x, k)', "MatMul(k, x)"])
def test_scales_that_are_found_as_the_file_runs(spelled: str) -> None:
    tail = " q, u, v = DynamicQuantizeLinear(a) y = DequantizeLinear(q, u, v)"
    files = [model("a = MatMul(x, k)" + tail), model(f"a = {spelled}" + tail)]
    for made in files:
        numbers = np.arange(16, dtype=np.float32).reshape(4, 4)
        made.graph.initializer.append(numpy_helper.from_array(numbers, "k"))
    found = derived(*files)
    assert found.is_proved is (spelled != "MatMul(k, x)")
    assert found.steps == (() if spelled == "MatMul(x, k)" else ("q",))


QUOTIENTS = {
    "half precision": (
        "h = Cast<to=10>(x) t = Cast<to=10>(one) y = QuantizeLinear(h, t, o)",
        "h = Cast<to=10>(x) t = Cast<to=10>(one) d = Div(h, t) r = Round(d) f = Cast<to=10>(o) a = Add(r, f) "
        "l = Constant<value_float=-128.0>() k = Constant<value_float=127.0>() m = Cast<to=10>(l) "
        "n = Cast<to=10>(k) c = Clip(a, m, n) y = Cast<to=3>(c)",
    ),
    "integers that half precision does not hold": (
        "i = Cast<to=6>(x) t = Cast<to=10>(one) y = DequantizeLinear(i, t)",
        "i = Cast<to=6>(x) t = Cast<to=10>(one) h = Cast<to=10>(i) y = Mul(h, t)",
    ),
    "a product in another type": (
        "q = QuantizeLinear(x, one, o) h = DequantizeLinear<output_dtype=10>(q, one, o) y = Cast<to=1>(h)",
        "q = QuantizeLinear(x, one, o) y = DequantizeLinear(q, one, o)",
    ),
}


@pytest.mark.parametrize("name", QUOTIENTS)
def test_what_is_computed_in_another_type_is_another_number(name: str) -> None:
    assert not derived(*(model(body, opset=23) for body in QUOTIENTS[name])).is_proved
