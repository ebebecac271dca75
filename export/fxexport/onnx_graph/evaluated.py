"""What ONNX's reference evaluator computes, which is slow and knows ONNX's operators only.

That are values in float64, and constants that a file quantises or dequantises: weights as the numbers that
they are.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from fxexport.onnx_graph.normalised import drop_unread
from fxexport.onnx_node import array_of, inputs_of, is_external, meaning_of, replace, versions_of
from fxexport.terms.arrays import is_chosen, nudge
from fxexport.terms.term import Array

_MOST_VALUES = 2**25
"""Weights of larger files are not widened: it takes four copies of eight bytes each."""
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "Clip")
_SHORT = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
FLOATS = (*_SHORT, TensorProto.DOUBLE)
_IN_FLOAT32 = frozenset(
    "CausalConvWithState DynamicQuantizeLinear GridSample LinearAttention QLinearConv QLinearMatMul".split()
)
"""What the evaluator computes in float32, whatever it is given."""
_OLDEST = 21
"""The evaluator knows no older version of theirs; what they are given in those means the same in this one."""


class Erf(OpRun):
    """The error function in the type that it is given: the evaluator's own computes in float32."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (np.vectorize(math.erf, otypes=[x.dtype])(x),)


class DequantizeLinear(OpRun):
    """Steps as the numbers that they are, where a scale stands for all cells or for those along an axis.

    Raises:
        ValueError: it is another one.
    """

    op_domain = ""

    def _run(self, x: Array, scale: Array, zero: Array | None = None, **how: Any) -> tuple[Array]:
        scale, zero = _along_axis(x, scale, zero, how)
        return ((x.astype(scale.dtype) - zero.astype(scale.dtype)) * scale,)


class QuantizeLinear(OpRun):
    """The nearest of its steps, the even one of two; of such scales, too.

    Raises:
        ValueError: it is another one.
    """

    op_domain = ""

    def _run(self, x: Array, scale: Array, zero: Array | None = None, **how: Any) -> tuple[Array]:
        scale, zero = _along_axis(x, scale, zero, how)
        ends = np.iinfo(zero.dtype)
        return (np.clip(np.rint(x / scale) + zero, ends.min, ends.max).astype(zero.dtype),)


def _along_axis(x: Array, scale: Array, zero: Array | None, how: Mapping[str, Any]) -> tuple[Array, Array]:
    if any(how.get(name) for name in ("block_size", "output_dtype", "precision")) or scale.size == 0:
        raise ValueError("steps of blocks, or of a type that is told apart")
    zero = np.zeros(scale.shape, x.dtype if x.dtype.kind in "iu" else np.uint8) if zero is None else zero
    if zero.dtype.kind not in "iu" or zero.dtype.itemsize > 4:
        raise ValueError("steps of other types")
    axis = 1 if how.get("axis") is None else how["axis"]
    shape = [-1 if place == axis % x.ndim else 1 for place in range(x.ndim)] if scale.size > 1 else []
    return scale.reshape(shape), zero.reshape(shape if zero.size > 1 else [])


OWN = (Erf, DequantizeLinear, QuantizeLinear)
"""What the evaluator lacks in float64."""


def own_operators(files: Iterable[Path]) -> tuple[list[str], list[str]]:
    """Names of those that files have, and the text that makes them where numpy, math and onnx are."""
    names = {node.op_type for file in files for node in onnx.load(file, load_external_data=False).graph.node}
    made = [item for item in OWN if item.__name__ in names]
    parts = [*([_along_axis] if {*made} & {DequantizeLinear, QuantizeLinear} else []), *made]
    texts = (inspect.getsource(part).replace("(OpRun)", "(onnx.reference.op_run.OpRun)") for part in parts)
    plain = [re.sub(r' *"""(?:.|\n)*?"""\n\n?', "", text).replace("np.", "numpy.").rstrip() for text in texts]
    return [item.__name__ for item in made], plain


def evaluated(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> tuple[Array, ...] | None:
    """The outputs of a model; None where the evaluator cannot tell."""
    try:
        with np.errstate(all="ignore"):
            return tuple(map(np.asarray, ReferenceEvaluator(model).run(None, dict(feeds))))
    except Exception:  # noqa: BLE001 - of operands that make no sense, NumPy raises anything
        return None


def evaluated_alone(
    node: onnx.NodeProto, opsets: Iterable[onnx.OperatorSetIdProto], feeds: Mapping[str, Array]
) -> Array | None:
    """The first result of a node; None where the evaluator cannot tell."""
    value = helper.make_empty_tensor_value_info
    graph = helper.make_graph([node], "alone", [*map(value, feeds)], [value(node.output[0])])
    found = evaluated(helper.make_model(graph, opset_imports=[*opsets]), feeds)
    return None if found is None else found[0]


def evaluated64(
    proto: onnx.ModelProto,
    weights: Mapping[str, Array],
    feeds: Sequence[Array],
    adjust: Callable[[str | None, Array], Array] | None = None,
    *,
    rounding: float = 0.0,
) -> dict[str, Array] | None:
    """Every value of the file by its name, all floats in float64; None where that cannot be done here.

    Args:
        proto: the file.
        weights: values of the initialisers that it marks as external data.
        feeds: its inputs.
        adjust: what becomes of each initialiser of floats, by its name, and of each input.
        rounding: by what share each node's results are changed, up or down at random.
    """
    if sum(array.size for array in weights.values()) > _MOST_VALUES:
        return None
    names = [value.name for value in inputs_of(proto.graph)]
    given = {}
    for name, x in zip(names, feeds, strict=True):
        given[name] = x.astype(np.float64) if is_float(x) else x
        given[name] = adjust(None, given[name]) if adjust is not None and is_float(x) else given[name]
    try:
        model = _widened(proto, weights, adjust)
        evaluator = ReferenceEvaluator(model, new_ops=[*OWN])
        if rounding:
            _round_results(evaluator, rounding)
        with np.errstate(all="ignore"):
            found = dict(evaluator.run(None, given, intermediate=True))
    except Exception:  # noqa: BLE001 - of operands that make no sense, NumPy raises anything
        return None
    results = {name: np.asarray(x) for name, x in found.items() if isinstance(x, np.ndarray | np.generic)}
    if any(is_float(value) and value.dtype != np.float64 for value in results.values()):
        return None
    return results if all(value.name in results for value in proto.graph.output) else None


def _round_results(evaluator: ReferenceEvaluator, by: float) -> None:
    rng = np.random.Generator(np.random.PCG64(0))

    def rounded(name: str, run: Callable[..., Sequence[Any]]) -> Callable[..., tuple[Any, ...]]:
        def run_so(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
            read = [item for item in args if isinstance(item, np.ndarray)]
            return tuple(
                x if not isinstance(x, np.ndarray) or is_chosen(name, x, read) else nudge(x, by, rng)
                for x in run(*args, **kwargs)
            )

        return run_so

    for node in evaluator.rt_nodes_:
        node.run = rounded(node.op_type, node.run)


def is_float(array: Array) -> bool:
    """Whether it holds floats, of any length."""
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _widened(
    proto: onnx.ModelProto,
    weights: Mapping[str, Array],
    adjust: Callable[[str | None, Array], Array] | None,
) -> onnx.ModelProto:
    if any(node.op_type in _IN_FLOAT32 for node in proto.graph.node):
        raise ValueError("it has operators that are computed in float32")
    wide = onnx.ModelProto()
    wide.CopyFrom(proto)
    for tensor in wide.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weights[tensor.name]), tensor.name))
    _widen(wide.graph)
    versions = versions_of(proto)
    for node in wide.graph.node:  # the function that it is made of computes in a type of its own
        domain, version = meaning_of(node, versions)
        if not domain and node.op_type == "GroupNormalization" and (version or 0) >= _OLDEST:
            kept = [item for item in node.attribute if item.name != "stash_type"]
            replace(node.attribute, [*kept, helper.make_attribute("stash_type", TensorProto.DOUBLE)])
    for tensor in wide.graph.initializer:
        if adjust is not None and tensor.data_type == TensorProto.DOUBLE:
            changed = adjust(tensor.name, array_of(tensor))
            tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    for value in (*wide.graph.input, *wide.graph.output):
        if value.type.tensor_type.elem_type in _SHORT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return wide


def _widen(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _widen(attribute.g)
            elif attribute.HasField("t"):
                _widen_tensor(attribute.t)
            elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                number = attribute.f if attribute.name == "value_float" else list(attribute.floats)
                held = numpy_helper.from_array(np.asarray(number, np.float64))
                attribute.CopyFrom(helper.make_attribute("value", held))
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i in _SHORT:
                attribute.CopyFrom(helper.make_attribute("to", TensorProto.DOUBLE))


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in _SHORT:
        array = array_of(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def with_dequantized(model: onnx.ModelProto, weights: Mapping[str, Array]) -> onnx.ModelProto:
    """The model with those constants as initialisers; itself where there are none.

    Args:
        model: the model.
        weights: values of the initialisers that it marks as external data.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    versions, folded, kept = versions_of(model), [], []
    for node in model.graph.node:
        domain, version = meaning_of(node, versions)
        is_folded = (
            not domain and node.op_type in _QUANTIZED and all(name in stored for name in node.input if name)
        )
        found = _computed(node, max(version or 1, _OLDEST), stored, weights) if is_folded else None
        if found is None:
            kept.append(node)
        else:
            stored[node.output[0]] = found
            folded.append(found)
    if not folded:
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    replace(changed.graph.node, kept)
    changed.graph.initializer.extend(folded)
    drop_unread(changed.graph)
    return changed


def _computed(
    node: onnx.NodeProto, version: int, stored: Mapping[str, onnx.TensorProto], weights: Mapping[str, Array]
) -> onnx.TensorProto | None:
    """The node's result, or None where it is of a type, or in blocks, that are not computed here."""
    feeds = {
        name: weights[name] if is_external(stored[name]) else array_of(stored[name])
        for name in node.input
        if name
    }
    block = next((item.i for item in node.attribute if item.name == "block_size"), 0)
    values, *scales = (feeds[name].size for name in node.input[:2] if name)
    if block * max(scales, default=0) > 2 * values:  # each scale is written out as often as that
        return None
    alone = onnx.NodeProto()
    alone.CopyFrom(node)
    alone.domain = ""
    found = evaluated_alone(alone, [helper.make_opsetid("", version)], feeds)
    return None if found is None else numpy_helper.from_array(found, node.output[0])
