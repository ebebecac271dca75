"""ONNX files as they lie on the disk: mapped to be read, written block by block."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from pathlib import Path

from fxexport.onnx_dialect.pieces import Piece, written
from fxexport.onnx_graph.wire import Buffer
from fxexport.untrusted.archive import open_regular
from fxpasses.errors import FileError


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
        for block in written(pieces, memoryview(source)):
            file.write(block)
