"""Every ONNX operator at every version from opset 7 on: changing one attribute changes the term.

The nodes are made from the schemas, not from a list: an operator that a later ONNX adds is tried too.
"""

from __future__ import annotations

import functools

import numpy as np
import onnx
import onnx.defs
import pytest
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from fxexport.language import derive
from fxexport.language.onnx_file import graph_of_onnx
from fxexport.language.onnx_operators import OPERATORS

OLDEST = 7
NEWEST = onnx.defs.onnx_opset_version()
KINDS = onnx.defs.OpSchema.AttrType
Schema = onnx.defs.OpSchema


def schemas() -> list[tuple[Schema, int]]:
    """Each operator of ONNX's own domains with a version of the domain at which it has this meaning."""
    found = {}
    for version in range(OLDEST, NEWEST + 1):
        for schema in {item.name: item for item in onnx.defs.get_all_schemas_with_history()}.values():
            if schema.domain == "":
                try:
                    current = onnx.defs.get_schema(schema.name, version, "")
                except onnx.defs.SchemaError:
                    continue
                found[current.name, current.since_version] = (current, version)
    return [found[key] for key in sorted(found)]


def graph_names(schema: Schema) -> list[str]:
    """The attributes of an operator that are bodies."""
    return [name for name, attribute in schema.attributes.items() if attribute.type == KINDS.GRAPH]


def graph_attribute(name: str) -> AttributeProto:
    """A body that gives a constant."""
    value = helper.make_node("Constant", [], ["z"], value_float=1.0)
    body = helper.make_graph([value], "body", [], [helper.make_tensor_value_info("z", 1, [])])
    return helper.make_attribute(name, body)


def other_graph(name: str) -> AttributeProto:
    """A body that gives another constant."""
    value = helper.make_node("Constant", [], ["z"], value_float=2.0)
    body = helper.make_graph([value], "body", [], [helper.make_tensor_value_info("z", 1, [])])
    return helper.make_attribute(name, body)


# two values that tell attributes apart; of lists both fit maps of two axes
VALUES: dict[object, tuple[object, object]] = {
    KINDS.FLOAT: (0.25, 0.75),
    KINDS.INT: (1, 2),
    KINDS.STRING: ("first", "second"),
    KINDS.FLOATS: ([0.25, 0.5], [0.25, 0.75]),
    KINDS.INTS: ([1, 2], [2, 1]),
    KINDS.STRINGS: (["a"], ["b"]),
    KINDS.TENSOR: (numpy_helper.from_array(np.float32([1])), numpy_helper.from_array(np.float32([2]))),
    KINDS.SPARSE_TENSOR: (
        helper.make_sparse_tensor(
            numpy_helper.from_array(np.float32([1]), "v"), numpy_helper.from_array(np.int64([0])), [3]
        ),
        helper.make_sparse_tensor(
            numpy_helper.from_array(np.float32([2]), "v"), numpy_helper.from_array(np.int64([0])), [3]
        ),
    ),
    KINDS.TYPE_PROTO: (
        helper.make_tensor_type_proto(TensorProto.FLOAT, [1]),
        helper.make_tensor_type_proto(TensorProto.DOUBLE, [1]),
    ),
}
# operators whose operands have to be of a certain kind to mean anything
OPERANDS: dict[tuple[str, str], object] = {
    ("Conv", "W"): np.arange(4 * 4 * 2 * 2, dtype=np.float32).reshape(4, 4, 2, 2),
    ("Gemm", "A"): "matrix",
    ("Gemm", "B"): np.arange(16, dtype=np.float32).reshape(4, 4),
    ("Gemm", "C"): np.arange(4, dtype=np.float32),
    ("Gather", "indices"): np.int64([0, 1]),
    ("Reshape", "shape"): np.int64([0, 4, -1]),
    ("ConstantOfShape", "input"): np.int64([2, 3]),
    ("Split", "split"): None,
}
# the values of an attribute that the operator knows
KNOWN: dict[tuple[str, str], list[object]] = {
    ("*", "auto_pad"): ["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"],
    ("*", "ceil_mode"): [0, 1],
    ("*", "keepdims"): [0, 1],
    ("*", "axis"): [1, 2, 3],
    ("*", "pads"): [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    ("*", "strides"): [[1, 1], [2, 1], [1, 2]],
    ("*", "dilations"): [[1, 1], [2, 1], [1, 2]],
    ("*", "kernel_shape"): [[2, 2], [2, 3], [3, 2]],
    ("*", "axes"): [[1], [2], [3], [1, 2]],
    ("*", "perm"): [[0, 1, 2, 3], [0, 2, 1, 3], [0, 1, 3, 2]],
    ("Conv", "kernel_shape"): [[2, 2]],
    ("Cast", "to"): [1, 6, 7, 10, 11],
    ("Gelu", "approximate"): ["none", "tanh"],
    ("Shape", "start"): [0, 1, 2],
    ("Shape", "end"): [1, 2, 3],
    ("AveragePool", "count_include_pad"): [0, 1],
}


def known(operator: str, name: str, kind: object) -> list[object]:
    """Values to try of an attribute."""
    if kind in (KINDS.GRAPH, KINDS.GRAPHS):
        return []
    found: list[object] = []
    for value in (*KNOWN.get((operator, name), KNOWN.get(("*", name), [])), *VALUES.get(kind, ())):
        if value not in found:
            found.append(value)
    return found


def node_of(schema: Schema, values: dict[str, object]) -> NodeProto:
    """A node with these attributes and an operand for each that the schema has."""
    node = NodeProto(op_type=schema.name, name="tried")
    count = 0
    for formal in schema.inputs:
        option = formal.option
        names = [f"i{count}"] if option != Schema.FormalParameterOption.Variadic else [f"i{count}", "other"]
        if (schema.name, formal.name) in OPERANDS and OPERANDS[schema.name, formal.name] is None:
            names = [""]
        node.input.extend(names)
        count += 1
    while node.input and not node.input[-1]:
        node.input.pop()
    outputs = [item for item in schema.outputs if item.option == Schema.FormalParameterOption.Single]
    # one piece is the whole, whatever the axis
    least = 2 if schema.name == "Split" else 1
    node.output.extend(f"o{place}" for place in range(max(least, len(outputs))))
    for name, value in values.items():
        kind = schema.attributes[name].type
        if kind == KINDS.GRAPH:
            node.attribute.append(value)  # type: ignore[arg-type]
        else:
            node.attribute.append(helper.make_attribute(name, value, attr_type=int(kind.value)))
    return node


def model_of(schema: Schema, version: int, values: dict[str, object]) -> onnx.ModelProto:
    """A model of one node, whose operands are inputs or constants."""
    node = node_of(schema, values)
    inputs, stored = [], []
    for place, name in enumerate(node.input):
        if not name:
            continue
        formal = schema.inputs[min(place, len(schema.inputs) - 1)]
        operand = OPERANDS.get((schema.name, formal.name))
        if isinstance(operand, np.ndarray):
            stored.append(numpy_helper.from_array(operand, name))
            continue
        shape = [5, 4] if operand == "matrix" else ["n", 4, 6, 8]
        if formal.name in ("scale", "B", "mean", "var", "input_mean", "input_var", "bias") and place:
            stored.append(numpy_helper.from_array(np.float32([1, 2, 3, 4]), name))
        elif formal.name in ("axes", "pads", "shape", "starts", "ends", "steps") and place:
            stored.append(numpy_helper.from_array(np.int64([1, 2]), name))
        elif (
            formal.name in ("min", "max", "ratio", "alpha", "Y") and place and "(bool)" not in formal.type_str
        ):
            stored.append(numpy_helper.from_array(np.float32(2), name))
        elif formal.name == "training_mode":
            stored.append(numpy_helper.from_array(np.bool_(False), name))
        else:
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = helper.make_graph([node], "tried", inputs, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])


def required_of(schema: Schema) -> dict[str, object]:
    """The attributes that a node has to have, and those without which its operands mean nothing."""
    values: dict[str, object] = {}
    for name, attribute in schema.attributes.items():
        if attribute.required:
            tried = known(schema.name, name, attribute.type)
            values[name] = tried[0] if tried else graph_attribute(name)
    return values


@functools.cache
def all_schemas() -> dict[str, tuple[Schema, int]]:
    """The schemas by a name for the test."""
    return {f"{schema.name}-{schema.since_version}": (schema, version) for schema, version in schemas()}


# attributes that say nothing about what is computed, or only of results that are not asked for
SILENT = {
    ("BatchNormalization", "momentum"): "of training only",
    ("MaxPool", "storage_order"): "of the indices, which are not an output",
    ("Dropout", "seed"): "of training only",
    ("Dropout", "ratio"): "of training only",
    ("Cast", "saturate"): "of types of 8 bits only",
}


def same_function(schema: Schema, name: str, first: object, second: object) -> bool:
    """Whether two values of an attribute mean the same at these operands."""
    if (schema.name, name) in SILENT:
        return True
    if name in ("axis", "start", "end") and schema.name in (
        "Shape",
        "Softmax",
        "LogSoftmax",
        "Gather",
        "Concat",
    ):
        return False
    both = [first, second]
    if name == "auto_pad":  # a kernel of two at stride one: of one cell more before or behind
        return {"NOTSET", "VALID"} >= {*map(str, both)}
    if name in ("ceil_mode", "count_include_pad"):
        return both in ([0, 1], [1, 0])  # the windows come out, and nothing is padded
    if name == "axes" and schema.name.startswith(("Mean", "Reduce", "Unsqueeze")):
        return isinstance(first, list) and isinstance(second, list) and sorted(first) == sorted(second)
    return False


@pytest.mark.parametrize("name", all_schemas())
def test_changing_one_attribute_changes_the_term(name: str) -> None:
    schema, version = all_schemas()[name]
    base = required_of(schema)
    kept = graph_of_onnx(model_of(schema, version, base))
    assert derive(kept, graph_of_onnx(model_of(schema, version, base))).is_proved != is_random(schema)
    for attribute, kind in ((key, item.type) for key, item in schema.attributes.items()):
        tried = [base[attribute]] if attribute in base else []
        tried += [value for value in known(schema.name, attribute, kind) if value not in tried]
        graphs = [
            (value, graph_of_onnx(model_of(schema, version, {**base, attribute: value}))) for value in tried
        ]
        for place, (first, left) in enumerate(graphs):
            for second, right in graphs[place + 1 :]:
                if not same_function(schema, attribute, first, second):
                    assert not derive(left, right).is_proved, (attribute, first, second)


def is_random(schema: Schema) -> bool:
    """Whether two runs of the operator differ."""
    return schema.name.startswith("Random") or schema.name in ("Bernoulli", "Multinomial")


@pytest.mark.parametrize("name", [name for name, (s, _) in all_schemas().items() if graph_names(s)])
def test_changing_a_body_changes_the_term(name: str) -> None:
    schema, version = all_schemas()[name]
    base = required_of(schema)
    for attribute in graph_names(schema):
        bodies = [make(attribute) for make in (graph_attribute, other_graph)]
        left, right = (graph_of_onnx(model_of(schema, version, {**base, attribute: body})) for body in bodies)
        assert not derive(left, right).is_proved


def test_a_version_of_an_operator_that_has_a_rule_is_one_that_the_rule_was_written_for() -> None:
    names = {schema.name for schema, _ in all_schemas().values()}
    assert {name for name, _ in OPERATORS} <= names | {"Upsample"}
    known_versions = {
        (s.name, s.since_version) for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""
    }
    assert {*OPERATORS} <= known_versions
