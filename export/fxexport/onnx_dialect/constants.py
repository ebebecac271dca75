"""The constants of an ONNX file: initialisers and ``Constant`` nodes, over the file's own memory."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections import Counter

import onnx
import torch
from onnx import numpy_helper
from torch import nn

from fxexport import onnx_node
from fxexport.onnx_dialect.content import Content, StoredTensor
from fxexport.onnx_dialect.extents import torch_type

_SMALL = 64
_TAKEN = frozenset({*dir(nn.Module), *nn.Module().__dict__})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dequantized:
    """How a quantised constant is read.

    Attributes:
        value: the floating-point value's name.
        axis: the axis along which scales differ; None where there is one for all.
        kind: type of the value.
    """

    value: str
    axis: int | None
    kind: torch.dtype


class Constants:
    """What the file's constants are, by name.

    Args:
        content: the file.
        root: the tree that gets them as parameters.

    Attributes:
        names: the names of initialisers.
        paths: where a constant is below ``root``, by name.
        quantized: constants that a node makes floating point as they are read, by the constant's name.
    """

    def __init__(self, content: Content, root: nn.Module) -> None:
        self.content = content
        self.root = root
        self.names = frozenset(content.initializers)
        self.stored: dict[str, StoredTensor] = {**content.constants, **content.initializers}
        self.paths: dict[str, str] = {}
        self.by_path: dict[str, str] = {}
        self.transposed: dict[str, bool] = {}
        self.quantized: dict[str, Dequantized] = {}
        self._aliases: dict[str, str] = {}
        self._tensors: dict[str, torch.Tensor] = {}
        self._small: dict[str, tuple[int, ...]] = {}
        read = Counter(name for node in content.proto.graph.node for name in onnx_node.reads_of(node))
        for node in content.proto.graph.node:
            self._note(node, read)

    def _note(self, node: onnx.NodeProto, read: Counter[str]) -> None:
        """Small constants that are attributes, and other names for constants."""
        if not onnx_node.is_standard(node) or len(node.output) != 1:
            return
        if node.op_type == "Identity" and self.alias(node.input[0]) in self.stored:
            self._aliases[node.output[0]] = self.alias(node.input[0])
        elif node.op_type == "DequantizeLinear" and read[node.input[0]] == 1:
            self._note_quantized(node)
        elif node.op_type == "Constant":
            held = next((item for item in node.attribute if item.name in ("value_int", "value_ints")), None)
            if held is not None:
                self._small[node.output[0]] = tuple(held.ints) if held.name == "value_ints" else (held.i,)

    def _note_quantized(self, node: onnx.NodeProto) -> None:
        """A constant that is read through its scale: one number, or one along an axis, for each output."""
        stored, scale = self.stored.get(node.input[0]), self.stored.get(self.alias(node.input[1]))
        if stored is None or scale is None:
            return
        rank, opsets = len(stored.proto.dims), onnx_node.versions_of(self.content.proto)
        axis = onnx_node.attributes_of(node, opsets).get("axis")
        is_one = math.prod(scale.proto.dims) == 1
        if is_one or (len(scale.proto.dims) == 1 and isinstance(axis, int) and -rank <= axis < rank):
            place = None if is_one else int(axis or 0) % rank
            kind = torch_type(scale.proto.data_type) or torch.float32
            self.quantized[node.input[0]] = Dequantized(value=node.output[0], axis=place, kind=kind)
            self._aliases[node.output[0]] = node.input[0]

    def alias(self, name: str) -> str:
        """The constant that a name stands for through ``Identity`` and other nodes, or the name itself."""
        return self._aliases.get(name, name)

    def holds(self, node: onnx.NodeProto) -> bool:
        """Whether a node of the file is nothing but a constant."""
        is_one = len(node.output) == 1 and self.alias(node.output[0]) in self.stored
        return is_one and node.op_type in ("Constant", "Identity", "DequantizeLinear")

    def tensor(self, name: str) -> torch.Tensor | None:
        """The constant as a tensor over the file's memory, or None where there is none of this name."""
        if name not in self.stored:
            return None
        if name not in self._tensors:
            self._tensors[name] = self._mapped(self.stored[name])
            self._hold(name)
        return self._tensors[name]

    def ints(self, name: str) -> tuple[int, ...] | None:
        """The integers of a small constant, or None."""
        name = self.alias(name)
        if name in self._small:
            return self._small[name]
        stored = self.stored.get(name)
        if stored is None or math.prod(stored.proto.dims) > _SMALL:
            return None
        if stored.proto.data_type not in (onnx.TensorProto.INT64, onnx.TensorProto.INT32):
            return None
        if stored.proto.data_location == onnx.TensorProto.EXTERNAL:
            return None
        return tuple(int(number) for number in numpy_helper.to_array(stored.proto).reshape(-1))

    def is_false(self, name: str) -> bool:
        """Whether a value is a constant that says no."""
        stored = self.stored.get(self.alias(name))
        is_flag = stored is not None and stored.proto.data_type == onnx.TensorProto.BOOL
        return is_flag and stored is not None and not numpy_helper.to_array(stored.proto).any()

    def is_weight(self, name: str) -> bool:
        """Whether a constant can be a parameter of an affine operator."""
        tensor = self.tensor(name)
        return tensor is not None and tensor.is_floating_point()

    def turn(self, name: str, transposed: bool) -> bool:
        """Holds a matrix as it is or transposed; False where it is held the other way already."""
        quantized = self.quantized.get(name)
        if quantized is not None and quantized.axis not in (None, 1 if transposed else 0):
            return False  # a scale of its own for each input
        if name not in self.transposed:
            self.transposed[name] = transposed
            if transposed:
                self._tensors[name] = self._tensors[name].t()
                self._hold(name)
        return self.transposed[name] == transposed

    def _mapped(self, stored: StoredTensor) -> torch.Tensor:
        """A tensor over the values in the file, or without values where they are written otherwise."""
        dims = tuple(stored.proto.dims)
        kind = torch_type(stored.proto.data_type)
        count = math.prod(dims)
        quantized = self.quantized.get(stored.proto.name)
        if quantized is not None:
            return torch.empty(1, dtype=quantized.kind).expand(dims)
        if kind is None or stored.values is None or not count or stored.item_bytes != kind.itemsize:
            return torch.empty(1, dtype=kind or torch.uint8).expand(dims) if count else torch.empty(dims)
        with warnings.catch_warnings():  # nobody writes to it
            warnings.filterwarnings("ignore", "The given buffer is not writable")
            data = torch.frombuffer(self.content.data, dtype=kind, count=count, offset=stored.values.content)
        return data.view(dims)

    def _hold(self, name: str) -> None:
        """Puts a constant into the tree; under its own name, unless that is no path there."""
        tensor = self._tensors[name]
        path = self.paths.get(name) or self._path(name)
        self.paths[name], self.by_path[path] = path, name
        *above, leaf = path.split(".")
        owner = self.root
        for part in above:
            if part not in owner._modules:
                owner._modules[part] = nn.Module()
            owner = owner.get_submodule(part)
        if tensor.is_floating_point():
            owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
        else:
            owner._buffers[leaf] = tensor

    def _path(self, name: str) -> str:
        parts = name.split(".")
        is_free = all(parts)
        owner: nn.Module | None = self.root
        for part in parts[:-1]:
            if owner is not None:
                is_free &= (
                    part not in owner._parameters and part not in owner._buffers and not _is_taken(part)
                )
                owner = owner._modules.get(part)
        is_free &= owner is None or parts[-1] not in owner._modules
        return name if is_free and not _is_taken(parts[-1]) else "constant:" + name.replace(".", "/")


def _is_taken(part: str) -> bool:
    """Whether a module has something else of this name."""
    return part in _TAKEN
