"""The page of a rewrite: of its certificate, or of what was refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fxhead.check.outcome import Check
from fxhead.files.publish import publish, staged
from fxhead.outcome import WrittenFile
from fxpasses.report import RewriteReport

if TYPE_CHECKING:
    from fxhead.check.artefact import Recipe


def save_page(
    path: Path,
    name: str,
    report: RewriteReport,
    checks: tuple[Check, ...],
    recipe: Recipe | None = None,
    folders: Sequence[Path] = (),
) -> None:
    """Writes the page; see ``certificate_page``."""
    from fxhead.check.page import certificate_page

    text = certificate_page(name, checks, recipe, folders, report=report)
    path.write_text(text, encoding="utf-8")


def publish_page(
    path: Path, name: str, report: RewriteReport, checks: tuple[Check, ...], *, force: bool
) -> tuple[WrittenFile, ...]:
    """Writes the page alone, where nothing was rewritten or it is broken.

    Raises:
        FileError: it cannot be written.
    """
    with staged(path.parent) as staging:
        save_page(staging / path.name, name, report, checks)
        publish(staging, force=force)
    return (WrittenFile(path=path, size_bytes=path.stat().st_size),)
