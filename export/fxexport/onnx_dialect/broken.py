"""What is wrong with a file, in one line."""

from __future__ import annotations

import onnx

from fxpasses.errors import first_line


class BrokenGraph(ValueError):
    """The file's graph contradicts itself."""


def checked(model: onnx.ModelProto) -> str | None:
    """What ONNX's own checker says against a model, or None where it has nothing to say."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    held = (item.t for node in copy.graph.node for item in node.attribute if item.HasField("t"))
    for tensor in (*copy.graph.initializer, *held):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:  # values are no part of the graph
            name = tensor.name
            tensor.Clear()
            tensor.name, tensor.data_type = name, onnx.TensorProto.FLOAT
            tensor.dims.append(0)
    try:
        onnx.checker.check_model(copy)
    except (onnx.checker.ValidationError, ValueError, TypeError) as error:
        return first_line(error)
    return None
