"""What ``fxhead check`` found out: one comparison, a check, a certificate that was replayed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxhead.outcome import SCHEMA_VERSION, ExitCode, ModelInfo, WrittenFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from fxexport.results import Certificate
    from fxhead.check.changes import CertificateChange
    from fxhead.inputs.samples import DataRecord


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One comparison, by the names that the user knows the two by."""

    reference: str
    candidate: str
    certificate: Certificate

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return self.certificate.to_dict() | {"reference": self.reference, "candidate": self.candidate}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckOutcome:
    """Result of ``fxhead check``.

    Attributes:
        reference: what was read.
        candidate: what was read.
        check: the certificate.
        data: the samples that were run.
        files: the certificate file where one was asked for, and what shows that the two differ.
        seconds: wall-clock time.
        require: the least verdict that is a yes.
    """

    reference: ModelInfo
    candidate: ModelInfo
    check: Check
    data: DataRecord
    files: tuple[WrittenFile, ...]
    seconds: float
    require: str = "agrees"

    @property
    def exit_code(self) -> ExitCode:
        """NO where the verdict is less than what is required."""
        return ExitCode.DONE if is_enough((self.check,), self.require) else ExitCode.NO

    def lines(self) -> Iterator[RenderableType]:
        """What to show, from top to bottom."""
        from fxhead.check.lines import check_lines  # with it comes rich, which JSON does not need

        return check_lines(self)

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
    changes: tuple[CertificateChange, ...]
    seconds: float

    @property
    def is_reproduced(self) -> bool:
        """Whether nothing differs that the certificate rests on."""
        return not any(change.counts for change in self.changes)

    @property
    def exit_code(self) -> ExitCode:
        """NO where the result is another."""
        return ExitCode.DONE if self.is_reproduced else ExitCode.NO

    def lines(self) -> Iterator[RenderableType]:
        """What to show, from top to bottom."""
        from fxhead.check.replay_lines import replay_lines  # with it comes rich, which JSON does not need

        return replay_lines(self)

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


def is_enough(checks: tuple[Check, ...], required: str) -> bool:
    """True if every verdict says at least as much as is required; nothing checked proves nothing."""
    verdicts = [check.certificate.verdict for check in checks]
    is_asked = required == "proved"
    return (bool(checks) or not is_asked) and all(v.is_enough(type(v)(required)) for v in verdicts)


def worst(checks: tuple[Check, ...]) -> str | None:
    """The worst verdict of several; verdicts are declared from best to worst."""
    verdicts = [check.certificate.verdict for check in checks]
    if not verdicts:
        return None
    order = list(type(verdicts[0]))
    return str(max(verdicts, key=order.index))
