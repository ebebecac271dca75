"""Constants that a file quantises or dequantises, computed once: weights as the numbers that they are."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import helper, numpy_helper

from fxexport.onnx_graph.evaluated import evaluated_alone
from fxexport.onnx_graph.normalised import drop_unread
from fxexport.onnx_node import array_of, is_external, meaning_of, versions_of
from fxexport.terms.term import Array

_OPERATORS = ("QuantizeLinear", "DequantizeLinear", "Clip")
_OLDEST = 21
"""The evaluator knows no older version of theirs; what they are given in those means the same in this one."""


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
            not domain and node.op_type in _OPERATORS and all(name in stored for name in node.input if name)
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
    del changed.graph.node[:]
    changed.graph.node.extend(kept)
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
