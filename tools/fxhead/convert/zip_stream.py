"""The zip archives of ``torch.save``, rewritten as torch lays them out, with the weights streamed through.

torch's readers rely on more than the zip format: every record starts at a multiple of the alignment,
sizes and checksums follow the data, and a reader may compute offsets without reading headers. A file that
torch wrote comes out byte for byte the same where nothing is changed.

Source:
    APPNOTE.TXT 6.3.10; ``caffe2/serialize/inline_container.cc``: PyTorchStreamWriter, getPadding,
    writeSerializationId.
"""

from __future__ import annotations

import dataclasses
import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from fxexport.untrusted.archive import Archive, Member, open_archive
from fxexport.untrusted.pickle_records import PickleError
from fxhead.convert.pickle_edit import PickledCheckpoint, edited, read_spanned
from fxhead.convert.stored_tensors import TensorEdit
from fxhead.convert.streams import ByteRange, Copier, copy_with
from fxpasses.errors import FileError, InputError

_PICKLE, _IDENTITY, _ALIGNMENT = "data.pkl", ".data/serialization_id", ".storage_alignment"
_LOCAL, _CENTRAL = struct.Struct("<4s5H3I2H"), struct.Struct("<4s6H3I5H2I")
_END64, _LOCATOR, _END = struct.Struct("<4sQ2H2I4Q"), struct.Struct("<4sIQI"), struct.Struct("<4s4H2IH")
_DESCRIPTOR, _DESCRIPTOR64 = struct.Struct("<4s3I"), struct.Struct("<4sI2Q")
_UTF8, _FOLLOWED = 0x0800, 0x0808  # names are UTF-8; sizes and checksum follow the data, if there is any
_LIMIT = 0xFFFFFFFF
_DEFAULT_ALIGNMENT = 64


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ZipCheckpoint(PickledCheckpoint):
    """A checkpoint in torch's zip format."""

    archive: Archive
    kind: str = "torch"

    def write(self, source: BinaryIO, out: BinaryIO, edits: Sequence[TensorEdit]) -> None:
        """Writes the checkpoint with the edits made."""
        copies: dict[str, list[ByteRange]] = {}
        for edit in edits:
            name = f"data/{edit.tensor.storage.key}"
            member = self.archive.member(name)
            if member.size < edit.tensor.storage.size_bytes:
                raise FileError(
                    f"is damaged: {member.name!r} is shorter than the tensors in it",
                    where=self.archive.where,
                    fix="copy or save the file again",
                )
            if edit.is_copy:
                start = member.offset + edit.tensor.first_byte
                copies.setdefault(name, []).append(ByteRange(start=start, edit=edit))
        writer = _Writer(source, out, self._alignment())
        for name in self.archive.names():
            if name == _PICKLE:
                writer.add(self.archive.prefix + name, edited(self.pickle, self.data, edits))
            elif name == _IDENTITY:
                old = _read(self.archive, name)
                writer.add(self.archive.prefix + name, writer.identity(old) if edits else old)
            else:
                writer.copy(self.archive.member(name), copies.get(name, []))
        writer.finish()

    def _alignment(self) -> int:
        if _ALIGNMENT not in self.archive:
            return _DEFAULT_ALIGNMENT
        text = _read(self.archive, _ALIGNMENT)
        value = int(text) if text.isdigit() and len(text) < 8 else 0
        if not 1 <= value <= 1 << 16:  # the padding has to fit into a header
            raise FileError(
                f"is damaged: a storage alignment of {text[:20]!r}",
                where=self.archive.where,
                fix="save it again with torch.save",
            )
        return value


def open_zip(path: Path) -> ZipCheckpoint:
    """The checkpoint in ``path``; only its directory and its pickle are read.

    Raises:
        FileError: it is damaged, or no checkpoint of torch's.
        InputError: it is TorchScript, or a program.
    """
    archive = open_archive(path, str(path))
    if "constants.pkl" in archive or any(name.startswith("code/") for name in archive.names()):
        raise InputError(
            "is TorchScript, not a checkpoint", where=str(path), fix="give the checkpoint that it came from"
        )
    if _PICKLE not in archive:
        raise InputError(
            "is a zip archive without data.pkl, so torch.save did not write it",
            where=str(path),
            fix="give a file that torch.save wrote",
        )
    packed = next((m.name for m in archive.members.values() if not m.is_stored), None)
    if packed is not None:
        raise FileError(
            f"{packed!r} in it is compressed, which torch.save never does",
            where=str(path),
            fix="load it with torch.load and save it again with torch.save",
        )
    data = _read(archive, _PICKLE)
    try:
        pickle = read_spanned(io.BytesIO(data))
    except PickleError as error:
        raise FileError(str(error), where=str(path), fix="save it again with torch.save") from error
    if pickle.end != len(data):
        data = data[: pickle.end]  # nothing reads what follows
    return ZipCheckpoint(archive=archive, pickle=pickle, data=data)


def _read(archive: Archive, name: str) -> bytes:
    data = archive.read(name)
    _require_checksum(archive.member(name), zlib.crc32(data), archive.where)
    return data


def _require_checksum(member: Member, checksum: int, where: str) -> None:
    # torch writes a checksum of 0 under set_crc32_options(False)
    if member.checksum and checksum != member.checksum:
        raise FileError(
            f"is damaged: the checksum of {member.name!r} is wrong",
            where=where,
            fix="copy the file again from where it came from",
        )


class _Writer:
    """Writes one archive, record after record."""

    def __init__(self, source: BinaryIO, out: BinaryIO, alignment: int) -> None:
        self.source = source
        self.out = out
        self.alignment = alignment
        self.directory: list[bytes] = []
        self.checksums = 0

    def add(self, name: str, data: bytes) -> None:
        """Adds a record that was made here."""
        copier, start = self._begin(name, len(data))
        copier.write(data)
        self._end(name, start, len(data), copier.checksum)

    def copy(self, member: Member, regions: list[ByteRange]) -> None:
        """Adds a record of the source, its regions reordered.

        Raises:
            FileError: its checksum is not the one that the source states.
        """
        copier, start = self._begin(member.name, member.size)
        copy_with(copier, member.offset, member.size, regions)
        if not regions:
            _require_checksum(member, copier.checksum, self.source.name)
        self._end(member.name, start, member.size, copier.checksum if member.checksum else 0)

    def identity(self, old: bytes) -> bytes:
        """The id of what was written so far: a hash of the names, which stay, and one of the checksums."""
        return old[:20] + b"%020d" % self.checksums

    def _begin(self, name: str, size: int) -> tuple[Copier, int]:
        start, encoded = self.out.tell(), name.encode()
        # as torch writes it: the packed size is not known yet where the local header stands
        wide = _wide(*(size, 0) if size >= _LIMIT else (), *(start,) if start >= _LIMIT else ())
        padding = -(start + _LOCAL.size + len(encoded) + len(wide) + 4) % self.alignment
        extra = wide + b"FB" + struct.pack("<H", padding) + b"Z" * padding
        flags = _FOLLOWED if size else _UTF8
        self.out.write(_LOCAL.pack(b"PK\3\4", 0, flags, 0, 0, 0, 0, 0, 0, len(encoded), len(extra)))
        self.out.write(encoded + extra)
        return Copier(self.source, self.out, adds_up=True), start

    def _end(self, name: str, start: int, size: int, checksum: int) -> None:
        large = [value for value in (size, size, start) if value >= _LIMIT]
        if size:
            descriptor = _DESCRIPTOR64 if large else _DESCRIPTOR
            self.out.write(descriptor.pack(b"PK\7\x08", checksum, size, size))
        encoded, narrow, extra = name.encode(), min(size, _LIMIT), _wide(*large)
        flags = _FOLLOWED if size else _UTF8
        fields = (0, 0, flags, 0, 0, 0, checksum, narrow, narrow, len(encoded), len(extra), 0, 0, 0, 0)
        self.directory.append(_CENTRAL.pack(b"PK\1\2", *fields, min(start, _LIMIT)) + encoded + extra)
        if size:  # torch leaves empty records out
            self.checksums = _combined(self.checksums, checksum)

    def finish(self) -> None:
        """Writes the directory."""
        start, count = self.out.tell(), len(self.directory)
        content = b"".join(self.directory)
        end = start + len(content)
        self.out.write(content)
        self.out.write(
            _END64.pack(b"PK\6\6", 44, 0x031E, 0x002D, 0, 0, count, count, len(content), start)
            + _LOCATOR.pack(b"PK\6\7", 0, end, 1)
            + _END.pack(
                b"PK\5\6",
                0,
                0,
                min(count, 0xFFFF),
                min(count, 0xFFFF),
                min(len(content), _LIMIT),
                min(start, _LIMIT),
                0,
            )
        )


def _wide(*values: int) -> bytes:
    """The extra field for numbers that take 64 bits, if there are any."""
    return struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values) if values else b""


def _combined(seed: int, value: int) -> int:
    """``c10::hash_combine`` of 64 bits."""
    return seed ^ ((value + 0x9E3779B9 + (seed << 6) + (seed >> 2)) & 0xFFFFFFFFFFFFFFFF)
