"""The shapes of a file's values as torch knows shapes: fake tensors, whose open extents are symbols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import onnx
import torch
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

Extent: TypeAlias = int | str | None
Shape: TypeAlias = tuple[int, tuple[Extent, ...]]
"""The type of an ONNX tensor's elements, and its extents: numbers, names, or None."""

_HINT = 7919
"""What a named extent is taken for where a number is needed; a prime that no extent is."""
_TYPES: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.UINT16: torch.uint16,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.UINT32: torch.uint32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.UINT64: torch.uint64,
    onnx.TensorProto.BOOL: torch.bool,
    onnx.TensorProto.COMPLEX64: torch.complex64,
    onnx.TensorProto.COMPLEX128: torch.complex128,
}


def torch_type(element: int) -> torch.dtype | None:
    """The dtype of an ONNX element type, or None where torch has none."""
    return _TYPES.get(element)


def onnx_type(kind: torch.dtype) -> int:
    """The ONNX element type of a dtype."""
    return next(element for element, known in _TYPES.items() if known == kind)


def shape_of(value: onnx.ValueInfoProto) -> Shape | None:
    """What a value's declaration says of its shape, or None where it says no rank."""
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        return None
    dims = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in kind.shape.dim]
    return kind.elem_type, tuple(dims)


def inferred(model: onnx.ModelProto, input_shapes: Sequence[Sequence[int]] = ()) -> dict[str, Shape]:
    """The shapes of a model's values: what ONNX infers, and where it cannot tell, what the file declares.

    Args:
        model: the model.
        input_shapes: the shape of each input, for extents that the model leaves open; the batch stays open.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    declared = {value.name: shape_of(value) for value in (*graph.value_info, *graph.output)}
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    for place, value in enumerate(inputs):
        _settle(value, input_shapes[place] if place < len(input_shapes) else ())
    try:
        graph = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    except (RuntimeError, onnx.shape_inference.InferenceError):
        pass  # what it found before is lost; what the file says remains
    found = {value.name: shape_of(value) for value in (*graph.input, *graph.value_info, *graph.output)}
    names = [*found, *(name for name in declared if name not in found)]
    chosen = {name: _merged(found.get(name), declared.get(name)) for name in names}
    return {name: shape for name, shape in chosen.items() if shape is not None}


def _settle(value: onnx.ValueInfoProto, extents: Sequence[int]) -> None:
    """Gives open extents of an input the numbers of the samples, and its batch a name."""
    dims = value.type.tensor_type.shape.dim
    for axis, dim in enumerate(dims):
        if dim.HasField("dim_value"):
            continue
        if axis == 0:
            dim.dim_param = dim.dim_param or "batch"
        elif len(extents) == len(dims):
            dim.dim_value = extents[axis]


def _merged(found: Shape | None, declared: Shape | None) -> Shape | None:
    """What was inferred, and for extents that it leaves open the name that the file has for them."""
    if found is None or declared is None or len(found[1]) != len(declared[1]):
        return found or declared
    pairs = zip(found[1], declared[1], strict=True)
    return found[0], tuple(ours if _is_known(ours) else theirs for ours, theirs in pairs)


def _is_known(extent: Extent) -> bool:
    return isinstance(extent, int) or (extent is not None and not extent.startswith("unk__"))


class Values:
    """Makes the ``val`` of nodes: tensors without data, in which an extent of one name is one symbol."""

    def __init__(self) -> None:
        self.env = ShapeEnv()
        self.mode = FakeTensorMode(shape_env=self.env, allow_non_fake_inputs=True)
        self.names: dict[str, str] = {}
        self._symbols: dict[str, torch.SymInt] = {}

    def tensor(self, shape: Shape | None) -> FakeTensor | None:
        """A tensor of a shape, or None where torch has none like it."""
        kind = None if shape is None else torch_type(shape[0])
        if shape is None or kind is None:
            return None
        sizes = [extent if isinstance(extent, int) else self._symbol(extent) for extent in shape[1]]
        return FakeTensor(self.mode, torch.empty(sizes, dtype=kind, device="meta"), torch.device("cpu"))

    def like(self, tensor: torch.Tensor) -> FakeTensor:
        """A tensor of the shape of another one."""
        empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        return FakeTensor(self.mode, empty, torch.device("cpu"))

    def extents(self, tensor: torch.Tensor) -> list[Extent]:
        """A tensor's shape in the file's words."""
        return [size if isinstance(size, int) else self.names.get(str(size)) for size in tensor.shape]

    def _symbol(self, name: str | None) -> torch.SymInt:
        if name is None or not _is_known(name):
            return self.env.create_unbacked_symint()
        if name not in self._symbols:
            source = ConstantSource(f"extent_{len(self._symbols)}")
            symbol = self.env.create_symbol(_HINT + len(self._symbols), source, DimDynamic.DYNAMIC)
            made: Any = self.env.create_symintnode(symbol, hint=_HINT + len(self._symbols), source=source)
            self._symbols[name] = made
            self.names[str(made)] = name
        return self._symbols[name]
