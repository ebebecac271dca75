"""The certificate file: what was found out, about which files, with what, and how to do it again.

It holds no time and no absolute path that can be avoided: the same run gives the same bytes, and a folder
with its certificate can be moved. Paths are relative to the certificate's own folder.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from fxexport.onnx_dialect.broken import BrokenGraph
from fxexport.onnx_dialect.external import locations, path_of
from fxexport.onnx_dialect.rewrite import read_content
from fxexport.providers import provider_options
from fxhead.check.environment import describe_environment
from fxhead.check.outcome import Check, worst
from fxhead.files.digests import digest_file, digest_weights
from fxhead.inputs.samples import DataRecord
from fxhead.loading.hub_folders import HUB_TEXTS
from fxhead.loading.load import FileOptions, Loading
from fxhead.source import Source, SourceKind
from fxpasses.errors import FileError

KIND = "fxhead certificate"
SCHEMA_VERSION = 2
"""1: until ``agrees`` took the place of ``within rounding`` and ``within TF32 rounding``."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """A file by its content.

    Attributes:
        path: relative to the certificate's folder, with ``/``.
        sha256: digest of its bytes.
        size_bytes: how long it is.
    """

    path: str
    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, path: Path, folder: Path) -> FileRecord:
        """The record of a file, as seen from a folder."""
        return cls._named(path, relative(path, folder))

    @classmethod
    def staged(cls, path: Path) -> FileRecord:
        """The record of a file that will lie beside the certificate, under the name that it has."""
        return cls._named(path, path.name)

    @classmethod
    def _named(cls, path: Path, name: str) -> FileRecord:
        return cls(path=name, sha256=digest_file(path), size_bytes=path.stat().st_size)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """One model under comparison.

    Attributes:
        name: what the user called it.
        kind: where it came from.
        source: ``torchvision:NAME`` or ``package.module:callable``; None for a file.
        file: the file; None for what was built.
        data: files beside it: an ONNX file's weights, or what a folder says of its model.
        weights: torchvision's name of the weights that it was built with.
        weights_file: a file of weights that it was built with.
        state_sha256: digest of the weights of what was built.
    """

    name: str
    kind: SourceKind
    source: str | None = None
    file: FileRecord | None = None
    data: tuple[FileRecord, ...] = ()
    weights: str | None = None
    weights_file: FileRecord | None = None
    state_sha256: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to do it again.

    Attributes:
        models: what was compared.
        pairs: positions of reference and candidate.
        providers: where ONNX files were run.
        plan: file of the weight plan.
        seed: of fresh weights and random samples.
        loading: how files were loaded.
        data: the samples; its path is relative to the certificate's folder.
    """

    models: tuple[ModelRecord, ...]
    pairs: tuple[tuple[int, int], ...]
    providers: tuple[str, ...]
    plan: FileRecord | None
    seed: int
    loading: FileOptions
    data: DataRecord

    def files(self) -> Iterator[FileRecord]:
        """Every file that it names, but for the samples."""
        for model in self.models:
            yield from (file for file in (model.file, *model.data, model.weights_file) if file is not None)
        if self.plan is not None:
            yield self.plan

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        plain = dataclasses.asdict(self) | {"data": self.data.to_dict()}
        plain["providers"] = [
            {"name": name, "options": dict(provider_options(name))} for name in self.providers
        ]
        return plain


def kept_options(loading: Loading, sources: Sequence[Source]) -> FileOptions:
    """What a certificate keeps of them: nothing where no file was loaded as a model of PyTorch."""
    is_read = any(source.kind is SourceKind.FILE for source in sources)
    return loading.of_files if is_read else FileOptions()


def relative(path: Path, folder: Path) -> str:
    """``path`` as seen from ``folder``; absolute where there is no way from one to the other."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive
        return path.absolute().as_posix()


def record_model(
    source: Source, model: nn.Module | ExportedProgram | Path, weights: str | None, folder: Path
) -> ModelRecord:
    """The record of a model that was loaded from ``source``.

    Raises:
        FileError: a file of it cannot be read.
    """
    if source.path is not None:
        return ModelRecord(
            name=source.text,
            kind=source.kind,
            file=FileRecord.of(source.path, folder),
            data=tuple(FileRecord.of(file, folder) for file in companions(source)),
        )
    is_file = weights is not None and Path(weights).is_file()
    state = digest_weights(model) if isinstance(model, nn.Module) else None
    return ModelRecord(
        name=source.text,
        kind=source.kind,
        source=source.text,
        weights=None if is_file else weights,
        weights_file=FileRecord.of(Path(weights), folder) if is_file and weights is not None else None,
        state_sha256=state,
    )


def companions(source: Source) -> list[Path]:
    """What else a source is read from: the weights of an ONNX file, the texts of a folder.

    Raises:
        FileError: it is no ONNX file.
    """
    if source.kind is SourceKind.FOLDER:
        return [text for name in HUB_TEXTS if (text := Path(source.name, name)).is_file()]
    return _external(source.path) if source.kind is SourceKind.ONNX and source.path is not None else []


def _external(path: Path) -> list[Path]:
    """The other files of an ONNX file, of weights that nothing reads too.

    Raises:
        FileError: it is no ONNX file, or names one that is not in its folder.
    """
    names = sorted(locations(read_content(path)))
    try:
        for name in names:
            path_of(path.parent, name)
    except BrokenGraph as error:
        raise FileError(str(error), where=str(path), fix="export it again, into one folder") from error
    return [path.parent / name for name in names]


def record_staged(path: Path, kind: SourceKind) -> ModelRecord:
    """The record of a model that was written, and will lie beside the certificate.

    Raises:
        FileError: it is to be an ONNX file and is none, or weights beside it cannot be read.
    """
    data = _external(path) if kind is SourceKind.ONNX else []
    return ModelRecord(
        name=path.name,
        kind=kind,
        file=FileRecord.staged(path),
        data=tuple(FileRecord.of(file, path.parent) for file in data),
    )


def document(recipe: Recipe, checks: Sequence[Check]) -> dict[str, Any]:
    """The certificate file's content."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "verdict": worst(tuple(checks)),
        "environment": describe_environment(recipe.providers),
        "recipe": recipe.to_dict(),
        "checks": [check.to_dict() for check in checks],
    }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Artefact:
    """A certificate file that was read.

    Attributes:
        checks: its certificates, as plain data.
    """

    path: Path
    verdict: str
    environment: Mapping[str, str]
    recipe: Recipe
    checks: Sequence[Any]
    schema_version: int = SCHEMA_VERSION
