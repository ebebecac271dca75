"""``.pt2`` files: exported programs, recognised and written."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import torch
from torch.export import ExportedProgram

from fxexport.untrusted.archive import open_regular, zip_file
from fxexport.untrusted.programs import quiet_archive
from fxexport.untrusted.torch_archives import PROGRAM_MARKS
from fxpasses.errors import FileError


def is_program_file(path: str | os.PathLike[str]) -> bool:
    """True for a file with the layout that ``torch.export.save`` writes, whatever its name; a quick look."""
    try:
        with open_regular(Path(path)) as file, zip_file(file) as archive:
            return any(name.rpartition("/")[2] in PROGRAM_MARKS for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile, FileError):
        return False


def program_bytes(program: ExportedProgram) -> bytes:
    """What ``torch.export.save`` writes; the same program gives the same bytes under any file name."""
    # given a path, it writes the file's name into the archive
    buffer = io.BytesIO()
    with quiet_archive():
        torch.export.save(program, buffer)
    return buffer.getvalue()
