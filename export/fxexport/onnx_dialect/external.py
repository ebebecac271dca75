"""ONNX files as they lie on the disk: mapped to be read, written block by block, weights in other files."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from fxexport.onnx_dialect.broken import BrokenGraph
from fxexport.onnx_dialect.content import Content, bytes_of
from fxexport.onnx_dialect.pieces import Piece, written
from fxexport.onnx_graph.wire import Buffer
from fxexport.onnx_node import held_tensors
from fxexport.untrusted.archive import open_regular
from fxpasses.errors import FileError

_LONGEST_NAME = 4096


def mapped(path: Path) -> Buffer:
    """The file's bytes, read as they are asked for.

    Raises:
        FileError: it cannot be read.
    """
    try:
        if not path.exists():
            raise FileError("there is no such file", where=str(path))
        with open_regular(path) as file:
            if path.stat().st_size == 0:
                raise FileError("is empty", where=str(path), fix="export it again")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise FileError(f"cannot be read ({error.strerror or error})", where=str(path)) from error


def write_pieces(pieces: Iterable[Piece], source: Buffer, path: Path) -> None:
    """Writes a file of pieces of another one.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("wb") as file:
        file.writelines(written(pieces, memoryview(source)))


def is_elsewhere(content: Content, tensor: onnx.TensorProto) -> bool:
    """Whether the values of a tensor lie in another file."""
    return uses_external_data(tensor) and content.left_of(tensor) is None


def locations(content: Content) -> tuple[str, ...]:
    """The other files of a model's initialisers, in the order in which they are named.

    Raises:
        FileError: what it names is no file's name.
    """
    held = [tensor for tensor in content.initializers.values() if is_elsewhere(content, tensor)]
    try:
        return tuple(dict.fromkeys(_info(tensor).location for tensor in held))
    except ValueError as error:
        raise FileError(f"is damaged ({error})", where=content.name, fix="export it again") from error


def _info(tensor: onnx.TensorProto) -> ExternalDataInfo:
    """Where a tensor's values lie.

    Raises:
        BrokenGraph: it says so in a way that nobody can read.
    """
    try:
        info = ExternalDataInfo(tensor)
    except ValueError as error:
        raise BrokenGraph(f"the weights of {tensor.name!r} lie at no number ({error})") from error
    if not 0 < len(str(info.location or "").encode()) < _LONGEST_NAME or "\0" in info.location:
        raise BrokenGraph(f"the weights of {tensor.name!r} lie in no file")
    return info


def others_elsewhere(content: Content) -> Iterator[onnx.TensorProto]:
    """What lies elsewhere and is no initialiser of the model: attributes, and what graphs in nodes hold."""
    yield from (tensor for tensor in held_tensors(content.proto) if is_elsewhere(content, tensor))


def can_move(content: Content) -> bool:
    """Whether initialisers are all that lies elsewhere, so that the other files can get other names."""
    return not any(True for _ in others_elsewhere(content))


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


def values_elsewhere(content: Content, tensor: onnx.TensorProto) -> tuple[Buffer, int]:
    """The other file that holds a tensor's numbers, and where in it they begin.

    Raises:
        BrokenGraph: they are not there.
    """
    if content.folder is None:
        raise BrokenGraph(f"the weights of {tensor.name!r} lie in a file, and the model says not where")
    info, size = _info(tensor), bytes_of(tensor)
    data, start = mapped(path_of(content.folder, info.location)), info.offset or 0
    if min(size, start) < 0 or start + size > len(data) or info.length not in (None, 0, size):
        raise BrokenGraph(
            f"the weights of {tensor.name!r} are cut short, or of another size than they should"
        )
    return data, start
