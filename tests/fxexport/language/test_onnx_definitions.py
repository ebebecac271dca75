"""ONNX's operators without a rule are what ONNX itself makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper, parser
from torch import nn

from fxexport import export_onnx
from fxexport.language import derive, graph_of_module, graph_of_onnx
from fxexport.language.onnx_operators import OPERATORS

SAME = {
    "RMSNormalization": (
        "y = RMSNormalization <epsilon = 0.25> (x, w)",
        "a = Mul (x, x) m = ReduceMean (a, last) e = Add (m, quarter) r = Sqrt (e) "
        "d = Div (x, r) y = Mul (d, w)",
    ),
    "Softsign": ("y = Softsign (x)", "a = Abs (x) b = Add (a, one) y = Div (x, b)"),
    "Shrink": (
        "y = Shrink <lambd = 0.25> (x)",
        "n = Neg (quarter) a = Less (x, n) b = Less (quarter, x) c = Where (b, x, zero) y = Where (a, x, c)",
    ),
    "ThresholdedRelu": (
        "y = ThresholdedRelu <alpha = 0.25> (x)",
        "a = Less (quarter, x) y = Where (a, x, zero)",
    ),
}
OTHER = {
    "RMSNormalization": "y = RMSNormalization <epsilon = 0.26> (x, w)",
    "Softsign": "a = Abs (x) y = Div (x, a)",
    "Shrink": "y = Shrink <lambd = 0.25, bias = 0.5> (x)",
    "ThresholdedRelu": "y = ThresholdedRelu (x)",
}


def model_of(body: str, kind: str = "float") -> onnx.ModelProto:
    model = parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 23]> g ({kind}[n,3,4] x) => ({kind}[n,3,4] y) {{ {body} }}'
    )
    numbers = {"w": np.arange(1, 5), "one": 1, "quarter": 0.25, "zero": 0}
    dtype = onnx.helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    stored = {name: np.asarray(value, dtype) for name, value in numbers.items()} | {"last": np.array([-1])}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in stored.items())
    return model


@pytest.mark.parametrize("name", SAME)
def test_an_operator_that_onnx_defines_by_others_is_these(name: str) -> None:
    assert name not in {operator for operator, _ in OPERATORS}
    first, second = (graph_of_onnx(model_of(body)) for body in SAME[name])
    assert derive(first, second).is_proved


@pytest.mark.parametrize("name", OTHER)
def test_with_other_attributes_it_is_another_function(name: str) -> None:
    first, second = (graph_of_onnx(model_of(body)) for body in (SAME[name][0], OTHER[name]))
    assert not derive(first, second).is_proved


@pytest.mark.parametrize(
    "body",
    [
        "y = Softsign <alpha = 1.0> (x)",  # no attribute of it
        "y = Shrink <lambd = 1> (x)",  # of another type
        "y = Softsign (x, one)",
        "y, z = Softsign (x)",
        "y = SequenceMap (x)",  # without what it has to have
        "y = Bernoulli <seed = 1.0> (x)",  # defined by random numbers
    ],
)
def test_what_is_not_defined_so_is_none_that_is_read(body: str) -> None:
    model = model_of(body)
    found = derive(graph_of_onnx(model), graph_of_onnx(model_of("y = Neg (x)")))
    assert not found.is_proved
    assert found.problem is None
    assert str(found.unrelated[0].left).startswith(model.graph.node[0].op_type)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_in_half_precision_a_kernel_rounds_once_what_a_definition_rounds_often(kind: str) -> None:
    first, second = (graph_of_onnx(model_of(body, kind)) for body in SAME["Softsign"])
    assert derive(first, first).is_proved
    assert not derive(first, second).is_proved


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc = nn.RMSNorm(6, eps=1e-3), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(x).mean(1))


def test_a_module_is_its_file_of_a_version_that_has_an_operator_for_it(tmp_path: Path) -> None:
    net, x = Net().eval(), torch.randn(2, 4, 6)
    model = onnx.load(export_onnx(net, x, tmp_path / "net.onnx", opset=23))
    assert "RMSNormalization" in {node.op_type for node in model.graph.node}
    assert derive(graph_of_module(net, (x,)), graph_of_onnx(model)).is_proved


class Attends(nn.Module):
    def __init__(self, *, is_causal: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)
        self._is_causal = is_causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x[:, None]
        mask = None if self._is_causal else torch.ones(len(x), 1, 4, 4, dtype=torch.bool)
        seen = nn.functional.scaled_dot_product_attention(
            rows, rows, rows, attn_mask=mask, is_causal=self._is_causal
        )
        return self.fc(seen.mean((1, 2)))


def file_of(net: Attends, folder: Path, opset: int) -> onnx.ModelProto:
    return onnx.load(export_onnx(net, torch.randn(2, 4, 6), folder / f"{opset}.onnx", opset=opset))


def test_what_an_exporter_gives_for_a_row_without_a_cell_that_counts_is_the_attention(tmp_path: Path) -> None:
    net = Attends(is_causal=False).eval()
    model = file_of(net, tmp_path, 20)
    assert "IsNaN" in {node.op_type for node in model.graph.node}
    assert derive(graph_of_module(net, (torch.randn(2, 4, 6),)), graph_of_onnx(model)).is_proved


@pytest.mark.parametrize("opset", [20, 23])
def test_attention_to_what_came_before_is_that_of_its_file_and_no_other(tmp_path: Path, opset: int) -> None:
    net = Attends(is_causal=True).eval()
    free = Attends(is_causal=False).eval()
    free.load_state_dict(net.state_dict())
    x = torch.randn(2, 4, 6)
    model = file_of(net, tmp_path, opset)
    assert derive(graph_of_module(net, (x,)), graph_of_onnx(model)).is_proved
    assert not derive(graph_of_module(free, (x,)), graph_of_onnx(model)).is_proved


@pytest.mark.parametrize(
    "body", ["a = Log (x) y = Exp (a)", "m = ReduceMax (x, last) n = Neg (m) e = Exp (n) y = Mul (x, e)"]
)
def test_an_exponent_of_a_single_summand_is_read(body: str) -> None:
    first, second = (graph_of_onnx(model_of(body)) for _ in range(2))
    assert derive(first, second).is_proved
