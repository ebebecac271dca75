"""The result of ``fxhead study``."""

from __future__ import annotations

import dataclasses
import platform
from typing import TYPE_CHECKING, Any

import torch

from fxhead.outcome import SCHEMA_VERSION, ExitCode, WrittenFile
from fxhead.study.findings import Findings
from fxhead.study.records import DataInfo, PlainRecord
from fxhead.study.settings import StudyOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Environment(PlainRecord):
    """What rounding depends on: other versions or processors give other last digits."""

    torch: str
    machine: str
    cpu_capability: str

    @classmethod
    def here(cls) -> Environment:
        """That of this process."""
        return cls(
            torch=torch.__version__,
            machine=platform.machine(),
            cpu_capability=torch.backends.cpu.get_cpu_capability(),
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StudyOutcome:
    """Result of ``fxhead study``; the same options give the same document on the same machine."""

    options: StudyOptions
    data: DataInfo
    environment: Environment
    findings: Findings
    files: tuple[WrittenFile, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        """DONE: every answer is one."""
        return ExitCode.DONE

    def lines(self) -> Iterator[RenderableType]:
        """What to show, from top to bottom."""
        from fxhead.study.lines import study_lines  # with it comes rich, which JSON does not need

        return study_lines(self)

    def to_dict(self) -> dict[str, Any]:
        """The one JSON document."""
        return {
            "schema_version": SCHEMA_VERSION,
            "command": "study",
            "data": self.data.to_dict(),
            "training": self.options.training.to_dict(),
            "rules": self.options.rules.to_dict(),
            "seeds": self.options.seeds,
            "seed": self.options.seed,
            "environment": self.environment.to_dict(),
            **self.findings.to_dict(),
            # by name: the same study in another folder is the same document
            "files": [file.to_dict() | {"path": file.path.name} for file in self.files],
        }
