"""A row with its files, for a worker that does not see this machine's, and what it sends back."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path

from fxexport.untrusted.archive import open_regular
from fxhead.batch.process import Done, Limits, not_begun, perform
from fxhead.batch.rows import Row
from fxhead.files.put import put
from fxpasses.errors import FileError, InputError, telling

Contents = tuple[tuple[str, bytes], ...]
"""Files by name, with their bytes."""


def require_below(row: Row, folder: Path) -> None:
    """Returns where all files of a row and the batch's folder lie below the working folder.

    A worker then has them at the same places below one of its own, and certificates find them from there.

    Raises:
        InputError: one lies elsewhere.
        FileError: the row's source cannot be read.
    """
    here = os.path.realpath(os.curdir)
    for path in (*row.inputs(), folder):
        is_named_so = not path.is_absolute() and os.pardir not in path.parts
        # links followed
        if not is_named_so or os.path.commonpath([os.path.realpath(path), here]) != here:
            raise InputError(
                "is not below the working folder, and is not sent from there",
                where=str(path),
                fix="work in a folder that has all models, and name them as seen from it",
            )


def pack(row: Row) -> Contents:
    """The files that a row reads, by their paths as seen from the working folder.

    Raises:
        FileError: one cannot be read.
    """
    found = []
    for path in dict.fromkeys(row.inputs()):
        with telling("cannot be read", where=path, fix="put it back"), open_regular(path) as file:
            found.append((str(path), file.read()))
    return tuple(found)


def perform_here(row: Row, key: str, folder: str, limits: Limits, place: str) -> tuple[Done, Contents]:
    """The row's end, where it sees the same files as whoever asks."""
    return perform(row, key, folder, limits, place), ()


def perform_sent(row: Row, key: str, folder: str, limits: Limits, files: Contents) -> tuple[Done, Contents]:
    """The row's end and the files that it wrote, done in a folder that is gone afterwards."""
    try:
        with tempfile.TemporaryDirectory(prefix="fxhead-") as place:
            for name, content in files:
                path = Path(place, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            done = perform(row, key, folder, limits, place)
            written = [Path(place, file["path"]) for file in done.files]
            return done, tuple((path.name, path.read_bytes()) for path in written)
    except OSError as error:
        what = f"a worker cannot keep its files ({error.strerror or error})"
        return not_begun(row, FileError(what, fix="make room there")), ()


def unpack(done: Done, written: Contents, folder: Path) -> Done:
    """The row with the files that were sent back in the batch's own folder.

    Raises:
        FileError: they cannot be written.
    """
    if done.document is None or not written:
        return done
    home = folder / done.name
    with telling("cannot be written to", where=home, fix="make room"):
        home.mkdir(parents=True, exist_ok=True)
        for name, content in written:
            put(home / Path(name).name, content)
    files = [file | {"path": str(home / Path(file["path"]).name)} for file in done.files]
    return dataclasses.replace(done, document=done.document | {"files": files})
