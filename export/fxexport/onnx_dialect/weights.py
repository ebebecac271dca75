"""How the file holds weights after a rewrite: in other dimensions, and where need be in another order."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import torch
from torch.fx import Node

from fxexport.onnx_dialect.content import INITIALIZER, LARGE_BYTES, NODE, StoredTensor
from fxexport.onnx_dialect.external import is_external, values_of
from fxexport.onnx_dialect.open import OpenOnnx
from fxexport.onnx_dialect.pieces import Piece, Reordered, framed, written
from fxexport.onnx_dialect.writer import rank_of
from fxpasses.plan import WeightPlan
from fxpasses.report import Form
from fxpasses.weights.move import WeightMove, WeightOrder

_LINEAR = torch.ops.aten.linear.default


class Layouts:
    """The dimensions and order of every weight that moved.

    Args:
        opened: the file's graph after its edit.
        plan: which weights moved, and how.

    Attributes:
        copied: bytes of weights that are written in another order, by the weight's name.
    """

    def __init__(self, opened: OpenOnnx, plan: WeightPlan) -> None:
        self.opened = opened
        self.to = plan.to
        self.copied: dict[str, int] = {}
        constants = opened.constants
        self.moves = {constants.by_path[move.name]: move for move in plan.moves}
        self.turned = {name for name, turned in constants.transposed.items() if turned} - {*self.moves}
        if self.to is Form.LINEAR:
            self.turned |= {name for name in self.moves if self._needs_turn(name)}
        self._laid = {name: self._laid_out(name, move) for name, move in self.moves.items()}

    def _needs_turn(self, name: str) -> bool:
        """Whether a weight is read by a product of more than two axes, which takes ``[K, O]`` alone."""
        readers = self.opened.by_name[name].users
        return any(
            rank_of(reader.args[0]) != 2  # type: ignore[arg-type]
            for reader in readers
            if reader.target is _LINEAR
        )

    def is_turned(self, weight: Node) -> bool:
        """Whether the file holds a weight as ``[K, O]``."""
        return self.opened.constants.by_path.get(str(weight.target)) in self.turned

    def is_moved(self, node: Node) -> bool:
        """Whether a node reads a weight that moved."""
        return node.op == "get_attr" and self.opened.constants.by_path.get(str(node.target)) in self.moves

    def shapes(self) -> dict[str, list[int] | None]:
        """The new dimensions of the weights that moved."""
        return {name: [*dims] for name, (dims, _) in self._laid.items()}

    def initializer_fields(self, renamed: Mapping[str, str]) -> dict[int, list[Piece]]:
        """The fields of initialisers that are others now, by where they start.

        Args:
            renamed: the new names of other files that hold weights, by the old ones.
        """
        content = self.opened.content
        fields = {}
        for name, tensor in content.initializers.items():
            laid = self._laid.get(name)
            if is_external(tensor) and (laid is not None or renamed):
                fields[tensor.path[0].start] = _elsewhere(tensor, laid, renamed)
            elif laid is not None:
                fields[tensor.path[0].start] = content.reshaped(tensor, *laid)
        return fields

    def node_field(self, node: onnx.NodeProto) -> list[Piece] | None:
        """The field of a node that holds a weight that moved, or gives it its scales; None for any other."""
        name = node.output[0] if len(node.output) == 1 else ""
        if node.op_type == "DequantizeLinear" and node.input[0] in self._laid:
            return self._scaled(node)
        if name not in self._laid or name in self.opened.content.initializers:
            return None
        dims, values = self._laid[name]
        return self.opened.content.reshaped(self.opened.content.constants[name], dims, values)

    def _scaled(self, node: onnx.NodeProto) -> list[Piece] | None:
        """The field of a node that gives each output its own scale, along the axis of outputs now."""
        held = self.opened.constants.quantized[node.input[0]]
        axis = 1 if node.input[0] in self.turned else 0
        if held.axis in (None, axis):
            return None
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        kept = [item for item in copy.attribute if item.name != "axis"]
        del copy.attribute[:]
        copy.attribute.extend([*kept, onnx.helper.make_attribute("axis", axis)])
        return framed(NODE, [bytes(copy.SerializeToString())])

    def _decoded(self, name: str, weight: torch.Tensor) -> bytes:
        """The numbers of a weight that has several in a byte, in the order of a view of it."""
        stored, data = self.opened.constants.stored[name], self.opened.content.data
        proto = onnx.TensorProto()
        proto.ParseFromString(data[stored.path[-1].content : stored.path[-1].end])
        shape, order = _order(weight)
        values = onnx.numpy_helper.to_array(proto).reshape(shape).transpose(order)
        return bytes(onnx.numpy_helper.from_array(values).raw_data)

    def _laid_out(self, name: str, move: WeightMove) -> tuple[tuple[int, ...], Piece | None]:
        """The new dimensions of a weight, and its numbers where they are in another order."""
        stored = self.opened.constants.stored[name]
        weight = torch.empty(tuple(stored.proto.dims), device="meta")
        if self.opened.constants.transposed.get(name):
            weight = weight.t()
        if self.to is Form.CONV:
            weight = move.to_conv(weight)
            dims = move.conv_shape
        else:
            weight = weight.movedim(1, -1) if move.order is WeightOrder.CHANNELS_LAST else weight
            dims = move.linear_shape
            if name in self.turned:
                weight, dims = weight.movedim(0, -1), dims[::-1]
        if weight.is_contiguous():
            return dims, None
        if is_external(stored):
            shape, order = _order(weight)
            decoded = values_of(stored, self.opened.content.folder, shape).transpose(order).tobytes()
            self.copied[name] = len(decoded)
            return dims, decoded
        if stored.item_bytes is None:
            decoded = self._decoded(name, weight)
            self.copied[name] = len(decoded)
            return dims, decoded
        values = _reordered(stored, weight)
        self.copied[name] = values.size
        is_small = values.size <= LARGE_BYTES
        data = memoryview(self.opened.content.data)
        return dims, b"".join(written([values], data)) if is_small else values


def _elsewhere(
    tensor: StoredTensor, laid: tuple[tuple[int, ...], Piece | None] | None, renamed: Mapping[str, str]
) -> list[Piece]:
    """The field of an initialiser that lies in another file; here, where its numbers are in another order."""
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor.proto)
    dims, values = laid or (tuple(copy.dims), None)
    copy.dims[:] = dims
    for entry in copy.external_data:
        if entry.key == "location":
            entry.value = renamed.get(entry.value, entry.value)
    if isinstance(values, bytes):
        copy.ClearField("external_data")
        copy.ClearField("data_location")
        copy.raw_data = values
    return framed(INITIALIZER, [bytes(copy.SerializeToString())])


def _order(weight: torch.Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape that a tensor has as it lies, and the order in which a view of it has those axes."""
    wide = [axis for axis in range(weight.ndim) if weight.shape[axis] != 1]
    lying = sorted(wide, key=lambda axis: -int(weight.stride()[axis]))
    return tuple(weight.shape[axis] for axis in lying), tuple(lying.index(axis) for axis in wide)


def _reordered(stored: StoredTensor, weight: torch.Tensor) -> Reordered:
    """The numbers of a tensor as they lie in the file, in the order of a view of it."""
    assert stored.values is not None
    assert stored.item_bytes is not None
    return Reordered(stored.values.content, *_order(weight), stored.item_bytes)
