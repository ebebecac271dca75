"""Samples from ``.npy`` and ``.npz`` files: read some at a time, never unpickled, checked when read."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from fxexport.subjects.samples import InputSpec, Rows
from fxexport.untrusted.archive import held_open, open_regular, zip_file
from fxexport.untrusted.limits import MAX_INFLATED_BYTES, MAX_INFLATION
from fxpasses.errors import FileError, FxHeadError, InputError, brief

Array = NDArray[Any]

_NPY = ".npy"
_SAVE = "write it with numpy.save or numpy.savez"
_KINDS = "fiub"
_MOST_ARRAYS = 64
_MOST_TURNED_BYTES = 2**30


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredArray:
    """One array in a file.

    Attributes:
        name: its name in an ``.npz`` file; empty in an ``.npy`` file.
        where: what to call it in messages.
    """

    name: str
    where: str
    rows: Rows


def open_arrays(path: Path, until: contextlib.ExitStack) -> tuple[StoredArray, ...]:
    """The arrays of a file, with their samples still in it; they can be read as long as ``until`` is open.

    Raises:
        FileError: it is no such file, is damaged, or holds an array of objects.
    """
    with _explained(path):
        file = until.enter_context(open_regular(path))
        if zipfile.is_zipfile(file):
            zip_file(file).close()
            return _members(path, file, until)
        file.seek(0)
        header = _header(file, str(path))
        _require_numbers(header.dtype, str(path))
        # an empty file cannot be mapped
        mode: Literal["r"] | None = "r" if math.prod(header.shape) else None
        with held_open(path) as name:
            array: Array = np.load(name, mmap_mode=mode, allow_pickle=False)
        return (StoredArray(name="", where=str(path), rows=array),)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except FxHeadError:
        raise
    except Exception as error:  # what reads damaged headers and archives raises anything
        what = f"is no .npy or .npz file, or is damaged ({brief(error)})"
        raise FileError(what, where=str(path), fix=_SAVE) from error


def _members(path: Path, file: BinaryIO, until: contextlib.ExitStack) -> tuple[StoredArray, ...]:
    archive = until.enter_context(zipfile.ZipFile(file))
    members = [info for info in archive.infolist() if info.filename.endswith(_NPY)]
    names = {info.filename for info in members}
    if not names:
        raise FileError("holds no arrays", where=str(path), fix=_SAVE)
    if len(members) > _MOST_ARRAYS:
        what = f"holds {len(members):,} arrays, more than the {_MOST_ARRAYS} that a model may take"
        raise FileError(what, where=str(path), fix="store one for each input")
    if len(names) < len(members):
        raise FileError("holds two arrays of one name", where=str(path), fix=_SAVE)
    for info in members:
        _require_bounded(info, path)
    return tuple(_member(archive, name, path, until) for name in sorted(names))


def _require_bounded(info: zipfile.ZipInfo, path: Path) -> None:
    """Returns where a member is packed as numpy packs it, and not to a thousandth of what it unpacks to."""
    where = f"{path}[{info.filename.removesuffix(_NPY)}]"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise FileError("is compressed in a way that numpy does not write", where=where, fix=_SAVE)
    if info.file_size > max(MAX_INFLATED_BYTES, info.compress_size * MAX_INFLATION):
        what = f"unpacks from {info.compress_size:,} to {info.file_size:,} bytes"
        raise FileError(what, where=where, fix="store it with numpy.savez, which does not pack")


def _member(archive: zipfile.ZipFile, name: str, path: Path, until: contextlib.ExitStack) -> StoredArray:
    key = name.removesuffix(_NPY)
    where = f"{path}[{key}]"
    with archive.open(name) as file:
        header = _header(file, where)
    _require_numbers(header.dtype, where)
    expected = header.offset + math.prod(header.shape) * header.dtype.itemsize
    if archive.getinfo(name).file_size != expected:
        raise FileError("has another size than its header says", where=where, fix=_SAVE)
    rows: Rows = _ZippedRows(archive, name, header, path, until)
    if header.is_fortran and len(header.shape) > 1:
        # a sample's values lie all over the file, so it cannot be read in parts
        if expected > _MOST_TURNED_BYTES:
            what = f"is in Fortran's order and has more than {_MOST_TURNED_BYTES // 2**30} GiB"
            raise FileError(what, where=where, fix="store numpy.ascontiguousarray(array)")
        with archive.open(name) as file:
            rows = np.load(file, allow_pickle=False)
    return StoredArray(name=key, where=where, rows=rows)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    """What an array's header says, and where its values begin."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_fortran: bool
    offset: int


def _header(file: IO[bytes], where: str) -> _Header:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise FileError("is an array of records or of objects", where=where, fix="store plain numbers")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    return _Header(shape=shape, dtype=dtype, is_fortran=is_fortran, offset=file.tell())


def _require_numbers(dtype: np.dtype[Any], where: str) -> None:
    if dtype.kind not in _KINDS:
        what = "objects, which only unpickling could read" if dtype.hasobject else f"{dtype}, not numbers"
        raise FileError(f"holds {what}", where=where, fix="store an array of numbers")


class _ZippedRows:
    """Samples of one member of an ``.npz`` file; reading on is cheap, going back may not be."""

    def __init__(
        self, archive: zipfile.ZipFile, name: str, header: _Header, path: Path, until: contextlib.ExitStack
    ) -> None:
        self._archive, self._name, self._header = archive, name, header
        self._path, self._until = path, until
        self._file: IO[bytes] | None = None
        self.shape, self.dtype = header.shape, header.dtype

    def __getitem__(self, rows: slice, /) -> Array:
        if self._file is None:
            self._file = self._until.enter_context(self._archive.open(self._name))
        count = rows.stop - rows.start
        sample_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        with _explained(self._path):
            self._file.seek(self._header.offset + rows.start * sample_bytes)
            data = self._file.read(count * sample_bytes)
            return np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])


def fitted(array: StoredArray, spec: InputSpec) -> Rows:
    """The samples as the model takes them; values are checked when they are read.

    Raises:
        InputError: the array has another shape or type than the input, or no samples.
    """
    own, due = array.rows.shape, spec.shape
    takes = f"the model's {spec.name!r} takes"
    if not own or own[0] == 0:
        raise InputError("holds no samples", where=array.where, fix="give at least one")
    if due is not None and not _agree(own[1:], due):
        shape = "x".join(["N", *("?" if extent is None else str(extent) for extent in due)])
        is_single = _agree(own, due)
        raise InputError(
            f"has the shape {'x'.join(map(str, own))}, {takes} {shape}",
            where=array.where,
            fix="add the batch axis, as in array[None]" if is_single else "give samples of that shape",
        )
    target = array.rows.dtype if spec.dtype is None else np.dtype(spec.dtype)
    if "f" in (array.rows.dtype.kind + target.kind) and array.rows.dtype.kind != target.kind:
        raise InputError(
            f"holds {array.rows.dtype}, {takes} {target}",
            where=array.where,
            fix="store what the model is given, after its preprocessing",
        )
    return _CheckedRows(array=array, shape=own, dtype=target, limit=spec.limit)


def _agree(own: tuple[int, ...], due: tuple[int | None, ...]) -> bool:
    return len(own) == len(due) and all(b in (None, a) for a, b in zip(own, due, strict=True))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _CheckedRows:
    """Samples cast to the input's type, if every value survives that."""

    array: StoredArray
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    limit: int | None

    def __getitem__(self, rows: slice, /) -> Array:
        values = np.asarray(self.array.rows[rows])
        cast: Array
        if self.dtype.kind == "f":
            with np.errstate(over="ignore"):
                cast = values.astype(self.dtype)
            bad, what = ~np.isfinite(cast), f"is NaN, infinite or beyond {self.dtype}"
        else:
            cast = values.astype(self.dtype)
            bad, what = cast != values, f"is beyond {self.dtype}"
            if self.limit is not None and not bad.any():
                bad, what = (cast < 0) | (cast >= self.limit), f"is no index of {self.limit} embeddings"
        if bad.any():
            row, *rest = np.unravel_index(int(np.argmax(bad)), bad.shape)
            place = ", ".join(map(str, (rows.start + int(row), *map(int, rest))))
            value = values[(row, *rest)]
            raise InputError(
                f"the value {value} at [{place}] {what}", where=self.array.where, fix="leave that sample out"
            )
        return cast
