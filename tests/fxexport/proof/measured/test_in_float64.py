"""Constants that differ are another function where float64 shows it, and there alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper, parser
from torch import nn

from fxexport import Verdict, certify, export_onnx
from fxexport.subjects.module_subject import ModuleSubject
from fxexport.subjects.onnx_subject import OnnxSubject


class Block(nn.Module):
    """Norms without weights before attention and before two layers with a ReLU between; then a head."""

    def __init__(self, *, has_means: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(4))
        self.up, self.down, self.fc = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 5)
        self.unread, self.has_means = nn.Parameter(torch.ones(())), has_means

    def normed(self, x: torch.Tensor) -> torch.Tensor:
        x = x - x.mean(-1, keepdim=True) if self.has_means else x
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        y = self.normed(x)
        shares = torch.softmax(self.query(y) @ self.key(y).mT, -1, dtype=torch.float32)
        x = x + shares.to(x.dtype) @ self.value(y)
        x = x + self.down(self.up(self.normed(x)).relu())
        return self.fc(self.normed(x).mean(1)) + ((x - x) * self.unread).sum((1, 2))[:, None]


def tokens(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(8, 3, 8, generator=torch.Generator().manual_seed(1)).to(dtype)


def centred(model: Block) -> None:
    """What is normed adds up to zero."""
    model.up.weight.sub_(model.up.weight.mean(1, keepdim=True))


def turned(model: Block) -> None:
    """A root mean square is that of the turned vector."""
    turn = torch.linalg.qr(torch.arange(64.0).view(8, 8).sin() + torch.eye(8))[0]
    for layer in (model.first, model.value, model.down):
        layer.weight.copy_(turn @ layer.weight)
        layer.bias.copy_(turn @ layer.bias)
    for layer in (model.query, model.key, model.value, model.up, model.fc):
        layer.weight.copy_(layer.weight @ turn.T)


def biased(model: Block) -> None:
    """What every score of a query has alike a softmax takes away."""
    model.key.bias.add_(1.0)


def unread(model: Block) -> None:
    model.unread.mul_(3)


def scaled(model: Block) -> None:
    model.up.weight.mul_(3)
    model.up.bias.mul_(3)
    model.down.weight.div_(3)


HALF, SINGLE = torch.float16, torch.float32


def changed(
    change: Callable[[Block], None], dtype: torch.dtype, *, has_means: bool = True
) -> tuple[Block, Block]:
    reference, candidate = (Block(has_means=has_means).eval() for _ in range(2))
    with torch.no_grad():
        change(candidate)
    return reference.to(dtype), candidate.to(dtype)


@pytest.mark.parametrize(
    ("change", "dtype", "told"),
    [
        (centred, SINGLE, "if these numbers were rounded anew"),
        (turned, SINGLE, "if these numbers were rounded anew"),
        (scaled, HALF, "if these numbers were rounded anew"),
        (biased, HALF, "no input shows a difference, even in float64"),
        (unread, SINGLE, "no input shows a difference, even in float64"),
    ],
)
def test_other_constants_of_one_function_agree(
    change: Callable[[Block], None], dtype: torch.dtype, told: str
) -> None:
    pair = changed(change, dtype, has_means=change is not turned)
    certificate = certify(*pair, tokens(dtype))
    assert certificate.verdict is Verdict.AGREES, certificate.reason
    assert told in certificate.reason
    assert "constants of " in certificate.reason


@pytest.mark.parametrize("change", [centred, turned, scaled, lambda model: None])
def test_one_number_more_that_differs_is_seen(change: Callable[[Block], None]) -> None:
    pair = changed(change, SINGLE, has_means=change is not turned)
    with torch.no_grad():
        pair[1].up.weight[3, 2].mul_(1 + 2**-12 if change in (centred, turned, scaled) else 1 + 2**-23)
    certificate = certify(*pair, tokens())
    assert certificate.verdict is Verdict.BROKEN, certificate.reason
    witness = certificate.witness
    assert witness is not None
    assert witness.is_wide
    assert "in float64" in str(witness)
    assert any("in float64" in failure.what for failure in certificate.rounding.failures)
    values = []
    for model, inputs in zip(pair, (witness.reference, witness.candidate), strict=True):
        with torch.no_grad():
            wide = copy.deepcopy(model).double()
            values.append(float(wide(torch.from_numpy(inputs[0][1]).double())[witness.index]))
    assert abs(values[0] - values[1]) > (witness.bound or 0.0)


def nearly_the_same(model: Block) -> None:
    """A factor moved, but hardly any: that is a damage, as rounding to half precision is."""
    model.up.weight.mul_(1 + 2.0**-20)
    model.up.bias.mul_(1 + 2.0**-20)
    model.down.weight.div_(1 + 2.0**-20)


def test_numbers_that_are_nearly_the_same_have_not_moved() -> None:
    assert certify(*changed(nearly_the_same, SINGLE), tokens()).verdict is Verdict.BROKEN


def test_what_casts_to_fewer_digits_is_evaluated_in_float64_all_the_same() -> None:
    model = Block().eval()
    exact = ModuleSubject(model, [tokens().numpy()]).outputs64([(tokens().numpy(),)])
    assert exact is not None
    moved = copy.deepcopy(model)
    with torch.no_grad():
        moved.key.bias.add_(1.0)
    again = ModuleSubject(moved, [tokens().numpy()]).outputs64([(tokens().numpy(),)])
    assert again is not None
    assert np.abs(exact[0] - again[0]).max() < 2.0**-44  # which a softmax in float32 would not be


def file(path: Path, bias: float, tail: str = "", kind: str = "float") -> Path:
    """A Gemm and a softmax, in whose bias the same number is added to every class."""
    dtype = {"float": np.float32, "float16": np.float16}[kind]
    proto = parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 18, "com.microsoft": 1]> g ({kind}[N,6] x) => ({kind}[N,3] y) '
        f"{{ a = Gemm (x, w, b) s = Softmax (a) {tail or 'y = Identity (s)'} }}"
    )
    weights = np.random.default_rng(0).standard_normal((6, 3))
    for name, array in (("w", weights), ("b", np.array([0.5, 0.25, 1]) + bias)):
        proto.graph.initializer.append(numpy_helper.from_array(array.astype(dtype), name))
    onnx.save(proto, path)
    return path


ROWS = np.random.default_rng(1).standard_normal((8, 6))


@pytest.mark.parametrize("kind", ["float", "float16"])
def test_files_are_evaluated_in_float64(kind: str, tmp_path: Path) -> None:
    rows = ROWS.astype(np.float32 if kind == "float" else np.float16)
    first, second = (file(tmp_path / f"{bias}.onnx", bias, kind=kind) for bias in (0.0, 1.0))
    found = OnnxSubject(first).outputs64([(rows,)])
    assert found is not None
    assert found[0].dtype == np.float64
    assert certify(first, second, rows).verdict in (Verdict.AGREES, Verdict.PROVED)
    other = onnx.load(first)
    weight = numpy_helper.to_array(other.graph.initializer[0]).copy()
    weight[2, 1] = np.nextafter(weight[2, 1], weight.dtype.type(9))
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    onnx.save(other, tmp_path / "other.onnx")
    assert certify(first, tmp_path / "other.onnx", rows).verdict is Verdict.BROKEN


def test_where_nothing_runs_in_float64_the_scope_says_so(tmp_path: Path) -> None:
    tail = "z = com.microsoft.Gelu (s) y = Identity (z)"
    first = file(tmp_path / "first.onnx", 0.0, tail)
    assert OnnxSubject(first).outputs64([(ROWS.astype(np.float32),)]) is None
    other = onnx.load(first)
    weight = numpy_helper.to_array(other.graph.initializer[0]) * np.float32(1 + 2**-20)
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    onnx.save(other, tmp_path / "other.onnx")
    found = certify(first, tmp_path / "other.onnx", ROWS.astype(np.float32))
    assert found.verdict is Verdict.BROKEN
    assert "what the numbers that differ do could not be evaluated in float64" in found.scope


def quantised(path: Path, *, scale: float = 1e-3, step: float = 0.05, zero: int = 0) -> Path:
    """A file with a branch of eight bits that is scaled and added to what it reads."""
    model = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]> g (float[N,6] x) => (float[N,4] y) {'
        "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) w = DequantizeLinear (i, s, o) "
        "a = MatMul (d, w) r = Relu (a) p = QuantizeLinear (r, t, u) e = DequantizeLinear (p, t, u) "
        "m = Mul (e, c) n = Add (m, x) y = MatMul (n, v) }"
    )
    rng = np.random.default_rng(0)
    held = {
        "s": np.float32(0.03),
        "z": np.int8(0),
        "o": np.int8(0),
        "t": np.float32(step),
        "u": np.int8(zero),
        "c": np.full(6, scale, np.float32),
        "i": rng.integers(-127, 127, (6, 6)).astype(np.int8),
        "v": rng.standard_normal((6, 4)).astype(np.float32),
    }
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), name) for name, a in held.items())
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(("scale", "step", "zero"), [(1e-3, 0.05, 1), (1e-6, 0.05, 1), (1e-6, 0.05005, 0)])
def test_a_small_factor_hides_no_step_of_a_quantised_file(
    scale: float, step: float, zero: int, tmp_path: Path
) -> None:
    first = quantised(tmp_path / "first.onnx", scale=scale)
    rows = np.random.default_rng(1).standard_normal((8, 6)).astype(np.float32)
    second = quantised(tmp_path / "second.onnx", scale=scale, step=step, zero=zero)
    found = certify(first, second, rows)
    assert found.verdict is Verdict.BROKEN
    assert found.witness is not None
    assert found.witness.is_wide


class Normed(nn.Module):
    """A convolution with a batch norm, which exporters fold, and a number that nothing reads."""

    def __init__(self, number: float, weight: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.fc = nn.Conv2d(2, 4, 2), nn.BatchNorm2d(4), nn.Linear(4, 3)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)
        nn.init.uniform_(self.norm.running_mean, -1, 1)
        self.number = nn.Parameter(torch.tensor(number))
        with torch.no_grad():
            self.fc.weight[1, 2].mul_(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.fc(self.norm(self.conv(x)).relu().mean((2, 3))).log_softmax(1)
        return y + (y - y) * self.number


def test_roundings_of_folds_and_of_numbers_in_code_are_no_difference(tmp_path: Path) -> None:
    """Epsilon is float32 in a file and a Python number in a module; folded weights are rounded anew."""
    x = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    reference = Normed(3.0, 1.0).eval()
    same, other = (
        export_onnx(Normed(7.0, weight).eval(), (x[:2],), tmp_path / f"{weight}.onnx", fold_norms=True)
        for weight in (1.0, 1 + 2.0**-15)
    )
    certificate = certify(reference, same, x)
    assert certificate.verdict is Verdict.AGREES, certificate.reason
    assert "no input shows a difference, even in float64" in certificate.reason
    assert certify(reference, other, x).verdict is Verdict.BROKEN


def test_a_weight_that_ordinary_samples_do_not_reach_is_seen() -> None:
    """A channel of images that are all positive is behind a ReLU that lets negative ones through alone."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        model[1].weight[2] = -model[1].weight[2].abs()
        model[1].bias[2] = -1.0
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[3].weight[1, 2] = torch.nextafter(other[3].weight[1, 2], torch.tensor(9.0))
    certificate = certify(model, other, tokens()[:, 0].abs())
    assert certificate.verdict is Verdict.BROKEN
    assert certificate.witness is not None
    assert certificate.witness.made != "the samples, in float64"


def branch(path: Path, function: str, factor: float) -> Path:
    """A residual branch, scaled by a factor, with a function ``f`` of ``a`` in it."""
    proto = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]> g (float[N,6] x) => (float[N,6] y) '
        f"{{ a = Gemm (x, w, b) {function} m = Mul (f, c) s = Add (x, m) y = Gemm (s, w, b) }}"
    )
    numbers = np.random.default_rng(0).standard_normal((6, 6))
    held = {"w": numbers, "b": numbers[1], "c": np.full(6, factor), "two": 2.0, "one": 1.0, "tenth": 0.1}
    held |= {"big": 12582912.0, "even": 2.0**24, "small": 1e-30, "less": 1e-20, "most": 88.72284}
    for name, array in held.items():
        array = np.asarray(array, np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize(
    ("first", "second", "is_broken"),
    [
        ("f = Tanh (a)", "f = Identity (a)", True),
        ("f = Erf (a)", "f = Tanh (a)", True),
        ("f = Tanh (a)", "d = Mul (a, two) e = Sigmoid (d) g = Mul (e, two) f = Sub (g, one)", False),
        ("d = Mul (a, tenth) f = Tanh (d)", "t = Div (one, tenth) d = Div (a, t) f = Tanh (d)", False),
        ("f = Round (a)", "f = Floor (a)", True),
        ("f = Round (a)", "d = Add (a, big) f = Sub (d, big)", False),
        ("d = Mul (a, small) e = Mul (d, less) g = Sign (e) f = Add (g, a)", "f = Identity (a)", False),
        ("d = Exp (a) i = IsInf (d) f = Cast <to=1> (i)", "i = Greater (a, most) f = Cast <to=1> (i)", False),
        ("t = Add (even, one) d = Sub (t, even) f = Mul (a, d)", "d = Sub (one, one) f = Mul (a, d)", False),
    ],
)
def test_a_small_factor_hides_no_operator_of_a_file(
    first: str, second: str, is_broken: bool, tmp_path: Path
) -> None:
    for factor in (1e-6, 1e-2):
        pair = [branch(tmp_path / f"{side}.onnx", text, factor) for side, text in enumerate((first, second))]
        certificate = certify(*pair, ROWS.astype(np.float32))
        assert (certificate.verdict is Verdict.BROKEN) == is_broken, certificate.reason
        assert (certificate.witness is not None) == is_broken


class Padded(nn.Module):
    """A layer, and what float32 keeps of a number beside 2^24; nothing, of a quarter."""

    def __init__(self, number: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.number = nn.Linear(8, 3), nn.Parameter(torch.tensor(number))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.fc(x)
        return y + ((y * 0 + 2.0**24 + self.number) - 2.0**24)


@pytest.mark.parametrize(("other", "is_broken"), [(0.5, False), (8.0, True)])
def test_what_roundings_of_a_module_leave_out_is_no_difference(other: float, is_broken: bool) -> None:
    pair = [Padded(number).eval() for number in (0.25, other)]
    certificate = certify(*pair, tokens()[:, 0])
    assert (certificate.verdict is Verdict.BROKEN) == is_broken, certificate.reason
