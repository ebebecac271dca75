"""Sizes that an ONNX graph computes: numbers, and extents of its values, seen through the usual chains.

``Shape → Gather → Unsqueeze → Concat → Reshape`` is how exporters write ``x.view(x.size(0), -1)``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TypeAlias

import onnx

from fxexport import onnx_node
from fxexport.onnx_dialect.constants import Constants
from fxexport.onnx_dialect.extents import Shape


@dataclasses.dataclass(frozen=True, slots=True)
class Axis:
    """The extent of a value along an axis."""

    value: str
    axis: int


Size: TypeAlias = int | Axis

_SAME = frozenset({"Identity", "Unsqueeze", "Squeeze", "Cast"})


class Sizes:
    """Follows small integer values of a file back to what they are computed from."""

    def __init__(
        self,
        graph: onnx.GraphProto,
        opsets: Mapping[str, int],
        constants: Constants,
        shapes: Mapping[str, Shape],
    ) -> None:
        self.producers = {name: node for node in graph.node for name in node.output}
        self.opsets = opsets
        self.constants = constants
        self.shapes = shapes
        self._known: dict[str, list[Size] | None] = {}

    def of(self, name: str) -> list[Size] | None:
        """The sizes that a value holds, or None where they are computed otherwise."""
        if name not in self._known:
            self._known[name] = None  # a circle holds no sizes
            constant = self.constants.ints(name)
            self._known[name] = [*constant] if constant is not None else self._computed(name)
        return self._known[name]

    def _computed(self, name: str) -> list[Size] | None:
        node = self.producers.get(name)
        if node is None or not onnx_node.is_standard(node) or len(node.output) != 1:
            return None
        if node.op_type == "Shape":
            return self._shape(node)
        parts = [self.of(read) for read in node.input if read]
        first = parts[0] if parts else None
        if first is None:
            return None
        if node.op_type in _SAME:
            return first
        if node.op_type == "Concat":
            return [size for part in parts for size in part] if None not in parts else None  # type: ignore[union-attr]
        if node.op_type == "Gather":
            return self._picked(first, parts[1])
        if node.op_type == "Slice":
            return self._sliced(node, first, parts)
        return None

    def _shape(self, node: onnx.NodeProto) -> list[Size] | None:
        known = self.shapes.get(node.input[0])
        if known is None:
            return None
        attributes = onnx_node.attributes_of(node, self.opsets)
        sizes = [
            extent if isinstance(extent, int) else Axis(node.input[0], axis)
            for axis, extent in enumerate(known[1])
        ]
        return sizes[attributes.get("start") or 0 : attributes.get("end")]

    def _picked(self, sizes: list[Size], places: list[Size] | None) -> list[Size] | None:
        if places is None or not all(isinstance(p, int) and -len(sizes) <= p < len(sizes) for p in places):
            return None
        return [sizes[place] for place in places if isinstance(place, int)]

    def _sliced(
        self, node: onnx.NodeProto, sizes: list[Size], parts: list[list[Size] | None]
    ) -> list[Size] | None:
        attributes = onnx_node.attributes_of(node, self.opsets)
        starts = attributes.get("starts") or (parts[1] if len(parts) > 1 else None)
        ends = attributes.get("ends") or (parts[2] if len(parts) > 2 else None)
        steps = parts[4] if len(parts) > 4 else [1]
        if (
            steps != [1]
            or not starts
            or not ends
            or not isinstance(starts[0], int)
            or not isinstance(ends[0], int)
        ):
            return None
        return sizes[starts[0] : ends[0]]
