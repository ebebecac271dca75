"""The models of one certifier: each is read, traced and exported the first time that it is asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.optim.swa_utils import AveragedModel

from fxexport.onnx_dialect.arrays import WeightPool
from fxexport.subjects.module_subject import ModuleSubject
from fxexport.subjects.onnx_subject import OnnxSubject
from fxexport.subjects.samples import BATCHES, InputSpec, Samples, random_samples
from fxexport.subjects.subject import Subject
from fxexport.terms.term import Shape
from fxexport.untrusted.programs import as_module, batches_within, fixed_batch, is_program_path, read_program
from fxpasses.errors import CheckError, InternalError
from fxpasses.fcn.native_size import native_size, require_native

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)

Opened: TypeAlias = nn.Module | str | os.PathLike[str]
ModelSource: TypeAlias = Opened | ExportedProgram


class Models:
    """Modules and files as subjects of certificates, and the samples that they run on.

    All are taken to stay as they are.

    Args:
        samples: what the models run on, or None where the first file is to say it.
        seed: seed of samples that a file's inputs ask for.
    """

    def __init__(self, samples: Samples | None, seed: int) -> None:
        self._samples = samples
        self._seed = seed
        self._subjects: dict[object, tuple[ModelSource, Subject]] = {}
        # files that leave sizes open, read before the samples were known
        self._unsized: set[Subject] = set()
        self._pool = WeightPool()

    def declared(self, path: str | os.PathLike[str]) -> tuple[InputSpec, ...]:
        """What an ONNX file says about its inputs."""
        return self._file(path).inputs

    def give(self, samples: Samples) -> None:
        """Takes the samples that all models run on from here on."""
        if self._samples is not None:
            raise CheckError("the certifier has inputs", fix="make another one for other inputs")
        self._samples = samples

    def pair(self, reference: Opened, candidate: Opened) -> tuple[Subject, Subject, Samples]:
        """Both models and their samples: what was given, else what the first file asks for.

        Raises:
            CheckError: nothing says what to run, or one is no ONNX file.
            InputError: the samples are below a native size.
        """
        files = [item for item in (reference, candidate) if not isinstance(item, nn.Module)]
        for item in files:
            self._file(item)
        if self._samples is None and not files:
            raise CheckError(
                "two modules tell nothing about the shape of their inputs",
                fix="give inputs, e.g. torch.randn(8, 3, 224, 224)",
            )
        if self._samples is None:
            self._samples = random_samples(self.declared(files[0]), sum(BATCHES), self._seed)
        shapes = [rows.shape for rows in self._samples.rows]
        for given in (reference, candidate):
            if isinstance(given, nn.Module):
                require_native(native_size(given), shapes, type(given).__name__)
            else:
                require_native(self._file(given).native_size, shapes, str(given))
        subjects = [
            self._module(item) if isinstance(item, nn.Module) else self._file(item)
            for item in (reference, candidate)
        ]
        return subjects[0], subjects[1], self._samples

    def _file(self, source: str | os.PathLike[str]) -> OnnxSubject:
        path = Path(os.fspath(source))
        known = self._subjects.get(path)
        shapes = () if self._samples is None else tuple(tuple(rows.shape[1:]) for rows in self._samples.rows)
        is_read = known is not None and not (shapes and known[1] in self._unsized)
        subject = known[1] if known is not None and is_read else _read(path, self._pool, shapes)
        self._subjects[path] = (source, subject)
        if not isinstance(subject, OnnxSubject):
            raise InternalError(f"{path} was read as {type(subject).__name__}")
        if not shapes and any(spec.shape is None or None in spec.shape for spec in subject.inputs):
            self._unsized.add(subject)
        return subject

    def _module(self, module: nn.Module) -> Subject:
        if self._samples is None:
            raise InternalError("a module came before the samples")
        known = self._subjects.get(id(module))  # the entry holds the module, so its id stays its own
        subject = (
            ModuleSubject(
                module, self._samples.batch(0, fixed_batch(module) or batches_within(module, (2,))[0])
            )
            if known is None
            else known[1]
        )
        self._subjects[id(module)] = (module, subject)
        return subject


def opened(source: ModelSource) -> Opened:
    """A program, or a ``.pt2`` file, as a module; a module without what wraps it; anything else as it is."""
    if isinstance(source, ExportedProgram):
        return as_module(source)
    if isinstance(source, nn.Module):
        return _unwrapped(source)
    if not is_program_path(source):
        return source
    return as_module(read_program(source))


def _unwrapped(module: nn.Module) -> nn.Module:
    """What ``torch.compile``, data parallelism and weight averaging run; their names are no model's."""
    # by the class itself: one below it may do otherwise, and any module may have a child of that name
    is_compiled = type(module).__module__ == "torch._dynamo.eval_frame"
    inner = "_orig_mod" if is_compiled else "module" if type(module) in _WRAPPERS else None
    if isinstance(module, torch.jit.ScriptModule):  # nothing traces it again
        name = getattr(module, "original_name", type(module).__name__)
        raise CheckError("is TorchScript", where=name, fix="give the nn.Module that it was made from")
    return module if inner is None else _unwrapped(module.get_submodule(inner))


def _read(path: Path, pool: WeightPool, extents: Sequence[Shape]) -> OnnxSubject:
    if path.suffix != ".onnx":
        raise CheckError(
            "neither a module nor an .onnx file", where=str(path), fix="load it first, or export it"
        )
    if not path.is_file():
        raise CheckError("no such file", where=str(path), fix="give the path of an existing .onnx file")
    return OnnxSubject(path, pool, extents)
