"""Damage to the structure of an ONNX graph: operators, attributes, opsets, outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from fxexport import LayerName
from tests.fxexport.mutations.weights import NotHere

Proto = onnx.ModelProto
Damage = Callable[[Proto], None]

_ACTIVATIONS = ("Relu", "HardSwish", "Clip", "Gelu", "Elu")


def _producers(proto: Proto) -> Mapping[str, onnx.NodeProto]:
    return {name: node for node in proto.graph.node for name in node.output}


def _all(proto: Proto, *kinds: str) -> Sequence[onnx.NodeProto]:
    found = [node for node in proto.graph.node if node.op_type in kinds]
    if not found:
        raise NotHere
    return found


def _pool(proto: Proto) -> onnx.NodeProto:
    return _all(proto, "GlobalAveragePool", "AveragePool")[-1]


def _site(proto: Proto) -> onnx.NodeProto:
    """The last affine node in front of the first output."""
    name, producers = proto.graph.output[0].name, _producers(proto)
    while producers[name].op_type not in ("Conv", "Gemm", "MatMul"):
        name = producers[name].input[0]
    return producers[name]


def _attribute(node: onnx.NodeProto, name: str, value: object) -> None:
    kept = [item for item in node.attribute if item.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, *([] if value is None else [helper.make_attribute(name, value)])])


def _insert(proto: Proto, value: str, kind: str, *more: np.ndarray, **attributes: object) -> None:
    """Puts a node behind ``value``; its further inputs are constants."""
    nodes = list(proto.graph.node)
    position = next((i + 1 for i, node in enumerate(nodes) if value in node.output), 0)
    names = [f"given_{len(proto.graph.initializer)}_{i}" for i in range(len(more))]
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), name) for array, name in zip(more, names, strict=True)
    )
    is_output = any(item.name == value for item in proto.graph.output)
    moved = f"{value}_before_{kind}" if is_output else value
    result = value if is_output else f"{value}_{kind}"
    for node in nodes:
        if is_output:
            node.output[:] = [moved if name == value else name for name in node.output]
        node.input[:] = [result if name == value else name for name in node.input]
    nodes.insert(position, helper.make_node(kind, [moved, *names], [result], **attributes))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _replace(proto: Proto, node: onnx.NodeProto, new: Sequence[onnx.NodeProto]) -> None:
    nodes = list(proto.graph.node)
    position = next(i for i, item in enumerate(nodes) if item is node or item == node)
    nodes[position : position + 1] = new
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _without(proto: Proto, node: onnx.NodeProto) -> None:
    _replace(proto, node, [helper.make_node("Identity", [node.input[0]], [node.output[0]])])


def _pool_as(kind: str, **attributes: object) -> Damage:
    def damage(proto: Proto) -> None:
        node = _pool(proto)
        if node.op_type != "GlobalAveragePool":
            raise NotHere
        inputs = [node.input[0]]
        if kind.startswith("Reduce"):
            proto.graph.initializer.append(numpy_helper.from_array(np.array([2, 3]), "pool_axes"))
            inputs.append("pool_axes")
        _replace(proto, node, [helper.make_node(kind, inputs, [node.output[0]], **attributes)])

    return damage


def _truncated(proto: Proto) -> None:
    node = _pool(proto)
    shape = _shape(proto, node.input[0])
    if node.op_type != "GlobalAveragePool" or shape[2] < 2:
        raise NotHere
    kernel = [shape[2] - 1, shape[3]]
    new = helper.make_node(
        "AveragePool", [node.input[0]], [node.output[0]], kernel_shape=kernel, strides=kernel
    )
    _replace(proto, node, [new])


def _shape(proto: Proto, name: str) -> list[int]:
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    value = next(item for item in inferred.graph.value_info if item.name == name)
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _padded_pool(proto: Proto) -> None:
    node = _pool(proto)
    shape = _shape(proto, node.input[0])
    if node.op_type != "GlobalAveragePool":
        raise NotHere
    new = helper.make_node(
        "AveragePool",
        [node.input[0]],
        [node.output[0]],
        kernel_shape=[shape[2] + 1, shape[3]],
        pads=[1, 0, 0, 0],
        count_include_pad=1,
    )
    _replace(proto, node, [new])


def _factor(name: str, value: float) -> Damage:
    def damage(proto: Proto) -> None:
        _attribute(_all(proto, "Gemm")[-1], name, value)

    return damage


def _gemm_transposed(proto: Proto) -> None:
    node = _all(proto, "Gemm")[-1]
    stored = next(t for t in proto.graph.initializer if t.name == node.input[1])
    if stored.dims[0] != stored.dims[1]:
        raise NotHere
    _attribute(node, "transB", 0)


def _bias_input_dropped(proto: Proto) -> None:
    node = _site(proto)
    if len(node.input) < 3:
        raise NotHere
    del node.input[2]


def _bias_twice(proto: Proto) -> None:
    node = _site(proto)
    if len(node.input) < 3:
        raise NotHere
    bias = next(t for t in proto.graph.initializer if t.name == node.input[2])
    array = numpy_helper.to_array(bias)
    _insert(proto, node.output[0], "Add", array.reshape(-1, 1, 1) if node.op_type == "Conv" else array)


def _behind_site(kind: str, *more: object, **attributes: object) -> Damage:
    arrays = [np.asarray(item, np.float32) for item in more]
    return lambda proto: _insert(proto, _site(proto).output[0], kind, *arrays, **attributes)


def _before_pool(kind: str, *more: object, **attributes: object) -> Damage:
    arrays = [np.asarray(item, np.float32) for item in more]
    return lambda proto: _insert(proto, _pool(proto).input[0], kind, *arrays, **attributes)


def _behind_input(kind: str, *more: object, **attributes: object) -> Damage:
    arrays = [np.asarray(item, np.float32) for item in more]
    return lambda proto: _insert(proto, proto.graph.input[0].name, kind, *arrays, **attributes)


def _active_dropout(proto: Proto) -> None:
    name = _site(proto).input[0]
    _insert(proto, name, "Dropout", np.float32(0.5), np.bool_(True), seed=3)


def _never_replaced(proto: Proto) -> None:
    """``Where(x > 1e30, 0, x)`` behind the features."""
    name = _pool(proto).input[0]
    _insert(proto, name, "Where", np.float32(0), np.float32(0))
    where = next(node for node in proto.graph.node if node.op_type == "Where")
    zero = where.input[1]
    condition = helper.make_node("Greater", [name, "limit"], ["is_huge"])
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(1e30), "limit"))
    where.input[:] = ["is_huge", zero, name]
    _replace(proto, where, [condition, where])


def _branch(proto: Proto) -> None:
    """``If(x[0,0,0,0] > 1e30)`` doubles the features."""
    name = _pool(proto).input[0]
    doubled = helper.make_graph(
        [helper.make_node("Add", [name, name], ["doubled"])],
        "then",
        [],
        [helper.make_tensor_value_info("doubled", 1, None)],
    )
    same = helper.make_graph(
        [helper.make_node("Identity", [name], ["same"])],
        "else",
        [],
        [helper.make_tensor_value_info("same", 1, None)],
    )
    _insert(proto, name, "If", then_branch=doubled, else_branch=same)
    nodes = list(proto.graph.node)
    branch = next(node for node in nodes if node.op_type == "If")
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(1e30), "limit"))
    branch.input[:] = ["is_huge"]
    peak = helper.make_node("ReduceMax", [name], ["peak"], keepdims=0)
    _replace(proto, branch, [peak, helper.make_node("Greater", ["peak", "limit"], ["is_huge"]), branch])


def _as_function(body: Sequence[str]) -> Damage:
    """The last activation as a function of the file's own; its name says Relu, its body need not."""

    def damage(proto: Proto) -> None:
        node = _all(proto, "Relu")[-1]
        nodes = [
            helper.make_node(kind, [f"v{i}" if i else "x"], [f"v{i + 1}"]) for i, kind in enumerate(body)
        ]
        function = helper.make_function(
            "own", "Relu", ["x"], [f"v{len(body)}"], nodes, list(proto.opset_import)
        )
        proto.functions.append(function)
        proto.opset_import.append(helper.make_opsetid("own", 1))
        node.domain = "own"

    return damage


def _head_activation(proto: Proto) -> onnx.NodeProto:
    """An activation that reads a site's result."""
    after = {
        name for kind in ("Gemm", "Conv") for n in proto.graph.node if n.op_type == kind for name in n.output
    }
    order = list(proto.graph.node)
    pool = next(i for i, node in enumerate(order) if node is _pool(proto) or node == _pool(proto))
    for node in order[pool:]:
        if node.op_type in _ACTIVATIONS and node.input[0] in after:
            return node
    raise NotHere


def _first_activation(proto: Proto) -> onnx.NodeProto:
    return _all(proto, *_ACTIVATIONS)[0]


def _to_elu(find: Callable[[Proto], onnx.NodeProto]) -> Damage:
    def damage(proto: Proto) -> None:
        node = find(proto)
        _replace(proto, node, [helper.make_node("Elu", [node.input[0]], [node.output[0]])])

    return damage


def _dropped(find: Callable[[Proto], onnx.NodeProto]) -> Damage:
    return lambda proto: _without(proto, find(proto))


def _residual_removed(proto: Proto) -> None:
    stored = {t.name for t in proto.graph.initializer}
    adds = [n for n in _all(proto, "Add") if not stored & set(n.input)]
    if not adds:
        raise NotHere
    _without(proto, adds[-1])


def _conv3(proto: Proto) -> onnx.NodeProto:
    for node in _all(proto, "Conv"):
        given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        if given.get("kernel_shape") == [3, 3] and given.get("pads") == [1, 1, 1, 1]:
            return node
    raise NotHere


def _dilated(proto: Proto) -> None:
    node = _conv3(proto)
    _attribute(node, "pads", [2, 2, 2, 2])
    _attribute(node, "dilations", [2, 2])


def _shifted(proto: Proto) -> None:
    _attribute(_conv3(proto), "pads", [2, 1, 0, 1])


def _eps(proto: Proto) -> None:
    _attribute(_all(proto, "BatchNormalization")[-1], "epsilon", 1e-2)


def _norm_dropped(proto: Proto) -> None:
    _without(proto, _all(proto, "BatchNormalization")[-1])


def _batch_baked(proto: Proto) -> None:
    node = _all(proto, "Flatten")[-1]
    features = int(np.prod(_shape(proto, node.input[0])[1:]))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1, features]), "baked"))
    _replace(proto, node, [helper.make_node("Reshape", [node.input[0], "baked"], [node.output[0]])])


def _output_renamed(proto: Proto) -> None:
    name = proto.graph.output[0].name
    for node in proto.graph.node:
        node.output[:] = ["scores" if item == name else item for item in node.output]
    proto.graph.output[0].name = "scores"


def _output_missing(proto: Proto) -> None:
    if len(proto.graph.output) < 2:
        raise NotHere
    del proto.graph.output[-1]


def _output_added(proto: Proto) -> None:
    proto.graph.output.append(helper.make_empty_tensor_value_info(_pool(proto).output[0]))


def _two_outputs(proto: Proto) -> tuple[str, str]:
    if len(proto.graph.output) < 2:
        raise NotHere
    return proto.graph.output[0].name, proto.graph.output[1].name


def _output_names_swapped(proto: Proto) -> None:
    """The values change their names, the outputs stay in their order."""
    a, b = _two_outputs(proto)
    for node in proto.graph.node:
        node.output[:] = [{a: b, b: a}.get(item, item) for item in node.output]
        node.input[:] = [{a: b, b: a}.get(item, item) for item in node.input]


def _input_names_swapped(proto: Proto) -> None:
    if len(proto.graph.input) < 2:
        raise NotHere
    a, b = (item.name for item in proto.graph.input)
    for node in proto.graph.node:
        node.input[:] = [{a: b, b: a}.get(item, item) for item in node.input]


def _other_map(proto: Proto) -> None:
    pools = _all(proto, "GlobalAveragePool")
    if len(pools) != 2 or len(proto.graph.input) < 2:
        raise NotHere
    pools[1].input[0] = pools[0].input[0]


def _softmax_axis(proto: Proto) -> None:
    _attribute(_all(proto, "Softmax")[0], "axis", 0)


def _half_precision(proto: Proto) -> None:
    _insert(proto, _site(proto).output[0], "Cast", to=onnx.TensorProto.FLOAT16)
    narrow = next(node for node in proto.graph.node if node.op_type == "Cast")
    _replace(
        proto,
        narrow,
        [
            helper.make_node("Cast", [narrow.input[0]], ["narrow"], to=onnx.TensorProto.FLOAT16),
            helper.make_node("Cast", ["narrow"], [narrow.output[0]], to=onnx.TensorProto.FLOAT),
        ],
    )


def _double_output(proto: Proto) -> None:
    _insert(proto, proto.graph.output[0].name, "Cast", to=onnx.TensorProto.DOUBLE)
    proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


def _folded_wrong(proto: Proto) -> None:
    """The first output as a constant that a folder got from one sample."""
    name = proto.graph.output[0].name
    _insert(proto, name, "Mul", np.float32(0))
    _insert(proto, name, "Add", np.float32(0.125))


_HEAD = frozenset({LayerName.WIRING, LayerName.ROUNDING})
_WEIGHTS = frozenset({LayerName.WEIGHTS, LayerName.WIRING, LayerName.ROUNDING})
_UPSTREAM = frozenset({LayerName.BACKBONE, LayerName.ROUNDING})
_ANY = _HEAD | _UPSTREAM

GRAPH_DAMAGES: dict[str, tuple[Damage, frozenset[LayerName]]] = {
    "sum_for_mean": (_pool_as("ReduceSum"), _HEAD),
    "max_for_mean": (_pool_as("GlobalMaxPool"), _HEAD),
    "l2_for_mean": (_pool_as("ReduceL2"), _HEAD),
    "truncated_window": (_truncated, _HEAD),
    "padded_pool": (_padded_pool, _HEAD),
    "bias_input_dropped": (_bias_input_dropped, _WEIGHTS),
    "bias_twice": (_bias_twice, _HEAD),
    "alpha": (_factor("alpha", 1 + 2.0**-20), _WEIGHTS),
    "alpha_double": (_factor("alpha", 2.0), _WEIGHTS),
    "beta": (_factor("beta", 0.5), _WEIGHTS),
    "gemm_transposed": (_gemm_transposed, _WEIGHTS),
    "dropped_activation": (_dropped(_head_activation), _HEAD),
    "swapped_activation": (_to_elu(_head_activation), _HEAD),
    "clipped_output": (_behind_site("Clip", -1e30, 1e30), _HEAD),
    "scaled_output": (_behind_site("Mul", 1 + 2.0**-20), _HEAD),
    "half_precision": (_half_precision, _HEAD),
    "double_output": (_double_output, _HEAD),
    "negated_output": (_behind_site("Neg"), _HEAD),
    "folded_wrong": (_folded_wrong, _HEAD),
    "active_dropout": (_active_dropout, _ANY),
    "softmax_axis": (_softmax_axis, _ANY),
    "output_renamed": (_output_renamed, _HEAD),
    "output_missing": (_output_missing, _HEAD),
    "output_names_swapped": (_output_names_swapped, _ANY | _WEIGHTS),
    "other_map": (_other_map, _ANY),
    "batch_baked": (_batch_baked, _HEAD),
    "clipped_features": (_before_pool("Clip", -1e30, 1e30), _UPSTREAM),
    "replaced_features": (_never_replaced, _ANY),
    "branched_features": (_branch, _UPSTREAM),
    "scaled_features": (_before_pool("Mul", 1 + 2.0**-20), _UPSTREAM),
    "shifted_features": (_before_pool("Add", 1e-30), _UPSTREAM),
    "normalised_input": (_behind_input("Div", 255), _UPSTREAM),
    "input_names_swapped": (_input_names_swapped, _UPSTREAM),
    "own_function": (_as_function(["Abs"]), _ANY),
    "backbone_activation_dropped": (_dropped(_first_activation), _UPSTREAM),
    "backbone_activation_swapped": (_to_elu(_first_activation), _UPSTREAM),
    "residual_removed": (_residual_removed, _UPSTREAM),
    "norm_dropped": (_norm_dropped, _UPSTREAM),
    "eps_changed": (_eps, _UPSTREAM),
    "dilated": (_dilated, _UPSTREAM),
    "padding_shifted": (_shifted, _UPSTREAM),
}


def damage_graph_structure(proto: Proto, kind: str) -> Proto:
    """A copy of ``proto`` damaged in its structure.

    Raises:
        NotHere: there is nothing to damage in this way.
    """
    clone = onnx.ModelProto()
    clone.CopyFrom(proto)
    GRAPH_DAMAGES[kind][0](clone)
    del clone.graph.value_info[:]
    return clone
