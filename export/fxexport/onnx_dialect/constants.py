"""The constants of an ONNX file: initialisers and ``Constant`` nodes, over the file's own memory."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections import Counter

import onnx
import torch
from torch import nn

from fxexport.onnx_dialect.content import Content, HeldContent, bits_of
from fxexport.onnx_dialect.extents import torch_type
from fxexport.onnx_dialect.external import is_elsewhere
from fxexport.onnx_node import array_of, attributes_of, is_external, is_standard, reads_of, versions_of
from fxexport.untrusted.limits import MAX_MODULES

LEVELS = ("QuantizeLinear", "DequantizeLinear")
_STEPS = (*LEVELS, "Cast", "Clip")
"""What may stand between a constant that is stored in another type and its reader."""
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
        root: the tree that gets them as parameters.

    Attributes:
        paths: where a constant is below ``root``, by name.
        by_path: the names of constants, by where they are.
        transposed: whether a matrix is held as the transposed view of what is stored, by name.
        quantized: constants that a node makes another floating-point type as they are read, by name.
    """

    def __init__(self, content: Content, root: nn.Module) -> None:
        self.content = content
        self.root = root
        self.stored = content.constants
        self._is_held = isinstance(content, HeldContent)  # then weights are read for their numbers
        self.paths: dict[str, str] = {}
        self.by_path: dict[str, str] = {}
        self.transposed: dict[str, bool] = {}
        self.quantized: dict[str, Dequantized] = {}
        self._aliases: dict[str, str] = {}
        self._rounded: dict[str, tuple[str, int | None, tuple[str, ...]]] = {}
        self._tensors: dict[str, torch.Tensor] = {}
        self._small: dict[str, tuple[int, ...]] = {}
        self._modules = 0
        read = Counter(name for node in content.proto.graph.node for name in reads_of(node))
        for node in content.proto.graph.node:
            self._note(node, read)

    def _note(self, node: onnx.NodeProto, read: Counter[str]) -> None:
        """Small constants that are attributes, and other names for constants."""
        if not is_standard(node) or len(node.output) != 1:
            return
        if node.op_type == "Identity" and self.alias(node.input[0]) in self.stored:
            self._aliases[node.output[0]] = self.alias(node.input[0])
        elif node.op_type in _STEPS and read[node.input[0]] == 1 and not self._is_held:
            self._note_stored_otherwise(node)
        elif node.op_type == "Constant":
            held = attributes_of(node, versions_of(self.content.proto))
            numbers = held.get("value_ints") or [held.get("value_int")]
            if numbers != [None]:
                self._small[node.output[0]] = tuple(numbers)

    def _note_stored_otherwise(self, node: onnx.NodeProto) -> None:
        """A constant that is read through its scale: one number, or one along an axis, for each output.

        It is stored as integers, or becomes such as the file runs; what is held between two numbers on the
        way keeps its shape as well, and what is stored in another floating-point type has no scale.
        """
        name, before, passed = self._rounded.get(node.input[0], (node.input[0], None, ()))
        stored = self.stored.get(name)
        place = None if stored is None else self._place_of_scale(node, len(stored.dims))
        if stored is None or (place is not None and before not in (None, place)) or place == -1:
            return
        place = before if place is None else place
        passed = (*passed, node.output[0])
        if node.op_type == "Cast":
            code = next(iter(node.attribute)).i
            if not all(kind and kind.is_floating_point for kind in map(torch_type, (code, stored.data_type))):
                return
        elif node.op_type == "DequantizeLinear":
            code = self.stored[self.alias(node.input[1])].data_type
        else:
            self._rounded[node.output[0]] = name, place, passed
            return
        kind = torch_type(code) or torch.float32
        self.quantized[name] = Dequantized(value=node.output[0], axis=place, kind=kind)
        self._aliases |= dict.fromkeys(passed, name)

    def _place_of_scale(self, node: onnx.NodeProto, rank: int) -> int | None:
        """The axis along which a node's constants differ: None where there is one number, -1 where not so."""
        stored = [self.stored.get(self.alias(name)) for name in node.input[1:] if name]
        several = [tensor for tensor in stored if tensor is None or math.prod(tensor.dims) != 1]
        if not several:
            return None
        axis = attributes_of(node, versions_of(self.content.proto)).get("axis")
        are_vectors = all(tensor is not None and len(tensor.dims) == 1 for tensor in several)
        is_axis = are_vectors and isinstance(axis, int) and -rank <= axis < rank
        return axis % rank if is_axis and isinstance(axis, int) else -1

    def alias(self, name: str) -> str:
        """The constant that a name stands for through ``Identity`` and other nodes, or the name itself."""
        return self._aliases.get(name, name)

    def holds(self, node: onnx.NodeProto) -> bool:
        """Whether a node of the file is nothing but a constant."""
        is_one = len(node.output) == 1 and self.alias(node.output[0]) in self.stored
        return is_one and node.op_type in ("Constant", "Identity", *_STEPS)

    def tensor(self, name: str) -> torch.Tensor | None:
        """The constant as a tensor over the file's memory, or None where there is none of this name."""
        if name not in self.stored:
            return None
        if name not in self._tensors:
            self._hold(name, self._mapped(name))
        return self._tensors[name]

    def ints(self, name: str) -> tuple[int, ...] | None:
        """The integers of a small constant, or None."""
        stored = self.stored.get(self.alias(name))
        kinds = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
        if stored is None or stored.data_type not in kinds or math.prod(stored.dims) > _SMALL:
            return self._small.get(self.alias(name))
        if is_external(stored):
            return None
        return tuple(int(number) for number in array_of(stored).reshape(-1))

    def is_false(self, name: str) -> bool:
        """Whether a value is a constant that says no."""
        stored = self.stored.get(self.alias(name))
        if stored is None or stored.data_type != onnx.TensorProto.BOOL:
            return False
        return not is_external(stored) and not array_of(stored).any()

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
                self._hold(name, self._tensors[name].t())
        return self.transposed[name] == transposed

    def _mapped(self, name: str) -> torch.Tensor:
        """A tensor over the values in the file, or without values where they are written otherwise."""
        stored, quantized = self.stored[name], self.quantized.get(name)
        dims, kind = tuple(stored.dims), torch_type(stored.data_type)
        is_mapped = kind is not None and quantized is None and not is_elsewhere(self.content, stored)
        known = quantized.kind if quantized is not None else kind or torch.uint8
        count = math.prod(dims)
        if not is_mapped or not count or bits_of(stored.data_type) != 8 * known.itemsize:
            return torch.empty((), dtype=known).expand(dims) if count else torch.empty(dims, dtype=known)
        data, start = self.content.place_of(stored)
        with warnings.catch_warnings():  # nobody writes to it
            warnings.filterwarnings("ignore", "The given buffer is not writable")
            return torch.frombuffer(data, dtype=known, count=count, offset=start).view(dims)

    def _hold(self, name: str, tensor: torch.Tensor) -> None:
        """Puts a constant into the tree; under its own name, unless that is no path there."""
        self._tensors[name] = tensor
        path = self.paths.get(name) or self._path(name)
        self.paths[name], self.by_path[path] = path, name
        owner, (*above, leaf) = self.root, path.split(".")
        for part in above:
            self._modules += part not in owner._modules
            owner = owner._modules.setdefault(part, nn.Module())  # type: ignore[assignment]  # never None
        if tensor.is_floating_point():
            owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
        else:
            owner._buffers[leaf] = tensor

    def _path(self, name: str) -> str:
        owner, (*above, leaf) = self.root, name.split(".")
        # a module takes a thousand times the bytes of its name
        for part in above if self._modules + len(above) <= MAX_MODULES else ("",):
            if not part or part in _TAKEN or part in owner._parameters or part in owner._buffers:
                break
            owner = owner._modules.get(part) or nn.Module()
        else:
            if leaf and leaf not in _TAKEN and leaf not in owner._modules:
                return name
        return "constant:" + name.replace(".", "/")
