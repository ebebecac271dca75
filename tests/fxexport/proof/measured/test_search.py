import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from fxexport import Verdict, certify
from fxexport.proof.measured.batches import Streamed
from fxexport.subjects.subject import Feeds
from fxexport.terms.term import Array


def _file(activation: str, width: int) -> onnx.ModelProto:
    model = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]> g (float[N,6] x) => (float[N,1] y) '
        f"{{ h = MatMul (x, w) {activation} y = ReduceMean (a, axes) }}"
    )
    weights = np.random.default_rng(0).standard_normal((6, width)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axes"))
    return model


RELU = "a = Relu (h)"
WRITTEN_OUT = "two = Constant <value_float = 2.0> () b = Abs (h) c = Add (b, h) a = Div (c, two)"
CLIPPED = (
    f"{WRITTEN_OUT.replace('a = Div', 'd = Div')} top = Constant <value_float = 100.0> () a = Min (d, top)"
)


@pytest.mark.parametrize(("width", "rows"), [(60, 233), (60_000, 64)])
def test_a_search_takes_so_many_runs_of_a_sample(
    width: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, ran = Streamed.outputs, []

    def counted(self: Streamed, feeds: Feeds, provider: str) -> tuple[Array, ...]:
        ran.append(sum(len(feed[0]) for feed in feeds))
        return run(self, feeds, provider)

    x = np.random.default_rng(1).standard_normal((8, 6)).astype(np.float32)
    monkeypatch.setattr(Streamed, "outputs", counted)
    found = certify(_file(RELU, width), _file(WRITTEN_OUT, width), x)
    assert found.verdict is Verdict.AGREES
    assert rows - 8 <= sum(ran) // 2 <= rows
    assert certify(_file(RELU, width), _file(CLIPPED, width), x).verdict is Verdict.BROKEN


def test_what_acts_on_huge_values_alone_shows_in_a_larger_file_too() -> None:
    """A model's own float64 decides whether outputs near the end of the type are what it means."""
    models = []
    for activation in (RELU, CLIPPED.replace("100.0", "1e30")):
        model = _file(activation, 2100)
        model.graph.node[-1].CopyFrom(helper.make_node("MatMul", ["a", "u"], ["y"]))
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, ["N", 2000]))
        weights = {"w": np.full((6, 2100), 0.5, np.float32), "u": np.eye(2100, 2000, dtype=np.float32)}
        del model.graph.initializer[:]
        model.graph.initializer.extend(
            numpy_helper.from_array(array, name) for name, array in weights.items()
        )
        models.append(model)
    x = np.abs(np.random.default_rng(1).standard_normal((8, 6))).astype(np.float32)  # nothing is cancelled
    assert certify(*models, x).verdict is Verdict.BROKEN
