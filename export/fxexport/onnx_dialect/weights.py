"""How the file holds weights after a rewrite: in other dimensions, and where need be in another order."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import torch
from onnx import helper, numpy_helper
from torch.fx import Node

from fxexport.onnx_dialect.constants import LEVELS
from fxexport.onnx_dialect.content import Content, bits_of, bytes_of
from fxexport.onnx_dialect.external import is_elsewhere, values_elsewhere
from fxexport.onnx_dialect.open import OpenOnnx
from fxexport.onnx_dialect.pieces import MovedValues, Piece, Range, written
from fxexport.onnx_dialect.writer import rank_of
from fxexport.onnx_node import array_of, replace
from fxpasses.plan import WeightPlan
from fxpasses.report import Form
from fxpasses.weights.move import WeightMove, WeightOrder

_LINEAR = torch.ops.aten.linear.default


class Layouts:
    """The dimensions and order of every weight that moved.

    Attributes:
        dims: the new dimensions of the weights that moved, by name.
        copied: bytes of weights that are written in another order, by the weight's name.
    """

    def __init__(self, opened: OpenOnnx, plan: WeightPlan) -> None:
        self.opened = opened
        self.to = plan.to
        self.copied: dict[str, int] = {}
        constants = opened.constants
        moves = {constants.by_path[move.name]: move for move in plan.moves}
        self.turned = {name for name, turned in constants.transposed.items() if turned} - {*moves}
        if self.to is Form.LINEAR:
            self.turned |= {name for name in moves if self._needs_turn(name)}
        laid = {name: self._laid_out(name, move) for name, move in moves.items()}
        self.dims: dict[str, list[int]] = {name: [*dims] for name, (dims, _) in laid.items()}
        self._views = {name: view for name, (_, view) in laid.items()}

    def _needs_turn(self, name: str) -> bool:
        """Whether a weight is read by a product of more than two axes, which takes ``[K, O]`` alone."""
        readers = [node for node in self.opened.by_name[name].users if node.target is _LINEAR]
        return any(rank_of(reader.args[0]) != 2 for reader in readers)  # type: ignore[arg-type]

    def is_turned(self, weight: Node) -> bool:
        """Whether the file holds a weight as ``[K, O]``."""
        return self.opened.constants.by_path.get(str(weight.target)) in self.turned

    def is_moved(self, node: Node) -> bool:
        """Whether a node is a weight that moved."""
        return node.op == "get_attr" and self.opened.constants.by_path.get(str(node.target)) in self.dims

    def _laid_out(self, name: str, move: WeightMove) -> tuple[Sequence[int], torch.Tensor]:
        """The weight's new dimensions, and a view of what lies in the file whose order is the new one."""
        weight = torch.empty(tuple(self.opened.constants.stored[name].dims), device="meta")
        weight = weight.t() if self.opened.constants.transposed.get(name) else weight
        if self.to is Form.CONV:
            return move.conv_shape, move.to_conv(weight)
        weight = weight.movedim(1, -1) if move.order is WeightOrder.CHANNELS_LAST else weight
        if name in self.turned:
            return move.linear_shape[::-1], weight.movedim(0, -1)
        return move.linear_shape, weight

    def write(self, edited: onnx.ModelProto) -> None:
        """Gives the weights that moved their new dimensions and order, and their scales the new axis."""
        for tensor in edited.graph.initializer:
            if tensor.name in self._views:
                self._write(tensor.name, tensor)
        for node in edited.graph.node:
            if node.op_type in LEVELS and self.opened.constants.alias(node.input[0]) in self._views:
                self._scale(node)
            elif node.op_type == "Constant" and node.output[0] in self._views:
                self._write(node.output[0], next(item.t for item in node.attribute if item.HasField("t")))

    def _write(self, name: str, tensor: onnx.TensorProto) -> None:
        weight = self._views[name]
        if not weight.is_contiguous():
            values = self._reordered(tensor, weight)
            self.copied[name] = len(values) if isinstance(values, bytes) else values.size
            self.opened.content.leave(tensor, values)
        tensor.dims[:] = self.dims[name]

    def _scale(self, node: onnx.NodeProto) -> None:
        """Each output has its own scale along the axis of outputs, wherever that is now."""
        name = self.opened.constants.alias(node.input[0])
        axis = 1 if name in self.turned else 0
        now = next((item.i for item in node.attribute if item.name == "axis"), 1)  # counted from behind, say
        if self.opened.constants.quantized[name].axis is not None and now != axis:
            kept = [item for item in node.attribute if item.name != "axis"]
            replace(node.attribute, [*kept, helper.make_attribute("axis", axis)])

    def _reordered(self, tensor: onnx.TensorProto, weight: torch.Tensor) -> Piece:
        """The numbers of a tensor in the order of a view of it."""
        content, bits, (shape, order) = self.opened.content, bits_of(tensor.data_type), _order(weight)
        place = values_elsewhere if is_elsewhere(content, tensor) else Content.place_of
        data, start = place(content, tensor)
        if bits % 8 == 0:
            moved = Range(start, shape, order, bits // 8)
            return (
                moved if data is content.data else MovedValues(b"".join(written([moved], memoryview(data))))
            )
        packed = onnx.TensorProto(dims=tensor.dims, data_type=tensor.data_type)  # several numbers in a byte
        packed.raw_data = bytes(data[start : start + bytes_of(tensor)])
        values = array_of(packed).reshape(shape).transpose(order)
        return MovedValues(numpy_helper.from_array(values).raw_data)


def _order(weight: torch.Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape that a tensor has as it lies, and the order in which a view of it has those axes."""
    wide = [axis for axis in range(weight.ndim) if weight.shape[axis] != 1]
    lying = sorted(wide, key=lambda axis: -int(weight.stride()[axis]))
    return tuple(weight.shape[axis] for axis in lying), tuple(lying.index(axis) for axis in wide)
