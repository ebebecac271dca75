"""SHA-256 of files, of folders of files, and of a module's weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from fxexport.untrusted.archive import open_regular
from fxpasses.errors import telling


def digest_file(path: Path) -> str:
    """Digest of the file's content.

    Raises:
        FileError: it cannot be read, or is no regular file.
    """
    with telling("cannot be read", where=path, fix="check that it is there"), open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # is buffered


def digest_files(folder: Path, names: Iterable[str]) -> str:
    """Digest of the names and contents of files in ``folder``."""
    whole = hashlib.sha256()
    for name in names:
        # a null byte, which no name has, keeps names and digests apart
        whole.update(f"{name}\0{digest_file(folder / name)}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def digest_weights(module: nn.Module) -> str:
    """Digest of names, types, shapes and values of all parameters and buffers."""
    whole = hashlib.sha256()
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        whole.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\n".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        if values.numel():
            whole.update(values.view(torch.uint8).numpy().data)
    return whole.hexdigest()
