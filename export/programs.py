"""``torch.export`` programs where a module is expected."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from fxpasses.errors import FileError
from fxpasses.sizes import static_extent

PROGRAM_SUFFIX = ".pt2"


def as_module(source: nn.Module | ExportedProgram) -> nn.Module:
    """A program as a module that runs; a module as it is."""
    return source.module() if isinstance(source, ExportedProgram) else source


def is_program_path(source: object) -> bool:
    """True for the path of a ``.pt2`` file."""
    return isinstance(source, str | os.PathLike) and Path(source).suffix.lower() == PROGRAM_SUFFIX


def read_program(path: str | os.PathLike[str]) -> ExportedProgram:
    """The program that ``torch.export.save`` wrote to ``path``.

    Raises:
        FileError: there is no such file, or it holds no program.
    """
    try:
        return torch.export.load(path)
    except Exception as error:  # reading an archive of any age can fail with anything
        raise FileError(
            "is not a file that torch.export.save wrote, or is damaged",
            where=str(path),
            fix="save it again with torch.export.save(program, path)",
        ) from error


def fixed_batch(module: nn.Module) -> int | None:
    """The only batch size that an exported graph takes, or None where several do or nobody knows."""
    graph = getattr(module, "graph", None)
    for node in graph.nodes if isinstance(graph, torch.fx.Graph) else ():
        value = node.meta.get("val") if node.op == "placeholder" else None
        if isinstance(value, torch.Tensor) and value.ndim:
            return static_extent(value.shape[0])
    return None
