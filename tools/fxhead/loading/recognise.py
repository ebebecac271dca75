"""What is in a file, told from its content before anything in it is run; the name says nothing."""

from __future__ import annotations

import dataclasses
import enum
import io
import struct
from pathlib import Path
from typing import Any, BinaryIO

from fxexport.onnx_graph.wire import varint
from fxexport.untrusted.archive import ZIP_MAGIC, Archive, open_archive, open_regular
from fxexport.untrusted.limits import MAX_FIELDS, MAX_HEADER_INSTRUCTIONS, MAX_SAFETENSORS_HEADER_BYTES
from fxexport.untrusted.pickle_records import Global, Made, Pickled, PlainDict
from fxexport.untrusted.plain_json import read_plain_json
from fxexport.untrusted.torch_archives import is_compiled, is_program, pickle_of, read_torch_pickle
from fxpasses.errors import FileError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_SAFETENSORS = b"\0\0\0\0{"
"""The upper half of its header's length, and the header: the lower half may begin as a pickle does."""
_FOREIGN = {
    b"\x89HDF": "an HDF5 file, as Keras writes",
    b"GGUF": "a GGUF file",
    b"\x93NUMPY": "a NumPy array",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"\xfd7zXZ": "compressed with xz; unpack it first",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself with git lfs pull",
    b"<!DOCTYPE": "a web page, so the download went wrong",
    b"<html": "a web page, so the download went wrong",
    b"\x7fELF": "a compiled program",
    b"ORTM": "in ONNX Runtime's own format (.ort); give the .onnx file that it was made from",
    b"TFL3": "a TensorFlow Lite file",
}
_FLATBUFFER = 4
"""Where the kind of a flatbuffer stands."""


class FileKind(enum.StrEnum):
    """What a file holds, in words for the user."""

    MODULE = "pickled module"
    GRAPH_MODULE = "pickled GraphModule"
    STATE_DICT = "state dict"
    CHECKPOINT = "training checkpoint"
    OBJECT = "pickled object"
    TORCHSCRIPT = "TorchScript archive"
    PROGRAM = "exported program"
    COMPILED = "program compiled by AOTInductor"
    SAFETENSORS = "safetensors file"
    ONNX = "ONNX file"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Legacy:
    """What follows the pickle in the format before torch 1.6: the storages' names, then their bytes."""

    keys: tuple[str, ...]
    data_offset: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A file, recognised.

    Attributes:
        archive: the zip archive, checked, if it is one.
        pickle: the main pickle as records, if it has one.
        legacy: where the storages are, in the format before torch 1.6.
    """

    path: Path
    kind: FileKind
    archive: Archive | None = None
    pickle: Pickled | None = None
    legacy: Legacy | None = None

    @property
    def title(self) -> str:
        """The kind with the format where there are two of it."""
        return f"{self.kind} (legacy format)" if self.legacy is not None else str(self.kind)


def recognise(path: Path) -> Container:
    """The file with its kind.

    Raises:
        FileError: it is none of the kinds, or is damaged.
    """
    with open_regular(path) as file:
        start = file.read(16)
        if not start:
            raise FileError("the file is empty", where=str(path), fix="save the model again")
        if start.startswith(ZIP_MAGIC):
            return _from_archive(path)
        if start.startswith(b"\x80") and start[4:9] != _SAFETENSORS:
            return _from_pickle(path, file)
        file.seek(0)
        if _is_safetensors(file, path):
            return Container(path=path, kind=FileKind.SAFETENSORS)
        if _is_onnx(file):
            return Container(path=path, kind=FileKind.ONNX)
    raise _unknown(path, start)


def _unknown(path: Path, start: bytes) -> FileError:
    what = next(
        (
            what
            for magic, what in _FOREIGN.items()
            if start.startswith(magic[:16]) or start.startswith(magic, _FLATBUFFER)
        ),
        None,
    )
    what = (
        what or "not a file that torch.save wrote, nor torch.export.save, safetensors or ONNX, or is damaged"
    )
    what, _, fix = what.partition("; ")
    if path.suffix == ".py":
        fix = f"name what builds the model in it: {path.stem}:CALLABLE"
    return FileError(f"is {what}", where=str(path), fix=fix or "save it again with torch.save(model, path)")


# --- zip -------------------------------------------------------------------------------------------


def _from_archive(path: Path) -> Container:
    archive = open_archive(path, str(path))
    archive.require_whole()
    names = archive.names()
    if is_compiled(archive):
        return Container(path=path, kind=FileKind.COMPILED, archive=archive)
    if is_program(archive):
        return Container(path=path, kind=FileKind.PROGRAM, archive=archive)
    if "constants.pkl" in archive or any(name.startswith("code/") for name in names):
        return Container(path=path, kind=FileKind.TORCHSCRIPT, archive=archive)
    if "data.pkl" not in archive:
        what = (
            "is a zip archive, but not a file that torch.save wrote or torch.export.save wrote, or is damaged"
        )
        raise FileError(what, where=str(path), fix="unpack it, or save the model again")
    if "byteorder" in archive and archive.read("byteorder") != b"little":
        raise FileError(
            "was written on a big-endian machine", where=str(path), fix="save it on another machine"
        )
    pickled = pickle_of(archive)
    return Container(path=path, kind=_kind(pickled.root), archive=archive, pickle=pickled)


# --- before torch 1.6 ------------------------------------------------------------------------------


def _from_pickle(path: Path, file: BinaryIO) -> Container:
    """Five pickles in a row, of which the fourth is the object and the fifth names its storages."""
    file.seek(0)
    first = read_torch_pickle(file, str(path), MAX_HEADER_INSTRUCTIONS)
    if first.root != LEGACY_MAGIC:
        raise FileError(
            "is a pickle, but not a file that torch.save wrote",
            where=str(path),
            fix="load it yourself, if you trust it, and save it with torch.save(model, path)",
        )
    version, system = (read_torch_pickle(file, str(path), MAX_HEADER_INSTRUCTIONS) for _ in range(2))
    pickled = read_torch_pickle(file, str(path))
    keys = read_torch_pickle(file, str(path), MAX_HEADER_INSTRUCTIONS)
    order = dict(system.root.pairs).get("little_endian") if isinstance(system.root, PlainDict) else None
    named = isinstance(keys.root, list) and all(isinstance(key, str) for key in keys.root)
    if version.root != _LEGACY_VERSION or order is not True or not named:
        raise FileError("is damaged: the header of torch.save is wrong", where=str(path), fix="save it again")
    legacy = Legacy(keys=tuple(keys.root), data_offset=file.tell())
    return Container(path=path, kind=_kind(pickled.root), pickle=pickled, legacy=legacy)


# --- what a pickle holds ---------------------------------------------------------------------------


def _kind(root: Any) -> FileKind:
    if isinstance(root, Made) and isinstance(root.function, Global):
        if str(root.function) == "torch.fx.graph_module.reduce_graph_module":
            return FileKind.GRAPH_MODULE
        if is_module(root):
            return FileKind.MODULE
    entries = dict_entries(root)
    if entries is None:
        return FileKind.OBJECT
    if is_state_dict(entries):
        return FileKind.STATE_DICT
    return FileKind.CHECKPOINT if entries else FileKind.OBJECT


def is_module(record: Any) -> bool:
    """Whether a record is an ``nn.Module``: an instance whose state has the registries of one."""
    if not isinstance(record, Made) or len(record.states) != 1 or not isinstance(record.states[0], PlainDict):
        return False
    return {"_modules", "_parameters"} <= {key for key, _ in record.states[0].pairs if isinstance(key, str)}


def dict_entries(record: Any) -> dict[str, Any] | None:
    """Entries of a dict or an OrderedDict that has only strings as keys; else None."""
    if isinstance(record, PlainDict):
        pairs: list[Any] = record.pairs
    elif isinstance(record, Made) and str(record.function) == "collections.OrderedDict":
        pairs = record.items
    else:
        return None
    if not all(isinstance(pair, tuple) and isinstance(pair[0], str) for pair in pairs):
        return None
    return dict(pairs)


def is_tensor(record: Any) -> bool:
    """Whether a record is a tensor or a parameter of any kind, sparse and quantised ones too."""
    names = ("torch._utils._rebuild_", "torch._tensor._rebuild_", "torch.nn.parameter.")
    return isinstance(record, Made) and str(record.function).startswith(names)


def is_state_dict(entries: dict[str, Any]) -> bool:
    """Whether these are tensors by name; a few other values, as of ``get_extra_state``, may be among them."""
    tensors = sum(is_tensor(value) for value in entries.values())
    return (bool(tensors) and tensors >= 0.5 * len(entries) and any("." in name for name in entries)) or (
        bool(tensors) and tensors == len(entries)
    )


# --- others ----------------------------------------------------------------------------------------


def _is_safetensors(file: BinaryIO, path: Path) -> bool:
    """Whether it starts as a safetensors file: the length of a JSON header, then that header.

    Raises:
        FileError: it does, and the header does not fit the file.
    """
    start = file.read(9)
    file.seek(0)
    if len(start) < 9 or start[8:9] != b"{":
        return False
    (length,) = struct.unpack("<Q", start[:8])
    if length > min(path.stat().st_size - 8, MAX_SAFETENSORS_HEADER_BYTES):
        raise FileError(
            f"is a safetensors file, but is damaged: its header claims {length:,} bytes",
            where=str(path),
            fix="copy or save the file again",
        )
    file.seek(8)
    try:
        header = read_plain_json(file.read(length).decode())
    except ValueError as error:
        what = "is a safetensors file, but is damaged: its header is no JSON"
        raise FileError(what, where=str(path), fix="copy or save the file again") from error
    finally:
        file.seek(0)
    return isinstance(header, dict)


_MODEL_FIELDS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})
_IR_VERSION, _GRAPH, _OPSET = 1, 7, 8
_LONGEST_VARINT = 10


def _is_onnx(file: BinaryIO) -> bool:
    """Whether its fields are those of ONNX's ``ModelProto``, a graph among them.

    Source:
        Protocol Buffers, *Encoding*; ``onnx.proto``: ir_version = 1, graph = 7, opset_import = 8.
    """
    seen: set[int] = set()
    for _ in range(MAX_FIELDS):
        tag = _varint(file)
        if tag is None:
            return _GRAPH in seen and bool({_IR_VERSION, _OPSET} & seen)
        number, wire = tag >> 3, tag & 7
        if number not in _MODEL_FIELDS or wire not in (0, 2):
            # what went before was a model's, so this is a damaged one, which its reader will say
            return _GRAPH in seen and bool({_IR_VERSION, _OPSET} & seen)
        value = _varint(file)
        if value is None:
            return False
        seen.add(number)
        if wire == 2:
            file.seek(value, io.SEEK_CUR)
    return False


def _varint(file: BinaryIO) -> int | None:
    start, data = file.tell(), file.read(_LONGEST_VARINT)
    try:
        value, length = varint(data, 0, len(data))
    except ValueError:
        return None
    file.seek(start + length)
    return value
