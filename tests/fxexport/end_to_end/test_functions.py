"""Functions in an ONNX file are what they hold, unless a runtime has an operator of that name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fxexport import Verdict, certify
from fxexport.language import derive, graph_of_onnx

OWN, MICROSOFT = "own", "com.microsoft"


def scaled_relu(domain: str, name: str, scale: float, opset: int = 17) -> onnx.FunctionProto:
    nodes = [
        helper.make_node("Constant", [], ["k"], value_float=scale),
        helper.make_node("Mul", ["a", "k"], ["t"]),
        helper.make_node("Relu", ["t"], ["b"]),
    ]
    return helper.make_function(domain, name, ["a"], ["b"], nodes, [helper.make_opsetid("", opset)])


def calling(name: str) -> onnx.FunctionProto:
    node = helper.make_node(name, ["a"], ["b"], domain=OWN)
    return helper.make_function(OWN, "Outer", ["a"], ["b"], [node], [helper.make_opsetid(OWN, 1)])


def write(path: Path, *between: onnx.NodeProto, functions: tuple[onnx.FunctionProto, ...] = ()) -> Path:
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((8, 3, 3, 3), np.float32),
        "fc": rng.standard_normal((10, 8), np.float32),
        "two": np.float32(2),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"]),
            *between,
            helper.make_node("GlobalAveragePool", ["m"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("Gemm", ["f", "fc"], ["y"], transB=1),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(name, 1) for name in (OWN, MICROSOFT))]
    onnx.save(helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=9), path)
    return path


def call(name: str, domain: str = OWN) -> onnx.NodeProto:
    return helper.make_node(name, ["c"], ["m"], domain=domain)


@pytest.mark.parametrize(
    ("name", "functions", "verdict"),
    [
        ("Act", (scaled_relu(OWN, "Act", 2.0),), Verdict.PROVED),
        ("Outer", (scaled_relu(OWN, "Act", 2.0), calling("Act")), Verdict.PROVED),
        ("Act", (scaled_relu(OWN, "Act", 3.0),), Verdict.BROKEN),
        ("Act", (scaled_relu(OWN, "Act", 2.0, opset=13),), Verdict.AGREES),
    ],
    ids=["once", "nested", "another number", "another opset"],
)
def test_a_function_is_what_it_holds(
    tmp_path: Path, name: str, functions: tuple[onnx.FunctionProto, ...], verdict: Verdict
) -> None:
    plain = write(
        tmp_path / "plain.onnx",
        helper.make_node("Mul", ["c", "two"], ["t"]),
        helper.make_node("Relu", ["t"], ["m"]),
    )
    certificate = certify(plain, write(tmp_path / "own.onnx", call(name), functions=functions))
    assert certificate.verdict is verdict, certificate.reason


def test_a_function_with_the_name_of_a_runtimes_operator_is_not_what_runs(tmp_path: Path) -> None:
    functions = (scaled_relu(MICROSOFT, "Gelu", 2.0),)
    own = write(tmp_path / "own.onnx", call("Gelu", MICROSOFT), functions=functions)
    plain = write(tmp_path / "plain.onnx", call("Gelu", MICROSOFT))
    says = write(
        tmp_path / "says.onnx",
        helper.make_node("Mul", ["c", "two"], ["t"]),
        helper.make_node("Relu", ["t"], ["m"]),
    )
    assert certify(own, own).verdict is Verdict.PROVED
    assert certify(plain, own).verdict is Verdict.AGREES
    assert certify(says, own).verdict is Verdict.BROKEN


def sloped(default: float, **given: float) -> onnx.ModelProto:
    """A model that calls a function with an attribute, which may be left to its default."""
    node = helper.make_node("LeakyRelu", ["a"], ["b"])
    node.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    opset, slope = helper.make_opsetid("", 18), helper.make_attribute("slope", default)
    function = helper.make_function(OWN, "F", ["a"], ["b"], [node], [opset], [], [slope])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("F", ["x"], ["y"], domain=OWN, **given)], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[opset, helper.make_opsetid(OWN, 1)], functions=[function])


def test_an_attribute_that_a_call_leaves_out_is_its_function_s_default() -> None:
    graphs = [graph_of_onnx(model) for model in (sloped(0.2), sloped(0.3), sloped(0.3, slope=0.2))]
    assert not derive(graphs[0], graphs[1]).is_proved
    assert derive(graphs[0], graphs[2]).is_proved
