"""Weights that lie in files of their own beside an ONNX file: where, and under which names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from fxexport.onnx_dialect.broken import BrokenGraph
from fxexport.onnx_dialect.content import Content, StoredTensor
from fxexport.terms.term import Array


def is_external(tensor: StoredTensor) -> bool:
    """Whether the values of a tensor lie in another file."""
    return tensor.values is None and uses_external_data(tensor.proto)


def location_of(tensor: StoredTensor) -> str:
    """The other file, as the tensor names it."""
    return str(ExternalDataInfo(tensor.proto).location)


def locations(content: Content) -> tuple[str, ...]:
    """The other files of a model's initialisers, in the order in which they are named."""
    held = [location_of(tensor) for tensor in content.initializers.values() if is_external(tensor)]
    return tuple(dict.fromkeys(held))


def can_move(content: Content) -> bool:
    """Whether initialisers are all that lies elsewhere, so that the other files can get other names."""
    return not any(uses_external_data(tensor) for tensor in _inner(content.proto.graph)) and not any(
        uses_external_data(item.t)
        for function in content.proto.functions
        for node in function.node
        for item in node.attribute
    )


def _inner(graph: onnx.GraphProto, *, is_top: bool = True) -> Iterator[onnx.TensorProto]:
    """Tensors in the attributes and subgraphs of a graph, but those whose values were left in the file."""
    if not is_top:
        yield from graph.initializer
    for node in graph.node:
        for item in node.attribute:
            held = [item.t] if item.HasField("t") else []
            yield from (t for t in (*held, *item.tensors) if not _is_left(t))
            for inner in ([item.g] if item.HasField("g") else []) + [*item.graphs]:
                yield from _inner(inner, is_top=False)


def _is_left(tensor: onnx.TensorProto) -> bool:
    return any(entry.value == Content.LEFT for entry in tensor.external_data)


def path_of(folder: Path, location: str) -> Path:
    """The file that a location names.

    Raises:
        BrokenGraph: it lies outside the folder, or is none.
    """
    path = (folder / location).resolve()
    if folder.resolve() not in path.parents:
        raise BrokenGraph(f"weights lie in {location!r}, outside the file's folder")
    if not path.is_file():  # reading a pipe would never end
        raise BrokenGraph(f"weights lie in {location!r}, which is no file")
    return path


def values_of(tensor: StoredTensor, folder: Path | None, shape: Iterable[int]) -> Array:
    """The numbers of a tensor that lie in another file, in a shape.

    Raises:
        BrokenGraph: they are not there.
    """
    if folder is None:
        raise BrokenGraph(f"the weights of {tensor.proto.name!r} lie in a file, and the model says not where")
    info = ExternalDataInfo(tensor.proto)
    kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.proto.data_type)
    try:
        return np.memmap(path_of(folder, info.location), kind, "r", info.offset or 0, tuple(shape))
    except ValueError as error:
        raise BrokenGraph(f"the weights of {tensor.proto.name!r} are cut short") from error
