"""Files of ``torch.save`` before the zip format, or with ``_use_new_zipfile_serialization=False``.

Five pickles (a magic number, a protocol, the machine, the content, the order of the storages), then the
storages one after the other, each behind the number of its elements. Only the fourth pickle changes.

Source:
    ``torch.serialization._legacy_save``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from fxexport.untrusted.archive import open_regular
from fxexport.untrusted.limits import MAX_HEADER_INSTRUCTIONS
from fxexport.untrusted.pickle_records import PickleError
from fxhead.convert.pickle_edit import PickledCheckpoint, edited, read_spanned
from fxhead.convert.stored_tensors import TensorEdit, storage_of
from fxhead.convert.streams import ByteRange, Copier, copy_with
from fxhead.loading.recognise import LEGACY_MAGIC
from fxpasses.errors import FileError

_COUNT_BYTES = 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LegacyCheckpoint(PickledCheckpoint):
    """A checkpoint in torch's format before zip; ``starts`` says where each storage's bytes begin."""

    starts: Mapping[str, int]
    size: int
    kind: str = "torch, before zip"

    def write(self, source: BinaryIO, out: BinaryIO, edits: Sequence[TensorEdit]) -> None:
        """Writes the checkpoint with the edits made."""
        regions = {
            edit.tensor.first_byte + self.starts[edit.tensor.storage.key]: edit
            for edit in edits
            if edit.is_copy
        }
        copier = Copier(source, out)
        copier.copy(0, self.pickle.start)
        copier.write(edited(self.pickle, self.data, edits))
        copy_with(
            copier,
            self.pickle.end,
            self.size - self.pickle.end,
            [ByteRange(start=start, edit=edit) for start, edit in regions.items()],
        )


def open_legacy(path: Path) -> LegacyCheckpoint:
    """The checkpoint in ``path``; no storage is read.

    Raises:
        FileError: it is damaged, or torch did not write it.
    """
    try:
        with open_regular(path) as file:
            magic, protocol, _ = (read_spanned(file, MAX_HEADER_INSTRUCTIONS) for _ in range(3))
            content, keys = read_spanned(file), read_spanned(file, MAX_HEADER_INSTRUCTIONS)
            start = file.tell()
            size = file.seek(0, 2)
            file.seek(content.start)
            data = file.read(content.end - content.start)
    except PickleError as error:
        raise _not_torch(str(error), path) from error
    if magic.root != LEGACY_MAGIC or type(protocol.root) is not int or not isinstance(keys.root, list):
        raise _not_torch("its first pickle is not torch's magic number", path)
    starts: dict[str, int] = {}
    try:
        lengths = {storage.key: storage.size_bytes for storage, _ in map(storage_of, content.storages)}
    except (TypeError, ValueError) as error:
        raise _not_torch(f"it refers to what is no storage: {error}", path) from error
    for key in map(str, keys.root):
        if key not in lengths:
            raise _not_torch(f"it has a storage {key!r} that nothing refers to", path)
        starts[key] = start + _COUNT_BYTES
        start += _COUNT_BYTES + lengths[key]
    if start > size or {*lengths} - {*starts}:
        raise FileError("is cut short", where=str(path), fix="copy or save the file again")
    return LegacyCheckpoint(pickle=content, data=data, starts=starts, size=size)


def _not_torch(what: str, path: Path) -> FileError:
    return FileError(
        f"is no checkpoint: neither torch's zip format, nor safetensors, nor torch's older one ({what})",
        where=str(path),
        fix="give a file that torch.save or safetensors wrote",
    )
