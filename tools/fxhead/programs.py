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

from fxpasses.errors import FileError

PROGRAM_SUFFIX = ".pt2"
_FORMAT, _COMPILED, _OLD = "archive_format", "/data/aotinductor/", "serialized_exported_program.json"
_SAVE = "save it again with torch.export.save(program, path)"


def is_program_file(path: str | os.PathLike[str]) -> bool:
    """True for a file with the layout that ``torch.export.save`` writes, whatever its name."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.rpartition("/")[2] in (_FORMAT, _OLD) for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def read_program(path: str | os.PathLike[str]) -> ExportedProgram:
    """The program that ``torch.export.save`` wrote.

    Raises:
        FileError: it wrote no such file, or the file is damaged.
    """
    where = str(path)
    try:
        with _quiet():
            return torch.export.load(path)
    except Exception as error:  # reading an archive of any age can fail with anything
        if _is_compiled(Path(path)):
            fix = "give the program that it was compiled from"
            raise FileError(
                "is compiled by AOTInductor, not an exported program", where=where, fix=fix
            ) from error
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


def _is_compiled(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(_COMPILED in name for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


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
