"""What ``fxhead rewrite`` did."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from fxhead.check.outcome import Check, is_enough, worst
from fxhead.outcome import SCHEMA_VERSION, ExitCode, ModelInfo, WrittenFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from fxpasses.report import RewriteReport, Site


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RewriteOutcome:
    """Result of ``fxhead rewrite``.

    Attributes:
        model: what was read.
        report: what was rewritten and what was not.
        already: sites that had the asked form before.
        checks: certificates; empty where nothing was checked.
        files: what was written; where the answer is no, that is a page that was asked for, and nothing else.
        seconds: wall-clock time.
        require: the least verdict that is a yes.
        unchecked: the option by which nothing is checked.
    """

    model: ModelInfo
    report: RewriteReport
    already: tuple[Site, ...]
    checks: tuple[Check, ...]
    files: tuple[WrittenFile, ...]
    seconds: float
    require: str = "agrees"
    unchecked: str = "--no-onnx"

    @property
    def verdict(self) -> str | None:
        """The worst verdict, or None where nothing was checked."""
        return worst(self.checks)

    @property
    def exit_code(self) -> ExitCode:
        """NO where nothing could be rewritten, or a verdict is less than what is required."""
        is_done = bool(self.report.rewrites) and is_enough(self.checks, self.require)
        return ExitCode.DONE if is_done else ExitCode.NO

    def lines(self) -> Iterator[RenderableType]:
        """What to show, from top to bottom."""
        from fxhead.rewriting.lines import rewrite_lines  # with it comes rich, which JSON does not need

        return rewrite_lines(self)

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
