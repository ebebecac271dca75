"""Zip archives read without trust: checked as a whole before anything in them is used.

A reader that goes by the central directory and one that goes by the local headers can see two different
archives in one file, and the part of torch that reads weights is another program than Python's
``zipfile``. So an archive is refused unless both views agree; then it does not matter who reads it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, cast

from fxexport.untrusted.limits import (
    MAX_DIRECTORY_BYTES,
    MAX_HOLE_BYTES,
    MAX_INFLATED_BYTES,
    MAX_INFLATION,
    MAX_MEMBERS,
)
from fxpasses.errors import FileError
from fxpasses.wall.clock import add_file
from fxpasses.wall.wall import is_written_to, require_same_file

ZIP_MAGIC = b"PK\x03\x04"
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_PLAIN_FLAGS = 0x0808
"""A checksum behind the content, and names in UTF-8."""
_CHUNK_BYTES = 1 << 20
_DAMAGED = "copy or save the file again"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member: where it starts, where its bytes lie in the file, and how many they are once read."""

    name: str
    offset: int
    size: int
    is_stored: bool
    start: int
    packed_size: int
    checksum: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """An archive whose members were checked.

    Attributes:
        path: the file, or None where the archive was in memory.
        data: the bytes, or None where the archive is a file.
        prefix: the folder that holds every member, with its slash, or "".
    """

    where: str
    path: Path | None
    data: bytes | None
    members: Mapping[str, Member]
    prefix: str

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.members

    def names(self) -> list[str]:
        """Names without the common folder, in the archive's order."""
        return [name.removeprefix(self.prefix) for name in self.members]

    def member(self, name: str) -> Member:
        """The member of that name below the common folder.

        Raises:
            FileError: there is none.
        """
        found = self.members.get(self.prefix + name)
        if found is None:
            raise _damaged(f"the archive has no {name!r}", self.where)
        return found

    def read(self, name: str) -> bytes:
        """A member's bytes."""
        member = self.member(name)
        with self._file() as file:
            return b"".join(_content(file, member, self.where))

    def require_whole(self) -> None:
        """Returns where every member's content has the checksum that the archive states.

        Raises:
            FileError: one has another one.
        """
        with self._file() as file:
            for member in self.members.values():
                checksum = 0
                for chunk in _content(file, member, self.where):
                    checksum = zlib.crc32(chunk, checksum)
                if checksum != member.checksum:
                    raise _damaged(f"the checksum of {member.name!r} is wrong", self.where)

    def _file(self) -> BinaryIO:
        return io.BytesIO(self.data) if self.data is not None else open_regular(self.path or Path())


def path_of_file(path: str | os.PathLike[str]) -> Path:
    """The path, if any file can have it.

    Raises:
        FileError: it has a null byte, or what names of this system cannot have.
    """
    try:
        os.lstat(path)
    except OSError:  # which reading or writing it will tell
        pass
    except ValueError as error:
        where = ascii(os.fspath(path))
        raise FileError(f"is no name of a file ({error})", where=where, fix="give another one") from error
    return Path(path)


def may_be_a_name(text: str) -> bool:
    """Whether a file can be called that: of a text that is none, looking for the file raises all sorts."""
    try:
        os.lstat(text)
    except ValueError:  # a null byte, or half a character
        return False
    except OSError as error:
        return error.errno != errno.ENAMETOOLONG
    return True


def open_regular(path: Path) -> BinaryIO:
    """The file, opened for reading; a pipe or a device is refused before it can block.

    It has the bytes that its size says: of files that a system makes up while they are read, some never end.

    Raises:
        FileError: it is something else than a file, another one than when it was opened before, or a hole of
            a size that no weights have.
        OSError: it is missing or may not be read.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise FileError("is no regular file", where=str(path), fix="give a file, not a pipe or a device")
    if not status.st_size:
        os.close(descriptor)
        return open(os.devnull, "rb")
    holes = _bytes_of_holes(descriptor, status)
    if holes > MAX_HOLE_BYTES:
        os.close(descriptor)
        what = f"has {status.st_size:,} bytes, of which {holes:,} are on no disk"
        raise FileError(what, where=str(path), fix="copy or export it again; weights have no holes")
    file = open(str(path), "rb", opener=lambda *_: descriptor)  # has the name that errors say
    try:
        require_same_file(path, status)
    except FileError:
        file.close()
        raise
    add_file(status, is_own=is_written_to(path))
    return file


def _bytes_of_holes(descriptor: int, status: os.stat_result) -> int:
    """How many bytes of a file the system makes up, where it tells; a disk that compresses has no holes."""
    blocks = getattr(status, "st_blocks", None)
    if blocks is None or not hasattr(os, "SEEK_DATA") or status.st_size - blocks * 512 <= MAX_HOLE_BYTES:
        return 0
    at = data = 0
    with contextlib.suppress(OSError):  # nothing but a hole is left
        while at < status.st_size:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
            at = os.lseek(descriptor, start, os.SEEK_HOLE)
            data += at - start
    os.lseek(descriptor, 0, os.SEEK_SET)
    return status.st_size - data


@contextlib.contextmanager
def held_open(path: Path) -> Iterator[str]:
    """A name by which a library opens the very file that is open here, whatever takes its place meanwhile.

    A system without such names gives it the file's own; it has to be the same file afterwards.

    Raises:
        FileError: see ``open_regular``.
        OSError: it is missing or may not be read.
    """
    with open_regular(path) as file:
        name = f"/proc/self/fd/{file.fileno()}"
        if os.path.exists(name):
            yield name
        else:
            yield str(path)
            open_regular(path).close()


def read_regular(path: Path, most_bytes: int) -> bytes:
    """The bytes of a file that has at most so many.

    Raises:
        FileError: it has more, or is no regular file.
        OSError: it is missing or may not be read.
    """
    with open_regular(path) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        what = f"is larger than the limit of {most_bytes // 2**20} MiB"
        raise FileError(what, where=str(path), fix="give the file that was meant")
    return content


class _Directory:
    """A file for ``zipfile``, which reads an archive's directory at once and makes 20 times that of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if size > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(
                f"its directory has more than the limit of {MAX_DIRECTORY_BYTES:,} bytes"
            )
        return self._file.read(size)


def zip_file(file: BinaryIO) -> zipfile.ZipFile:
    """The archive by its directory alone, which has a limit.

    Raises:
        BadZipFile: it is none, or beyond the limit.
    """
    return zipfile.ZipFile(cast(BinaryIO, _Directory(file)))


def open_archive(source: Path | bytes, where: str) -> Archive:
    """The archive, with its directory checked; ``require_whole`` checks the content.

    Raises:
        FileError: it is no zip archive, is damaged, or is made to harm whoever unpacks it.
    """
    file: BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else open_regular(source)
    try:
        with file, zip_file(file) as archive:
            size = file.seek(0, os.SEEK_END)
            members = _checked(archive, file, size, where)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error, EOFError) as error:
        raise _damaged(str(error).lower(), where) from error
    folders = {name.partition("/")[0] for name in members if "/" in name}
    in_one_folder = len(folders) == 1 and all("/" in name for name in members)
    return Archive(
        where=where,
        path=None if isinstance(source, bytes) else source,
        data=source if isinstance(source, bytes) else None,
        members=members,
        prefix=f"{folders.pop()}/" if in_one_folder else "",
    )


def _checked(archive: zipfile.ZipFile, file: BinaryIO, size: int, where: str) -> dict[str, Member]:
    infos = archive.infolist()
    if not infos:
        raise _damaged("the zip archive is empty", where)
    if len(infos) > MAX_MEMBERS:
        raise _hostile(f"it has {len(infos):,} members, more than the limit of {MAX_MEMBERS:,}", where)
    members: dict[str, Member] = {}
    names: set[str] = set()
    for info in infos:
        _require_plain_name(info, where)
        if info.filename.lower() in names:  # torch's reader takes either of "a" and "A" for the other
            raise _hostile(f"the archive has {info.filename!r} twice", where)
        names.add(info.filename.lower())
        members[info.filename] = _member(info, file, size, where)
    inflated = sum(member.size for member in members.values() if not member.is_stored)
    if inflated > MAX_INFLATED_BYTES:
        what = f"it unpacks to {inflated:,} bytes, more than the limit of {MAX_INFLATED_BYTES:,}"
        raise _hostile(what, where)
    end = 0
    for member in sorted(members.values(), key=lambda member: member.offset):
        if member.start < end:
            raise _hostile(f"{member.name!r} overlaps another member", where)
        end = member.offset + member.packed_size
    return members


def _require_plain_name(info: zipfile.ZipInfo, where: str) -> None:
    name = info.orig_filename  # before zipfile cut it at a null byte
    parts = name.split("/")
    if name != info.filename or "\\" in name or name.startswith("/") or ":" in parts[0] or ".." in parts:
        raise _hostile(f"the archive has a member called {name!r}", where)


def _member(info: zipfile.ZipInfo, file: BinaryIO, size: int, where: str) -> Member:
    """The member, where its local header says the same as the directory."""
    if info.flag_bits & ~_PLAIN_FLAGS:
        raise _damaged(f"{info.filename!r} is encrypted or packed in a way that torch does not write", where)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _damaged(f"{info.filename!r} is compressed in a way that torch does not write", where)
    is_stored = info.compress_type == zipfile.ZIP_STORED
    if is_stored and info.compress_size != info.file_size:
        raise _hostile(f"{info.filename!r} has two sizes", where)
    if info.file_size > max(info.compress_size, 64) * MAX_INFLATION:
        raise _hostile(
            f"{info.filename!r} unpacks from {info.compress_size:,} to {info.file_size:,} bytes", where
        )
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size:
        raise _damaged("the zip archive is cut short", where)
    magic, _, _, method, *_, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    name = file.read(name_length)
    offset = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    if (
        magic != ZIP_MAGIC
        or method != info.compress_type
        or name.decode("utf-8", "replace") != info.orig_filename
    ):
        raise _hostile(f"{info.filename!r} is another member by its own header", where)
    if offset + info.compress_size > size:
        raise _damaged("the zip archive is cut short", where)
    return Member(
        name=info.filename,
        offset=offset,
        size=info.file_size,
        is_stored=is_stored,
        start=info.header_offset,
        packed_size=info.compress_size,
        checksum=info.CRC,
    )


def _content(file: BinaryIO, member: Member, where: str) -> Iterator[bytes]:
    """A member's bytes, a piece at a time, never more of them than it says."""
    file.seek(member.offset)
    unpacker = None if member.is_stored else zlib.decompressobj(-zlib.MAX_WBITS)
    packed, left = member.packed_size, member.size
    try:
        while left:
            piece = file.read(min(packed, _CHUNK_BYTES))
            packed -= len(piece)
            if unpacker is not None:
                piece = unpacker.decompress(unpacker.unconsumed_tail + piece, min(left, _CHUNK_BYTES))
            if not piece:
                raise _damaged(f"{member.name!r} is cut short", where)
            left -= len(piece)
            yield piece
    except zlib.error as error:
        raise _damaged(f"{member.name!r} cannot be unpacked", where) from error


def _damaged(what: str, where: str) -> FileError:
    return FileError(
        f"is not a file that torch.save wrote or torch.export.save wrote, or is damaged ({what})",
        where=where,
        fix=_DAMAGED,
    )


def _hostile(what: str, where: str) -> FileError:
    return FileError(f"is no archive that torch wrote: {what}", where=where, fix="do not use this file")
