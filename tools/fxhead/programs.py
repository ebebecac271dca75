"""``.pt2`` files: exported programs, read and written."""

from __future__ import annotations

import io
import logging
import os
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.export import ExportedProgram

from fxhead.archive import Archive, open_archive, open_regular
from fxhead.program_guard import require_safe
from fxpasses.errors import FileError

PROGRAM_SUFFIX = ".pt2"
_MARKS = ("archive_format", "serialized_exported_program.json")
_SAVE = "save it again with torch.export.save(program, path)"


def is_program_file(path: str | os.PathLike[str]) -> bool:
    """True for a file with the layout that ``torch.export.save`` writes, whatever its name; a quick look."""
    try:
        with open_regular(Path(path)) as file, zipfile.ZipFile(file) as archive:
            return any(name.rpartition("/")[2] in _MARKS for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile, FileError):
        return False


def read_program(
    path: str | os.PathLike[str], *, archive: Archive | None = None, trust: bool = False
) -> ExportedProgram:
    """The program that ``torch.export.save`` wrote; nothing in the file is run.

    Args:
        path: the file.
        archive: the same file, opened and found whole already.
        trust: whether to let torch read it unchecked, which runs whatever the file says.

    Raises:
        FileError: it is no such file, is damaged, or holds what could run code.
    """
    where = str(path)
    if not trust:
        if archive is None:
            archive = open_archive(Path(path), where)
            archive.require_whole()
        require_safe(archive)
    try:
        with _quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of formats that torch deprecates, which say nothing to a user
            return torch.export.load(path)
    except Exception as error:  # reading an archive of any age can fail with anything
        first = (str(error).strip().splitlines() or [""])[0][:160]
        raise FileError(
            f"is not a file that torch.export.save wrote, or is damaged ({type(error).__name__}: {first})",
            where=where,
            fix=_SAVE,
        ) from error


def program_bytes(program: ExportedProgram) -> bytes:
    """What ``torch.export.save`` writes; the same program gives the same bytes under any file name."""
    # given a path, it writes the file's name into the archive
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(program, buffer)
    return buffer.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    """Within it torch.export tells nothing: it logs every format that it tried, and warns of its reads."""
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
