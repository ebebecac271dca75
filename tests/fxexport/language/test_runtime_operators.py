"""Operators that ONNX Runtime's optimiser writes, beside what it wrote them for and beside what it gives."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import parser

from fxexport.language import derive, graph_of_onnx

X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
HALF, ROOT, CUBE, WAVE = 0.5, 0.5**0.5, 0.044715, (2 / np.pi) ** 0.5


def gelu(of: str) -> str:
    return (
        f"{number('r', ROOT)} {number('h', HALF)} {number('o', 1)} d = Mul({of}, r) e = Erf(d) "
        f"f = Add(e, o) g = Mul({of}, f) y = Mul(g, h)"
    )


def number(name: str, value: float) -> str:
    return f"{name} = Constant <value_float = {float(value)}> ()"


def norm(of: str) -> str:
    return (
        f"a = Constant <value_ints = [-1]> () m = ReduceMean({of}, a) c = Sub({of}, m) s = Mul(c, c) "
        f"v = ReduceMean(s, a) {number('e', 1e-3)} w = Add(v, e) r = Sqrt(w) q = Div(c, r) "
        "t = Mul(q, x1) y = Add(t, x2)"
    )


ROWS = "x0 = Constant <value_float = 0.5> () x1 = Constant <value_floats = [1.0, 2.0, 3.0, 4.0]> () "
ROWS += "x2 = Constant <value_floats = [0.5, 0.25, 0.0, -1.0]> () "
WAVES = (
    f"{number('c', CUBE)} {number('u', WAVE)} {number('h', HALF)} {number('o', 1)} k = Mul(b, b) "
    "l = Mul(k, b) m = Mul(l, c) n = Add(b, m) p = Mul(n, u) t = Tanh(p) s = Add(t, o) "
    "g = Mul(b, s) y = Mul(g, h)"
)
SQUARE = "k = Constant <value = float[4,4] {1,2,3,4,5,6,7,8,9,8,7,6,5,4,3,2}> ()"
SAME = {
    "Gelu": ("y = com.microsoft.Gelu(x)", gelu("x")),
    "BiasGelu": ("y = com.microsoft.BiasGelu(x, x1)", "b = Add(x, x1) " + gelu("b")),
    "FastGelu": ("y = com.microsoft.FastGelu(x, x1)", "b = Add(x, x1) " + WAVES),
    "FastGelu without bias": ("y = com.microsoft.FastGelu(x)", "b = Identity(x) " + WAVES),
    "QuickGelu": (
        "y = com.microsoft.QuickGelu <alpha = 1.5> (x)",
        f"{number('f', 1.5)} a = Mul(x, f) s = Sigmoid(a) y = Mul(x, s)",
    ),
    "QuickGelu of 1": ("y = com.microsoft.QuickGelu <alpha = 1.0> (x)", "s = Sigmoid(x) y = Mul(x, s)"),
    "QuickGelu by default": (
        "y = com.microsoft.QuickGelu(x)",
        f"{number('f', 1.702)} a = Mul(x, f) s = Sigmoid(a) y = Mul(x, s)",
    ),
    "FusedMatMul": (
        "y = com.microsoft.FusedMatMul <alpha = 0.5, transB = 1> (x, x)",
        "t = Transpose <perm = [0, 2, 1]> (x) m = MatMul(x, t) y = Mul(m, x0)",
    ),
    "FusedMatMul, turned first": (
        "y = com.microsoft.FusedMatMul <transA = 1> (x, x)",
        "t = Transpose <perm = [0, 2, 1]> (x) y = MatMul(t, x)",
    ),
    "FusedMatMul of rows that stand first": (
        "y = com.microsoft.FusedMatMul <transBatchA = 1, transBatchB = 1, transB = 1> (x, x)",
        "a = Transpose <perm = [1, 0, 2]> (x) b = Transpose <perm = [1, 2, 0]> (x) y = MatMul(a, b)",
    ),
    "FusedMatMul of columns that stand first": (
        "y = com.microsoft.FusedMatMul <transBatchA = 1, transA = 1, transBatchB = 1> (x, x)",
        "a = Transpose <perm = [1, 2, 0]> (x) b = Transpose <perm = [1, 0, 2]> (x) y = MatMul(a, b)",
    ),
    "SkipLayerNormalization": (
        "k = Exp(x) y, , , z = com.microsoft.SkipLayerNormalization <epsilon = 0.001> (x, k, x1, x2) ",
        "k = Exp(x) z = Add(x, k) " + norm("z"),
    ),
    "SkipLayerNormalization with a bias": (
        "k = Exp(x) y = com.microsoft.SkipLayerNormalization <epsilon = 0.001> (x, k, x1, x2, x1) ",
        "k = Exp(x) j = Add(k, x1) z = Add(x, j) " + norm("z"),
    ),
    "SkipLayerNormalization behind a product": (
        f"{SQUARE} u = MatMul(x, k) "
        "y = com.microsoft.SkipLayerNormalization <epsilon = 0.001> (u, x, x1, x2, x1) ",
        f"{SQUARE} u = MatMul(x, k) j = Add(u, x1) z = Add(x, j) " + norm("z"),
    ),
}
JOINED = (
    f"w = Constant <value = float[4,14] {{{', '.join(str((7 * k % 11 - 5) / 4) for k in range(56))}}}> () "
    f"b = Constant <value = float[14] {{{', '.join(str((5 * k % 7 - 3) / 4) for k in range(14))}}}> () "
)
ATTENDED = (
    f"{JOINED} r = MatMul (x, w) j = Add (r, b) i = Constant <value_ints = [4, 4, 6]> () "
    "q, k, v = Split <axis = 2> (j, i) h = Constant <value_ints = [0, 0, 2, -1]> () "
    "q1 = Reshape (q, h) k1 = Reshape (k, h) v1 = Reshape (v, h) "
    "q2 = Transpose <perm = [0, 2, 1, 3]> (q1) k2 = Transpose <perm = [0, 2, 3, 1]> (k1) "
    f"v2 = Transpose <perm = [0, 2, 1, 3]> (v1) {number('f', 0.7)} p = MatMul (q2, k2) s = Mul (p, f) "
    "t = Softmax <axis = -1> (s) o = MatMul (t, v2) u = Transpose <perm = [0, 2, 1, 3]> (o) "
    "l = Constant <value_ints = [0, 0, -1]> () y = Reshape (u, l)"
)
ATTENTION = (
    f"{JOINED} y = com.microsoft.Attention <num_heads = 2, scale = 0.7, qkv_hidden_sizes = [4, 4, 6]> "
    "(x, w, b)"
)
SAME |= {
    "Attention": (ATTENTION, ATTENDED),
    "Attention, scaled by its width": (
        ATTENTION.replace("scale = 0.7, ", ""),
        ATTENDED.replace(number("f", 0.7), number("f", 2**-0.5)),
    ),
}
CONVOLVED = "w = Constant <value = float[2,3,1] {1,2,3,4,5,6}> () "
MULTIPLIED = "r = Flatten <axis = 2> (x) w = Constant <value = float[4,2] {1,2,3,4,5,6,7,8}> () "
ACTIVATIONS = {
    "Clip": ("[-0.5, 2.0]", f"{number('l', -0.5)} {number('u', 2)} z = Clip(c, l, u)"),
    "HardSigmoid": ("[0.3, 0.4]", "z = HardSigmoid <alpha = 0.3, beta = 0.4> (c)"),
    "LeakyRelu": ("[0.2]", "z = LeakyRelu <alpha = 0.2> (c)"),
}
PRODUCTS = {
    "Elu": (", activation_alpha = 0.5", "z = Elu <alpha = 0.5> (c)"),
    "HardSigmoid": (
        ", activation_alpha = 0.3, activation_beta = 0.4",
        "z = HardSigmoid <alpha = 0.3, beta = 0.4> (c)",
    ),
    "LeakyRelu": (", activation_alpha = 0.2", "z = LeakyRelu <alpha = 0.2> (c)"),
    "Softplus": ("", "z = Softplus(c)"),
}
ROW = "f = Constant <value_ints = [1, -1, 2]> () y = Reshape (z, f)"
SAME |= {
    f"FusedConv with {name}": (
        f'{CONVOLVED} y = com.microsoft.FusedConv <activation = "{name}", activation_params = {numbers}> '
        "(x, w)",
        f"{CONVOLVED} c = Conv (x, w) {plain} y = Identity (z)",
    )
    for name, (numbers, plain) in ACTIVATIONS.items()
} | {
    f"FusedGemm with {name}": (
        f'{MULTIPLIED} z = com.microsoft.FusedGemm <activation = "{name}"{numbers}> (r, w) {ROW}',
        f"{MULTIPLIED} c = Gemm (r, w) {plain} {ROW}",
    )
    for name, (numbers, plain) in PRODUCTS.items()
}
OTHER = {
    "rows that stand second": (
        SAME["FusedMatMul of rows that stand first"][0].replace("transBatchB = 1, ", ""),
        SAME["FusedMatMul of rows that stand first"][1],
    ),
    **{
        f"attention {what}": (ATTENTION.replace(*changed), ATTENDED)
        for what, changed in {
            "of one head": ("num_heads = 2", "num_heads = 1"),
            "of another scale": ("scale = 0.7", "scale = 0.5"),
            "cut elsewhere": ("[4, 4, 6]", "[6, 6, 2]"),
            "of what came before": ("scale = 0.7", "scale = 0.7, unidirectional = 1"),
            "that turns places": ("scale = 0.7", "scale = 0.7, do_rotary = 1"),
            "without biases": ("(x, w, b)", "(x, w)"),
            "of masked places": ("(x, w, b)", "(x, w, b, m)"),
        }.items()
    },
    **{
        f"an activation of {what}": (SAME[name][0].replace(*changed), SAME[name][1])
        for name, what, changed in (
            ("FusedConv with Clip", "other bounds", ("[-0.5, 2.0]", "[-0.5, 1.0]")),
            ("FusedConv with Clip", "bounds the other way round", ("[-0.5, 2.0]", "[2.0, -0.5]")),
            ("FusedConv with HardSigmoid", "numbers the other way round", ("[0.3, 0.4]", "[0.4, 0.3]")),
            ("FusedConv with HardSigmoid", "too few numbers", ("[0.3, 0.4]", "[0.3]")),
            ("FusedConv with LeakyRelu", "another slope", ("[0.2]", "[0.3]")),
            ("FusedConv with LeakyRelu", "too many numbers", ("[0.2]", "[0.2, 1.0]")),
            ("FusedGemm with Elu", "a number that is another's", ("activation_alpha", "activation_beta")),
            ("FusedGemm with LeakyRelu", "another number", ("0.2", "0.3")),
            ("FusedGemm with Softplus", "another kind", ('"Softplus"', '"Tanh"')),
        )
    },
    "another alpha": (SAME["QuickGelu of 1"][0], SAME["QuickGelu"][1]),
    "the other gelu": (SAME["Gelu"][0], SAME["FastGelu without bias"][1]),
    "the other operand": (SAME["FusedMatMul"][0].replace("transB", "transA"), SAME["FusedMatMul"][1]),
    "a batch in another place": (
        SAME["FusedMatMul, turned first"][0].replace("transA", "transBatchA"),
        "y = MatMul(x, x)",
    ),
    "another epsilon": (
        SAME["SkipLayerNormalization"][0].replace("0.001", "0.002"),
        SAME["SkipLayerNormalization"][1],
    ),
    "no bias": (
        SAME["SkipLayerNormalization with a bias"][0].replace(", x1) ", ") "),
        SAME["SkipLayerNormalization with a bias"][1],
    ),
}


def model(text: str) -> onnx.ModelProto:
    return parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18, "com.microsoft" : 1]> '
        f"g (float[2,3,4] x) => (float[n,m,k] y) {{ {ROWS} {text} }}"
    )


def run(text: str) -> np.ndarray:
    session = ort.InferenceSession(model(text).SerializeToString())
    return np.asarray(session.run(None, {"x": X})[0])


@pytest.mark.parametrize("name", SAME)
def test_what_the_optimiser_writes_is_what_it_was(name: str) -> None:
    fused, plain = SAME[name]
    np.testing.assert_allclose(run(fused), run(plain), rtol=1e-4, atol=1e-4)
    assert derive(graph_of_onnx(model(plain)), graph_of_onnx(model(fused))).is_proved


@pytest.mark.parametrize("name", OTHER)
def test_what_it_would_write_for_something_else_is_not(name: str) -> None:
    assert not derive(*(graph_of_onnx(model(text)) for text in OTHER[name])).is_proved
