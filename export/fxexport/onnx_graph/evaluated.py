"""What ONNX's reference evaluator computes, which is slow and knows ONNX's operators only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from fxexport.terms.term import Array


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
