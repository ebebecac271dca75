"""Runs of models whose outputs have not one row for each sample: files that people write have any number."""

from __future__ import annotations

import onnx
import pytest
from onnx import parser

from fxexport import Verdict, certify
from fxexport.numerics.evaluate import flat
from fxpasses.errors import CheckError


def model(body: str, dims: str = "N,4,6") -> onnx.ModelProto:
    """A model of one input ``x`` and one output ``y``."""
    text = f'<ir_version: 9, opset_import: ["" : 18]> g (float[{dims}] x) => (y) {{ {body} }}'
    made: onnx.ModelProto = parser.parse_model(text)
    return made


PADDED = "p = Constant <value_ints = [2, 0, 0, 1, 0, 0]> () q = Pad (x, p)"


@pytest.mark.parametrize(
    "body",
    [
        "q = Abs (x) y = ReduceMax <keepdims = 1> (q)",
        "q = Abs (x) y = ReduceMax <keepdims = 0> (q)",
        f"{PADDED} y = Relu (q)",
        "q = Abs (x) y = Transpose <perm = [1, 0, 2]> (q)",
        "k = Constant <value_ints = [0]> () q = Abs (x) y = Unsqueeze (q, k)",
    ],
)
def test_a_difference_in_an_output_of_other_rows_has_a_witness(body: str) -> None:
    first, second = model(body), model(f"{body} ".replace("Abs", "Neg").replace("Relu", "Sign"))
    found = certify(first, second)
    assert found.verdict is Verdict.BROKEN
    witness = found.witness
    assert witness is not None
    runs = [
        onnx.reference.ReferenceEvaluator(side).run(None, dict(given))[0]
        for side, given in ((first, witness.reference), (second, witness.candidate))
    ]
    assert witness.index is not None
    row, column = witness.index
    values = [flat(run)[row, column] for run in runs]
    assert values == pytest.approx([witness.expected, witness.found])


def test_a_batch_along_another_axis_is_another_output() -> None:
    turned = "y = Transpose <perm = [1, 0, 2]> (x)"
    assert certify(model(turned), model(turned)).verdict is Verdict.PROVED
    assert certify(model(turned), model("y = Identity (x)")).verdict is Verdict.BROKEN


def test_features_whose_rows_are_other_axes_are_no_crash() -> None:
    mean = "g = GlobalAveragePool (t) k = Constant <value_ints = [0]> () y = ReduceMean <keepdims = 0> (g, k)"
    bodies = [f"t = Transpose <perm = {order}> (x) {mean}" for order in ([0, 2, 1, 3], [3, 2, 1, 0])]
    assert certify(*(model(body, "3,4,6,2") for body in bodies)).verdict is Verdict.PROVED


def test_an_output_without_rows_is_no_crash() -> None:
    tiled = "k = Constant <value_ints = [{}, 1, 1]> () y = Tile (x, k)"
    assert certify(model(tiled.format(1)), model(tiled.format(0))).verdict is Verdict.BROKEN


def test_a_value_with_the_batch_along_several_axes_is_told() -> None:
    count = "s = Shape <start = 0, end = 1> (x) k = Constant <value_ints = [1]> ()"
    first = model(f"{count} r = Concat <axis = 0> (k, s) t = Tile (x, r) y = ReduceSum (t, k)", "N,4")
    second = model(f"{count} q = ReduceSum (x, k) f = Cast <to = 1> (s) y = Mul (q, f)", "N,4")
    with pytest.raises(CheckError, match=r"a value inside is of shape .*: its axes depend on the batch"):
        certify(first, second)
