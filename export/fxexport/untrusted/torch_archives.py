"""What torch writes into a zip archive: pickles in an envelope, and programs."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO

from fxexport.untrusted.archive import Archive
from fxexport.untrusted.limits import MAX_PICKLE_BYTES, MAX_PICKLE_INSTRUCTIONS
from fxexport.untrusted.pickle_records import Pickled, PickleError
from fxexport.untrusted.pickles import read_pickle
from fxpasses.errors import FileError

PROGRAM_MARKS = ("archive_format", "serialized_exported_program.json")
"""Members of which a program has one, by the version of torch that wrote it."""


def is_program(archive: Archive) -> bool:
    """Whether ``torch.export.save`` of any version wrote the archive."""
    return any(name in archive for name in PROGRAM_MARKS)


def is_compiled(archive: Archive) -> bool:
    """Whether there is machine code in the archive, as AOTInductor writes."""
    return any(
        seen.startswith(("data/aotinductor/", "aotinductor/")) or seen.endswith(".so")
        for _, seen in seen_names(archive)
    )


def seen_names(archive: Archive) -> Iterator[tuple[str, str]]:
    """Members, each with the names in lower case that torch may find it by.

    Its reader ignores case, and takes the folder of the first member for the folder of all of them.
    """
    for name in archive.names():
        yield name, name.lower()
        if not archive.prefix and "/" in name:
            yield name, name.partition("/")[2].lower()


def pickle_of(archive: Archive) -> Pickled:
    """The main pickle of an archive that ``torch.save`` wrote, as records.

    Raises:
        FileError: it is damaged.
    """
    if archive.member("data.pkl").size > MAX_PICKLE_BYTES:
        what = f"its pickle is larger than the limit of {MAX_PICKLE_BYTES:,} bytes"
        raise FileError(what, where=archive.where, fix="do not use this file")
    return read_torch_pickle(io.BytesIO(archive.read("data.pkl")), archive.where)


def read_torch_pickle(file: BinaryIO, where: str, most: int = MAX_PICKLE_INSTRUCTIONS) -> Pickled:
    """The pickle that begins where ``file`` stands, as records; the file is left behind it.

    Raises:
        FileError: it is damaged, or has an instruction that no model needs.
    """
    try:
        return read_pickle(file, most)
    except PickleError as error:
        what = f"is not a file that torch.save wrote, or is damaged ({error})"
        raise FileError(what, where=where, fix="save it again with torch.save(model, path)") from error
