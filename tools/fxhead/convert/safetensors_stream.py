"""Safetensors files: a header in JSON, then the weights, which are streamed through.

Only the header's shapes change. A permuted kernel (channels last) is written anew, as the format has no
strides.

Source:
    huggingface/safetensors, *Format*.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from fxexport.untrusted.archive import open_regular
from fxexport.untrusted.limits import MAX_DIMENSIONS, MAX_SAFETENSORS_HEADER_BYTES
from fxexport.untrusted.pickle_records import PlainDict
from fxexport.untrusted.plain_json import read_plain_json
from fxhead.convert.stored_tensors import Storage, StoredTensor, TensorEdit
from fxhead.convert.streams import ByteRange, Copier, copy_with
from fxpasses.errors import FileError, PlanError

_LENGTH = struct.Struct("<Q")
_ALIGNMENT = 8
_MOST = 1 << 62
_KEYS = {"dtype", "shape", "data_offsets"}
_METADATA = "__metadata__"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SafetensorsCheckpoint:
    """A safetensors file; ``start`` is where its weights begin."""

    header: dict[str, Any]
    root: PlainDict
    start: int
    size: int
    kind: str = "safetensors"
    names: frozenset[str] = frozenset()

    def write(self, source: BinaryIO, out: BinaryIO, edits: Sequence[TensorEdit]) -> None:
        """Writes the file with the edits made."""
        header = dict(self.header)
        regions = []
        for edit in edits:
            name = edit.tensor.storage.key
            header[name] = {**header[name], "shape": list(edit.shape)}
            if edit.is_copy or edit.stride != _contiguous(edit.shape):
                _require_whole_bytes(edit)
                begin = self.start + header[name]["data_offsets"][0]
                regions.append(ByteRange(start=begin, edit=edit))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        copier = Copier(source, out)
        copier.write(_LENGTH.pack(len(text)) + text)
        copy_with(copier, self.start, self.size - self.start, regions)


def _require_whole_bytes(edit: TensorEdit) -> None:
    if edit.tensor.size_bytes != edit.tensor.storage.size_bytes:
        what = "its elements need another order, and are no whole bytes"
        raise PlanError(what, where=edit.place, fix="give a checkpoint of the float model")


def is_safetensors(beginning: bytes) -> bool:
    """Whether a file that begins so is one: the length of a header, and the header's brace."""
    return len(beginning) > _LENGTH.size and beginning[_LENGTH.size : _LENGTH.size + 1] == b"{"


def open_safetensors(path: Path) -> SafetensorsCheckpoint:
    """The file at ``path``; only its header is read.

    Raises:
        FileError: it is damaged.
    """
    with open_regular(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
        if length > min(size - _LENGTH.size, MAX_SAFETENSORS_HEADER_BYTES):
            raise _damaged("its header is longer than the file, or than the format allows", path)
        text = file.read(length)
    start = _LENGTH.size + length
    root = PlainDict()
    try:
        header = read_plain_json(text.decode("utf-8"))
        _require_texts(header)
        for name, entry in header.items():
            if name != _METADATA:
                root.pairs.append((name, _tensor(name, entry, size - start)))
        _require_gapless(header, size - start)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(f"its header is wrong ({error})", path) from error
    return SafetensorsCheckpoint(header=header, root=root, start=start, size=size)


def _require_texts(header: dict[str, Any]) -> None:
    """Returns where names and what is told beside the weights are texts: all else no reader takes.

    Raises:
        ValueError: one is none, or has half a character.
    """
    told = header.get(_METADATA, {})
    texts = [*header, *told, *told.values()]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{_METADATA} holds something else than texts")
    for text in texts:
        text.encode()


def _require_gapless(header: dict[str, Any], size: int) -> None:
    """Returns where the tensors lie one behind the other, and nothing else does.

    Raises:
        ValueError: there are gaps, or two that overlap.
    """
    places = sorted((*entry["data_offsets"], name) for name, entry in header.items() if name != _METADATA)
    last = 0
    for begin, end, name in places:
        if begin != last:
            raise ValueError(f"{name!r} does not begin where the weights before it end")
        last = end
    if last != size:
        raise ValueError("it does not say what all of the file's bytes are")


def _tensor(name: str, entry: dict[str, Any], limit: int) -> StoredTensor:
    if entry.keys() != _KEYS:
        raise ValueError(f"{name!r} is described by something else than {', '.join(sorted(_KEYS))}")
    shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
    if not all(type(number) is int and 0 <= number < _MOST for number in (*shape, begin, end)):
        raise ValueError(f"{name!r} has extents or offsets that are no natural numbers")
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{name!r} has more axes than the limit of {MAX_DIMENSIONS}")
    if not begin <= end <= limit:
        raise ValueError(f"{name!r} lies beyond the file's end")
    bits = _bits(entry["dtype"])
    if (end - begin) * 8 != math.prod(shape) * bits:
        raise ValueError(f"{name!r} has another size than its shape")
    return StoredTensor(
        shape=shape,
        stride=_contiguous(shape),
        offset=0,
        item_bytes=max(1, bits // 8),
        storage=Storage(key=name, size_bytes=end - begin),
        arguments=(name,),
    )


def _bits(dtype: str) -> int:
    """Bits of an element, by the name of its type: ``F32``, ``BF16``, ``F8_E4M3``, ``BOOL``."""
    found = re.fullmatch(r"(?:[A-Z]+(4|6|8|16|32|64|128)(?:_[A-Z0-9]+)?|BOOL)", dtype, re.ASCII)
    if found is None:
        raise ValueError(f"a type called {dtype!r}")
    return int(found[1] or 8)


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(max(1, math.prod(shape[axis + 1 :])) for axis in range(len(shape)))


def _damaged(what: str, path: Path) -> FileError:
    return FileError(f"is damaged: {what}", where=str(path), fix="copy or save the file again")
