"""The shapes of a file's values as torch knows shapes: fake tensors, whose open extents are symbols.

Also the sizes that a graph computes: numbers, and extents of its values, seen through the usual chains.
``Shape → Gather → Unsqueeze → Concat → Reshape`` is how exporters write ``x.view(x.size(0), -1)``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from fxexport.onnx_dialect.private_names import ConstantSource
from fxexport.onnx_graph.shapes import BATCH, with_shapes, without_declarations
from fxexport.onnx_inference import infer_shapes
from fxexport.onnx_node import inputs_of, sort_nodes
from fxpasses.errors import FileError
from fxpasses.private_names import FakeTensor, FakeTensorMode

Extent: TypeAlias = int | str | None
Shape: TypeAlias = tuple[int, tuple[Extent, ...]]
"""The type of an ONNX tensor's elements, and its extents: numbers, names, or None."""

_UNKNOWN: Shape = (0, (None,))
_HINT = 7919
"""What a named extent is taken for where a number is needed; a prime that no extent is."""
_MOST = 1 << 58
"""Elements of a tensor: torch counts its bytes in 63 bits."""
_ALIKE = "float16 bfloat16 int8 uint8 int16 uint16 int32 uint32 int64 uint64 bool complex64 complex128"
_TYPES: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.DOUBLE: torch.float64,
    **{onnx.TensorProto.DataType.Value(name.upper()): getattr(torch, name) for name in _ALIKE.split()},
}


def torch_type(element: int) -> torch.dtype | None:
    """The dtype of an ONNX element type, or None where torch has none."""
    return _TYPES.get(element)


def numpy_name(element: int) -> str:
    """NumPy's name of an ONNX element type.

    Raises:
        FileError: there is no such type.
    """
    kind = element_type(element)
    if kind is None:
        raise FileError(f"a value is of the type {element}, which ONNX has not")
    return str(kind.name)


def element_type(element: int) -> np.dtype[Any] | None:
    """NumPy's type of an ONNX element type, or None where there is none."""
    try:
        return onnx.helper.tensor_dtype_to_np_dtype(element)
    except KeyError:
        return None


def onnx_type(kind: torch.dtype) -> int:
    """The ONNX element type of a dtype."""
    return next(element for element, known in _TYPES.items() if known == kind)


def shape_of(value: onnx.ValueInfoProto) -> Shape | None:
    """What a value's declaration says of its shape, or None where it says no rank."""
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        return None
    dims = [dim.dim_value if _is_fixed(dim) else _named(dim.dim_param) for dim in kind.shape.dim]
    return kind.elem_type, tuple(dims)


def _is_fixed(dim: onnx.TensorShapeProto.Dimension) -> bool:
    """Whether an extent is a number; some exporters write -1 for an open one."""
    return bool(dim.HasField("dim_value")) and dim.dim_value >= 0


def _named(name: str) -> str | None:
    """The name of an open extent, or None for those that ONNX's inference makes up."""
    return None if not name or name.startswith("unk__") else name


def inferred(model: onnx.ModelProto, input_shapes: Sequence[Sequence[int]] = ()) -> dict[str, Shape]:
    """The shapes of a model's values: what ONNX infers, and where it cannot tell, what the file declares.

    ``input_shapes`` fills extents that the model leaves open; the batch stays open.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    sort_nodes(graph)
    declared = {value.name: shape_of(value) for value in (*graph.value_info, *graph.output)}
    without_declarations(graph)
    for place, value in enumerate(inputs_of(graph)):
        _settle(value, input_shapes[place] if place < len(input_shapes) else ())
    found = _inferred(copy)
    if any(name and None in found.get(name, _UNKNOWN)[1] for node in graph.node for name in node.output):
        found |= {name: _merged(found.get(name), shape) or shape for name, shape in _computed(copy).items()}
    names = [*found, *(name for name in declared if name not in found)]
    chosen = {name: _merged(found.get(name), declared.get(name)) for name in names}
    return {name: shape for name, shape in chosen.items() if shape is not None}


def _inferred(model: onnx.ModelProto) -> dict[str, Shape]:
    try:
        return shapes_in(infer_shapes(model).graph)
    except onnx.shape_inference.InferenceError:
        return {}  # what the file says remains


def _computed(model: onnx.ModelProto) -> dict[str, Shape]:
    """The shapes that follow where sizes are computed in the graph; those of the batch have its name."""
    names = map(shape_of, inputs_of(model.graph))
    batch = next((shape[1][0] for shape in names if shape is not None and shape[1]), None)
    try:
        found = shapes_in(with_shapes(model).graph)
    except (RuntimeError, OverflowError, onnx.shape_inference.InferenceError):
        return {}

    def extent(size: Extent) -> Extent:
        is_batch = isinstance(size, int) and size > 0 and size % BATCH == 0
        return (batch if size == BATCH else None) if is_batch and not isinstance(batch, int) else size

    return {name: (kind, tuple(map(extent, dims))) for name, (kind, dims) in found.items()}


def shapes_in(graph: onnx.GraphProto) -> dict[str, Shape]:
    """What a graph declares of its values, by name."""
    known = {value.name: shape_of(value) for value in (*graph.input, *graph.value_info, *graph.output)}
    return {name: shape for name, shape in known.items() if shape is not None}


def _settle(value: onnx.ValueInfoProto, extents: Sequence[int]) -> None:
    """Gives open extents of an input the numbers of the samples, and its batch a name."""
    dims = value.type.tensor_type.shape.dim
    for axis, dim in enumerate(dims):
        if _is_fixed(dim):
            continue
        dim.ClearField("dim_value")
        if axis == 0:
            dim.dim_param = _named(dim.dim_param) or "batch"
        elif len(extents) == len(dims):
            dim.dim_value = extents[axis]


def _merged(found: Shape | None, declared: Shape | None) -> Shape | None:
    """What was inferred, and for extents that it leaves open the name that the file has for them."""
    if found is None or declared is None or len(found[1]) != len(declared[1]):
        return found or declared
    pairs = zip(found[1], declared[1], strict=True)
    return found[0], tuple(ours if ours is not None else theirs for ours, theirs in pairs)


class FakeValues:
    """Makes the ``val`` of nodes: tensors without data, in which an extent of one name is one symbol."""

    def __init__(self) -> None:
        self.env = ShapeEnv()
        self.mode = FakeTensorMode(shape_env=self.env, allow_non_fake_inputs=True)
        self.names: dict[str, str] = {}
        self._symbols: dict[str, torch.SymInt] = {}
        self._tensors: dict[Shape, FakeTensor] = {}

    def tensor(self, shape: Shape | None) -> FakeTensor | None:
        """A tensor of a shape, or None where torch has none like it; values of one shape share it."""
        kind = None if shape is None else torch_type(shape[0])
        if shape is None or kind is None or None in shape[1][1:2]:
            return None  # of unknown channels, nothing can be computed
        if shape not in self._tensors:
            sizes = [extent if isinstance(extent, int) else self._symbol(extent) for extent in shape[1]]
            if (
                math.prod(extent if isinstance(extent, int) and extent else _HINT for extent in shape[1])
                > _MOST
            ):
                return None
            empty = torch.empty(sizes, dtype=kind, device="meta")
            self._tensors[shape] = FakeTensor(self.mode, empty, torch.device("cpu"))
        return self._tensors[shape]

    def like(self, tensor: torch.Tensor) -> FakeTensor:
        """A tensor of the shape of another one."""
        empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        return FakeTensor(self.mode, empty, torch.device("cpu"))

    def extents(self, tensor: torch.Tensor) -> list[Extent]:
        """A tensor's shape in the file's words."""
        return [size if isinstance(size, int) else self.names.get(str(size)) for size in tensor.shape]

    def _symbol(self, name: str | None) -> torch.SymInt:
        """The symbol of an open extent; all that nothing is known of share one, which has no name."""
        key = name or ""
        if key not in self._symbols:
            source = ConstantSource(f"extent_{len(self._symbols)}")
            hint = _HINT + len(self._symbols)
            symbol = self.env.create_symbol(hint, source, DimDynamic.DYNAMIC)
            made: Any = self.env.create_symintnode(symbol, hint=hint, source=source)
            self._symbols[key] = made
            if key:
                self.names[str(made)] = key
        return self._symbols[key]


@dataclasses.dataclass(frozen=True, slots=True)
class ExtentOf:
    """The extent of a value along an axis."""

    value: str
    axis: int


Size: TypeAlias = int | ExtentOf

_SAME = frozenset({"Identity", "Unsqueeze", "Squeeze", "Cast"})


def sizes_given(
    node: onnx.NodeProto,
    attributes: Mapping[str, Any],
    read: Sequence[Sequence[Size] | None],
    shape: Shape | None,
) -> list[Size] | None:
    """The sizes that a node of ONNX's own operators gives, or None where it gives others.

    ``read`` has the sizes that each operand holds, or None; ``shape`` is the first one's, where it is known.
    """
    kind, first = node.op_type, next(iter(read), None)
    if kind == "Shape" and shape is not None:
        extents = [
            e if isinstance(e, int) else ExtentOf(node.input[0], axis) for axis, e in enumerate(shape[1])
        ]
        return extents[attributes.get("start") or 0 : attributes.get("end")]
    if kind == "Concat":
        return None if None in read else [size for part in read for size in part or ()]
    if first is None:
        return None
    if kind in _SAME or (kind == "Reshape" and len(read) > 1 and len(read[1] or (0, 0)) == 1):
        return [*first]
    places = [size for size in read[1] or () if isinstance(size, int)] if len(read) > 1 else []
    if kind == "Gather" and read[1] is not None and len(places) == len(read[1]):
        return [first[p] for p in places] if all(-len(first) <= p < len(first) for p in places) else None
    if kind == "Slice":
        starts, ends = read[1:3] if len(read) > 2 else (attributes["starts"], attributes["ends"])
        steps = read[4] if len(read) > 4 and node.input[4] else [1]
        bounds = [*(starts or ()), *(ends or ())]
        if len(bounds) == 2 and [*(steps or ())] == [1] and all(isinstance(bound, int) for bound in bounds):
            return [*first[slice(*bounds)]]
    return None
