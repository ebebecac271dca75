"""``fxhead report``: a certificate's page, from the file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from rich.console import RenderableType

from fxhead.check.certificates import read_checks
from fxhead.check.lines import verdict_line
from fxhead.check.page import certificate_page
from fxhead.check.read_artefact import read_artefact
from fxhead.files.publish import publish, staged
from fxhead.files.save import require_free_file
from fxhead.outcome import Outcome, WrittenFile
from fxhead.show.tables import file_table
from fxpasses.wall.wall import walled


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReportOutcome(Outcome):
    """Result of ``fxhead report``."""

    command = "report"

    verdict: str
    files: tuple[WrittenFile, ...]

    def lines(self) -> Iterator[RenderableType]:
        """What to show, from top to bottom."""
        yield verdict_line(self.verdict)
        yield file_table(self.files)


def run_report(path: Path, out: Path, *, force: bool) -> ReportOutcome:
    """The outcome: the page is written.

    ONNX files that the certificate is about are read for their heads, where they are as they were.

    Raises:
        FileError: it is no certificate, or the page cannot be written.
    """
    artefact = read_artefact(path)
    checks = read_checks(artefact)
    require_free_file(out, [path], force=force)
    with walled(path.name):
        text = certificate_page(
            path.name, checks, artefact.recipe, (path.parent,), environment=artefact.environment
        )
    with staged(out.parent) as staging:
        (staging / out.name).write_text(text, encoding="utf-8")
        files = publish(staging, force=force)
    return ReportOutcome(verdict=artefact.verdict, files=files)
