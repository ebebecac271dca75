"""What each command found out: frozen records that render.py shows and JSON holds."""

from __future__ import annotations

import dataclasses
import enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fxhead.sources import Source

if TYPE_CHECKING:
    from export.results import Certificate
    from fxhead.changes import Change
    from fxhead.data import DataRecord
    from fxpasses.report import RewriteReport, Site, Sites

SCHEMA_VERSION = 1


class ExitCode(enum.IntEnum):
    """What the process returns."""

    DONE = 0
    NO = 1
    USAGE = 2
    INTERNAL = 3
    INTERRUPTED = 130


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A model that was loaded.

    Attributes:
        source: what the user named.
        class_name: class of the module, ``"ExportedProgram"``, or ``"ONNX"``.
        parameters: number of trainable and frozen weights; None for an ONNX file.
        input_shapes: shapes of its inputs, batch first, or None where they were not needed.
        input_origin: how the shapes are known (``given``, ``metadata``, ``guessed``).
        container: what the file is, in words; None where the model was built, not read.
    """

    source: Source
    class_name: str
    parameters: int | None
    input_shapes: tuple[tuple[int, ...], ...] | None = None
    input_origin: str | None = None
    container: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "source": self.source.text,
            "kind": self.source.kind,
            "class": self.class_name,
            "parameters": self.parameters,
            "input_shapes": self.input_shapes,
            "input_origin": self.input_origin,
            "container": self.container,
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WrittenFile:
    """One output file."""

    path: Path
    size_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"path": str(self.path), "size_bytes": self.size_bytes}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One comparison, by the names that the user knows the two by."""

    reference: str
    candidate: str
    certificate: Certificate

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return self.certificate.to_dict() | {"reference": self.reference, "candidate": self.candidate}


class Outcome(Protocol):
    """What a command returns."""

    @property
    def exit_code(self) -> ExitCode:
        """Whether the answer is yes."""

    def to_dict(self) -> dict[str, Any]:
        """The one JSON document."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RewriteOutcome:
    """Result of ``fxhead rewrite``.

    Attributes:
        model: what was read.
        report: what was rewritten and what was not.
        already: sites that had the asked form before.
        checks: certificates; empty where nothing was checked.
        files: what was written; empty where the answer is no.
        seconds: wall-clock time.
    """

    model: ModelInfo
    report: RewriteReport
    already: tuple[Site, ...]
    checks: tuple[Check, ...]
    files: tuple[WrittenFile, ...]
    seconds: float

    @property
    def verdict(self) -> str | None:
        """The worst verdict, or None where nothing was checked."""
        return worst(self.checks)

    @property
    def exit_code(self) -> ExitCode:
        """NO where nothing could be rewritten or a check failed."""
        return ExitCode.DONE if self.report.rewrites and self.verdict != "broken" else ExitCode.NO

    def to_dict(self) -> dict[str, Any]:
        """The one JSON document."""
        return {
            "schema_version": SCHEMA_VERSION,
            "command": "rewrite",
            "model": self.model.to_dict(),
            "report": self.report.to_dict(),
            "already": [site.to_dict() for site in self.already],
            "verdict": self.verdict,
            "checks": [check.to_dict() for check in self.checks],
            "files": [file.to_dict() for file in self.files],
            "seconds": round(self.seconds, 3),
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InspectOutcome:
    """Result of ``fxhead inspect``."""

    model: ModelInfo
    scope: str
    sites: Sites

    @property
    def exit_code(self) -> ExitCode:
        """DONE: to look is never wrong."""
        return ExitCode.DONE

    def to_dict(self) -> dict[str, Any]:
        """The one JSON document."""
        return {
            "schema_version": SCHEMA_VERSION,
            "command": "inspect",
            "model": self.model.to_dict(),
            "scope": self.scope,
            **self.sites.to_dict(),
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckOutcome:
    """Result of ``fxhead check``.

    Attributes:
        reference: what was read.
        candidate: what was read.
        check: the certificate.
        data: the samples that were run.
        files: the certificate file where one was asked for.
        seconds: wall-clock time.
    """

    reference: ModelInfo
    candidate: ModelInfo
    check: Check
    data: DataRecord
    files: tuple[WrittenFile, ...]
    seconds: float

    @property
    def exit_code(self) -> ExitCode:
        """NO where they are not the same function."""
        return ExitCode.NO if self.check.certificate.verdict == "broken" else ExitCode.DONE

    def to_dict(self) -> dict[str, Any]:
        """The one JSON document."""
        return {
            "schema_version": SCHEMA_VERSION,
            "command": "check",
            "reference": self.reference.to_dict(),
            "candidate": self.candidate.to_dict(),
            "verdict": str(self.check.certificate.verdict),
            "check": self.check.to_dict(),
            "inputs": self.data.to_dict(),
            "files": [file.to_dict() for file in self.files],
            "seconds": round(self.seconds, 3),
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOutcome:
    """Result of ``fxhead check --replay``.

    Attributes:
        certificate: the file.
        was: the verdict in it.
        models: what was read.
        checks: what was found now.
        changes: what differs.
        seconds: wall-clock time.
    """

    certificate: Path
    was: str
    models: tuple[ModelInfo, ...]
    checks: tuple[Check, ...]
    changes: tuple[Change, ...]
    seconds: float

    @property
    def is_reproduced(self) -> bool:
        """Whether nothing differs that the certificate rests on."""
        return not any(change.counts for change in self.changes)

    @property
    def exit_code(self) -> ExitCode:
        """NO where the result is another."""
        return ExitCode.DONE if self.is_reproduced else ExitCode.NO

    def to_dict(self) -> dict[str, Any]:
        """The one JSON document."""
        return {
            "schema_version": SCHEMA_VERSION,
            "command": "check",
            "certificate": str(self.certificate),
            "is_reproduced": self.is_reproduced,
            "was": self.was,
            "verdict": worst(self.checks),
            "changes": [change.to_dict() for change in self.changes],
            "models": [model.to_dict() for model in self.models],
            "checks": [check.to_dict() for check in self.checks],
            "seconds": round(self.seconds, 3),
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """One tensor that was reshaped.

    Attributes:
        place: where it is in the checkpoint.
        before: its shape before.
        after: its shape after.
        copied_bytes: bytes that got another order; 0 where only the shape changed.
    """

    place: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    copied_bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOutcome:
    """Result of ``fxhead convert-weights``.

    Attributes:
        checkpoint: the file that was read.
        container: its format.
        to: the form that was asked for.
        converted: what was reshaped; empty where it has that form already.
        left: what looks like one of these and was left as it is.
        files: what was written; empty where nothing had to be.
        seconds: wall-clock time.
    """

    checkpoint: str
    container: str
    to: str
    converted: tuple[Converted, ...]
    left: tuple[str, ...]
    files: tuple[WrittenFile, ...]
    seconds: float

    @property
    def exit_code(self) -> ExitCode:
        """NO where it has the form already."""
        return ExitCode.DONE if self.converted else ExitCode.NO

    def to_dict(self) -> dict[str, Any]:
        """The one JSON document."""
        return {
            "schema_version": SCHEMA_VERSION,
            "command": "convert-weights",
            "checkpoint": self.checkpoint,
            "container": self.container,
            "to": self.to,
            "converted": [dataclasses.asdict(tensor) for tensor in self.converted],
            "left": list(self.left),
            "files": [file.to_dict() for file in self.files],
            "seconds": round(self.seconds, 3),
        }


def worst(checks: tuple[Check, ...]) -> str | None:
    """The worst verdict of several; verdicts are declared from best to worst."""
    verdicts = [check.certificate.verdict for check in checks]
    if not verdicts:
        return None
    order = list(type(verdicts[0]))
    return str(max(verdicts, key=order.index))
