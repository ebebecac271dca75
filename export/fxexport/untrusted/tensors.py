"""Storages and tensors from what a pickle says of them, every number checked against the bytes there are."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import torch

from fxexport.untrusted.archive import Archive, held_open, open_regular
from fxexport.untrusted.limits import MAX_DIMENSIONS, MAX_ELEMENTS, MAX_EXPANDED_ELEMENTS
from fxexport.untrusted.pickle_records import Global, Persistent, PickleError

STORAGES: dict[str, torch.dtype] = {
    f"{name}Storage": dtype
    for name, dtype in {
        "Float": torch.float32,
        "Double": torch.float64,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
        "ComplexFloat": torch.complex64,
        "ComplexDouble": torch.complex128,
    }.items()
}
UNTYPED = "UntypedStorage"

_KEY = re.compile(r"\w+", re.ASCII)
_BLOCK_BYTES = 1 << 26


def described(reference: Persistent) -> tuple[str, torch.dtype | None, int]:
    """Key, dtype and number of bytes of a storage, as its reference says.

    Raises:
        PickleError: it is no reference to a storage.
    """
    key = reference.key
    if not isinstance(key, tuple) or len(key) < 5 or key[0] != "storage":
        raise PickleError("the pickle refers to something that is no storage")
    kind, name, count = key[1], key[2], key[4]
    if not isinstance(kind, Global) or kind.module not in ("torch", "torch.storage"):
        raise PickleError("the pickle has a storage of no known type")
    if not isinstance(name, str) or not _KEY.fullmatch(name):
        raise PickleError("the pickle has a storage without a name")
    if type(count) is not int or not 0 <= count < MAX_ELEMENTS:
        raise PickleError("the pickle has a storage of no possible size")
    if kind.name == UNTYPED:
        return name, None, count
    dtype = STORAGES.get(kind.name)
    if dtype is None:
        raise PickleError(f"the pickle has a storage of no known type ({kind})")
    return name, dtype, count * dtype.itemsize


class ArchiveStorages:
    """Storages of a zip file: mapped where they lie uncompressed, so that they cost memory only once used."""

    def __init__(self, archive: Archive) -> None:
        """Maps nothing yet."""
        self.archive = archive
        self._whole: torch.UntypedStorage | None = None
        self._known: dict[str, torch.UntypedStorage] = {}

    def storage(self, reference: Persistent) -> tuple[torch.UntypedStorage, torch.dtype | None]:
        """The storage, and its dtype where it has one.

        Raises:
            PickleError: the file has no such storage.
        """
        name, dtype, size = described(reference)
        found = self.member(f"data/{name}")
        if found.nbytes() != size:
            raise PickleError(f"storage {name} has {found.nbytes()} bytes, not {size}")
        return found, dtype

    def member(self, name: str) -> torch.UntypedStorage:
        """The bytes of a member of the archive.

        Raises:
            PickleError: there is none of that name.
        """
        if name not in self._known:
            self._known[name] = self._read(name)
        return self._known[name]

    def _read(self, name: str) -> torch.UntypedStorage:
        archive, path = self.archive, self.archive.path
        if name not in archive:
            raise PickleError(f"the archive has no storage {name}")
        member = archive.member(name)
        if not member.is_stored or path is None or not member.size:
            return storage_of(archive.read(name))
        if self._whole is None:
            self._whole = _mapped(path)
        part: torch.UntypedStorage = self._whole[member.offset : member.offset + member.size]
        return part


class LegacyStorages:
    """Storages of the format before torch 1.6: one after the other behind the pickles."""

    def __init__(self, path: Path, keys: tuple[str, ...], offset: int, references: tuple[Persistent, ...]):
        """Finds where each storage lies.

        Raises:
            PickleError: the file has not the storages that it says.
        """
        self._path = path
        self._places: dict[str, tuple[int, int]] = {}
        self._known: dict[str, torch.UntypedStorage] = {}
        sizes: dict[str, tuple[torch.dtype | None, int]] = {}
        for reference in references:
            name, dtype, size = described(reference)
            if reference.key[5:] not in ((), (None,)):
                raise PickleError("the file has views of storages, which torch no longer writes")
            if sizes.setdefault(name, (dtype, size)) != (dtype, size):
                raise PickleError(f"storage {name} has two sizes")
        if set(keys) != set(sizes) or len(keys) != len(sizes):
            raise PickleError("the file has other storages than it refers to")
        with open_regular(path) as file:
            for name in keys:
                dtype, size = sizes[name]
                file.seek(offset)
                count = int.from_bytes(file.read(8), "little")
                if count * (1 if dtype is None else dtype.itemsize) != size:
                    raise PickleError(f"storage {name} has another size than it says")
                self._places[name] = (offset + 8, size)
                offset += 8 + size
        if offset > path.stat().st_size:
            raise PickleError("the file is cut short")

    def storage(self, reference: Persistent) -> tuple[torch.UntypedStorage, torch.dtype | None]:
        """The same."""
        name, dtype, _ = described(reference)
        if name not in self._known:
            self._known[name] = self._read(*self._places[name])
        return self._known[name], dtype

    def _read(self, offset: int, size: int) -> torch.UntypedStorage:
        """Block by block: no call takes gigabytes, and nothing is copied."""
        found = torch.empty(size, dtype=torch.uint8)
        left = found.numpy().data
        with open_regular(self._path) as file:
            file.seek(offset)
            while left and (count := file.readinto(left[:_BLOCK_BYTES])):  # type: ignore[attr-defined]
                left = left[count:]
        if left:
            raise PickleError("the file is cut short")
        return found.untyped_storage()


Storages = ArchiveStorages | LegacyStorages
"""Where the bytes of a file's tensors are."""


def _mapped(path: Path) -> torch.UntypedStorage:
    with held_open(path) as name:
        whole = torch.UntypedStorage.from_file(name, False, os.stat(name).st_size)
    assert isinstance(whole, torch.UntypedStorage)
    return whole


def storage_of(content: bytes) -> torch.UntypedStorage:
    """A storage with these bytes."""
    if not content:
        return torch.UntypedStorage(0)  # type: ignore[no-untyped-call]
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).untyped_storage()


def tensor(
    storage: torch.UntypedStorage, dtype: torch.dtype, offset: Any, size: Any, stride: Any
) -> torch.Tensor:
    """A tensor over a storage.

    Raises:
        PickleError: it would read outside the storage, or is too large to be meant.
    """
    numbers = (offset, *_integers(size), *_integers(stride))
    if any(type(number) is not int or not 0 <= number < MAX_ELEMENTS for number in numbers):
        raise PickleError("a tensor has a size, stride or offset of no possible value")
    if len(size) != len(stride) or len(size) > MAX_DIMENSIONS:
        raise PickleError("a tensor has sizes and strides that do not fit each other")
    stored = storage.nbytes() // dtype.itemsize
    last = offset + sum((extent - 1) * step for extent, step in zip(size, stride, strict=True))
    count = math.prod(size)
    if count and last >= stored:
        raise PickleError("a tensor reaches beyond its storage")
    if count > max(stored, MAX_EXPANDED_ELEMENTS):
        raise PickleError(f"a tensor expands {stored:,} elements to {count:,}")
    return torch.empty(0, dtype=dtype).set_(storage, offset if count else 0, size, stride)


def _integers(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, tuple):
        raise PickleError("a tensor has a shape that is no tuple")
    return value
