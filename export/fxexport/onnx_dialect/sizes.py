"""Sizes that an ONNX graph computes: numbers, and extents of its values, seen through the usual chains.

``Shape → Gather → Unsqueeze → Concat → Reshape`` is how exporters write ``x.view(x.size(0), -1)``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import onnx

from fxexport.onnx_dialect.extents import Shape


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
