"""Output files: their names, what may be overwritten, and their content."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn
from torch.export import ExportedProgram

from fxexport.untrusted.programs import PROGRAM_SUFFIX
from fxhead.files.pt2 import is_program_file, program_bytes
from fxhead.source import Source
from fxpasses.errors import FileError, InputError, brief
from fxpasses.report import Form

_MODULE_SUFFIXES = (".pt", ".pth", PROGRAM_SUFFIX)
_LONGEST_NAME_BYTES = 255


def names_folder(out: str) -> bool:
    """Whether this is a folder, or is written as one."""
    return out.endswith(("/", os.sep)) or Path(out).is_dir()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OutputNames:
    """Where ``rewrite`` writes: names in one folder.

    Attributes:
        base: what the names of the ONNX files begin with.
    """

    folder: Path
    module: str
    plan: str
    certificate: str
    base: str
    before: Form
    to: Form

    @classmethod
    def choose(cls, source: Source, to: Form, out: str | None) -> OutputNames:
        """Names after the source, or after ``out``: a ``.pt`` or ``.pt2`` path, or a folder.

        A program is written as a program, unless ``out`` is the name of a ``.pt`` file.

        Raises:
            InputError: ``out`` is some other kind of file.
        """
        is_program = source.path is not None and is_program_file(source.path)
        suffix = PROGRAM_SUFFIX if is_program else ".pt"
        folder, module = source.folder, f"{source.stem}.{to}{suffix}"
        if out is not None:
            path = Path(out)
            if names_folder(out):
                folder = path
            elif path.suffix.lower() in _MODULE_SUFFIXES:
                folder, module = path.parent, path.name
            elif path.is_file() or path.suffix.lower() in (".onnx", ".json", ".safetensors"):
                raise InputError(
                    "is neither a .pt or .pt2 file nor a folder",
                    where=f"-o {out}",
                    fix="name that file; the others are written beside it",
                )
            else:
                folder = path
        stem = Path(module).stem
        base = stem.removesuffix(f".{to}")
        return cls(
            folder=folder,
            module=module,
            plan=f"{stem}.plan.json",
            certificate=f"{stem}.certificate.json",
            base=base,
            before=Form.CONV if to in (Form.LINEAR, Form.UNFOLD) else Form.LINEAR,
            to=to,
        )

    @property
    def onnx(self) -> dict[Form, str]:
        """The ONNX files, by the form that they hold; the model's own form first."""
        # unfolded, all convolutions are in another form: the other file is no form of a head
        before = "original" if self.to is Form.UNFOLD else self.before
        return {self.before: f"{self.base}.{before}.onnx", self.to: f"{self.base}.{self.to}.onnx"}

    @property
    def is_program(self) -> bool:
        """Whether an exported program is written, not a pickled module."""
        return self.module.lower().endswith(PROGRAM_SUFFIX)

    def holding(self, *, is_program: bool) -> OutputNames:
        """The names where the module's file holds a program or a pickle."""
        if is_program == self.is_program:
            return self
        suffix = PROGRAM_SUFFIX if is_program else ".pt"
        return dataclasses.replace(self, module=str(Path(self.module).with_suffix(suffix)))

    @property
    def stem(self) -> str:
        """What the names of further files begin with."""
        return Path(self.module).stem

    def all(self, *, with_onnx: bool) -> tuple[str, ...]:
        """Every name that will be written."""
        onnx = (*self.onnx.values(), self.certificate) if with_onnx else ()
        return (self.module, *onnx, self.plan)


def require_free(
    names: OutputNames, inputs: Iterable[Path], *, with_onnx: bool, beside: Iterable[str] = (), force: bool
) -> None:
    """Returns where writing will not destroy anything that the user did not say may go.

    Raises:
        FileError: an output is an input or exists already, or the folder cannot be written to.
    """
    taken = tuple(inputs)
    for name in (*names.all(with_onnx=with_onnx), *beside):
        require_free_file(names.folder / name, taken, force=force)


def require_free_file(path: Path, inputs: Iterable[Path], *, force: bool) -> None:
    """Returns where writing ``path`` will not destroy anything that the user did not say may go.

    Raises:
        FileError: it is an input or exists already, or its folder cannot be written to.
    """
    if len(os.fsencode(path.name)) > _LONGEST_NAME_BYTES:  # made of a name that may just fit
        what = f"has a name of more than {_LONGEST_NAME_BYTES} bytes"
        raise FileError(what, where=str(path), fix="name a shorter output with -o")
    if os.path.realpath(path) in map(os.path.realpath, inputs):
        raise FileError("would overwrite the input", where=str(path), fix="name another output with -o")
    if path.is_dir():
        raise FileError("is a folder", where=str(path), fix="name another output with -o")
    if (
        path.exists() and not path.is_file()
    ):  # --force is meant for files: /dev/null would be one from then on
        raise FileError("is a pipe or a device", where=str(path), fix="name another output with -o")
    if os.path.lexists(path) and not force:
        raise FileError(
            "exists already", where=str(path), fix="give --force to replace it, or another output with -o"
        )
    nearest = next(p for p in (path.parent, *path.parent.absolute().parents) if p.exists())
    if not nearest.is_dir():
        raise FileError("is not a folder", where=str(nearest), fix="name another output with -o")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise FileError("cannot be written to", where=str(nearest), fix="name another folder with -o")


def save_module(module: nn.Module | ExportedProgram, path: Path) -> None:
    """Pickles ``module``, or saves a program; the same one gives the same bytes under any name.

    Raises:
        InputError: something in the module cannot be pickled.
    """
    if isinstance(module, ExportedProgram):
        path.write_bytes(program_bytes(module))
        return
    # an open file: given a path, torch.save writes its name into the archive
    with path.open("wb") as file:
        target = _Target(file)
        try:
            with _sorted_names(module):
                torch.save(module, target)  # type: ignore[arg-type]  # all that it needs of a file is write
        except Exception as error:  # pickling calls the __reduce__ of every object in it
            if target.failure is not None:  # torch's writer makes another error of it
                raise target.failure from error
            raise InputError(
                f"the rewritten module cannot be pickled ({brief(error)})",
                fix="write a program, as in -o model.pt2; or define its classes at the top level of a module "
                "that can be imported, and bake parametrizations in",
            ) from error


class _Sorted(set[str]):
    """A set that is pickled as any other, but in order: that of a set of names is another in each process."""

    def __reduce__(self) -> tuple[Any, ...]:
        return set, (sorted(self),)


@contextlib.contextmanager
def _sorted_names(module: nn.Module) -> Iterator[None]:
    """Within it the sets of names that torch keeps in the parts of a module are pickled in order."""
    kept = {part: part._non_persistent_buffers_set for part in module.modules()}
    try:
        for part, names in kept.items():
            part._non_persistent_buffers_set = _Sorted(names)
        yield
    finally:
        for part, names in kept.items():
            part._non_persistent_buffers_set = names


class _Target:
    """A file for ``torch.save`` that remembers why it could not be written to."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        self._file.flush()


def save_json(data: dict[str, Any], path: Path) -> None:
    """Writes ``data`` as JSON that a person can read."""
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
