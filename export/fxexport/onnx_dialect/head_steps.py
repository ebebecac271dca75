"""The head of a model as boxes and wires, read from its graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx

from fxexport.onnx_dialect.rewrite import read_content
from fxexport.onnx_node import BrokenAttribute, value_of
from fxpasses.errors import FileError

_MOST_STEPS = 14
_POOLS = ("GlobalAveragePool", "GlobalMaxPool", "AveragePool", "MaxPool", "ReduceMean", "ReduceMax")
_SIZED = ("Reshape", "Expand", "Slice", "Unsqueeze", "Squeeze", "Pad", "Tile", "Resize")
"""Operators that read sizes, which are no part of the drawing, behind their first operand."""
_TOLD = ("kernel_shape", "axis", "axes", "perm", "keepdims")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One operator of a head.

    Attributes:
        detail: its weights and attributes, briefly.
        is_site: whether it has a matrix of weights.
        sources: positions of the steps that it reads.
        is_open: whether it reads something that is not drawn.
    """

    name: str
    detail: str
    is_site: bool
    sources: tuple[int, ...]
    is_open: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """The head of one model, from what collapses the map to the outputs.

    Attributes:
        outputs: each output of the model, and the position of the step that gives it.
    """

    title: str
    steps: tuple[Step, ...]
    outputs: tuple[tuple[str, int], ...]


def draw_onnx(path: Path, title: str) -> Drawing | None:
    """The head of an ONNX file; None where its outputs are no operator's.

    Raises:
        FileError: it is no ONNX file.
    """
    graph = read_content(path).proto.graph
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    nodes = [*graph.node]
    weights |= {name: () for node in nodes if node.op_type == "Constant" for name in node.output}
    made = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    roots = [(value.name, made[value.name]) for value in graph.output if value.name in made]
    kept = sorted(_within(nodes, made, weights, [index for _, index in roots]))
    places = {index: place for place, index in enumerate(kept)}
    try:
        steps = tuple(_step(nodes[index], weights, made, places) for index in kept)
    except BrokenAttribute as error:
        raise FileError(str(error), where=str(path), fix="export the model again") from error
    outputs = tuple((name, places[index]) for name, index in roots if index in places)
    return Drawing(title=title, steps=steps, outputs=outputs) if steps else None


def _operands(node: onnx.NodeProto, weights: Mapping[str, object]) -> list[str]:
    """The values that flow through an operator: neither weights nor sizes."""
    read = node.input[:1] if node.op_type in _SIZED else node.input
    return [name for name in read if name and name not in weights]


def _within(
    nodes: Sequence[onnx.NodeProto],
    made: Mapping[str, int],
    weights: Mapping[str, tuple[int, ...]],
    roots: list[int],
) -> set[int]:
    """From the outputs back until both a pool and a matrix of weights were passed, or many operators."""
    kept: set[int] = set()
    edge = [(index, False, False) for index in roots]
    while edge and len(kept) < _MOST_STEPS:
        index, had_pool, had_site = edge.pop(0)
        if index in kept:
            continue
        kept.add(index)
        node = nodes[index]
        had_pool = had_pool or node.op_type in _POOLS
        had_site = had_site or _matrix(node, weights) is not None
        if not (had_pool and had_site):
            edge += [(made[name], had_pool, had_site) for name in _operands(node, weights) if name in made]
    return kept


def _matrix(node: onnx.NodeProto, weights: Mapping[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    """Shape of the weights that an operator multiplies by."""
    is_product = node.op_type in ("Gemm", "MatMul", "Conv")
    return next((weights[name] for name in node.input if len(weights.get(name, ())) > 1 and is_product), None)


def _step(
    node: onnx.NodeProto,
    weights: Mapping[str, tuple[int, ...]],
    made: Mapping[str, int],
    places: Mapping[int, int],
) -> Step:
    matrix = _matrix(node, weights)
    told = [] if matrix is None else ["×".join(map(str, matrix))]
    read = {made.get(name) for name in _operands(node, weights)}
    sources = tuple(sorted(places[index] for index in read if index is not None and index in places))
    return Step(
        name=node.op_type,
        detail=", ".join((*told, *_attributes(node))),
        is_site=matrix is not None,
        sources=sources,
        is_open=len(sources) < len(read),
    )


def _attributes(node: onnx.NodeProto) -> Iterator[str]:
    for attribute in node.attribute:
        if attribute.name in _TOLD:
            value = value_of(attribute)
            shown = "×".join(map(str, value)) if isinstance(value, list) else str(value)
            yield f"{attribute.name.removesuffix('_shape')} {shown}"
