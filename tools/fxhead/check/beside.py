"""What is written beside a certificate where that is asked for: its page, and a statement to be signed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from fxhead.check.outcome import Check
from fxhead.files.publish import publish, staged
from fxhead.files.save import save_json
from fxhead.outcome import WrittenFile

if TYPE_CHECKING:
    from fxhead.check.artefact import Recipe
    from fxpasses.report import RewriteReport

_PAGE, _STATEMENT = ".html", ".intoto.json"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What was asked for.

    Attributes:
        html: the certificate's page.
        attest: an in-toto statement.
    """

    html: bool = False
    attest: bool = False

    def names(self, stem: str) -> tuple[str, ...]:
        """The files that are written."""
        return (*([stem + _PAGE] * self.html), *([stem + _STATEMENT] * self.attest))

    def save(
        self,
        staging: Path,
        home: Path,
        stem: str,
        name: str,
        checks: tuple[Check, ...],
        recipe: Recipe | None,
        report: RewriteReport | None = None,
    ) -> None:
        """Writes all of it.

        They are written in ``staging`` and will be in ``home``; ``name`` is the certificate's, or the model's
        where there is none.
        """
        if self.attest and recipe is not None:
            from fxhead.check.statement import statement

            save_json({**statement(staging / name, checks, recipe)}, staging / f"{stem}{_STATEMENT}")
        if self.html:
            # with it come readers of files, which a rewrite without ONNX does not need
            from fxhead.check.page import certificate_page

            text = certificate_page(name, checks, recipe, (staging, home), report=report)
            (staging / f"{stem}{_PAGE}").write_text(text, encoding="utf-8")

    def publish_alone(
        self,
        home: Path,
        stem: str,
        name: str,
        checks: tuple[Check, ...],
        report: RewriteReport,
        *,
        force: bool,
    ) -> tuple[WrittenFile, ...]:
        """Writes the page, if it was asked for, of what was refused or is broken and has no other file.

        Raises:
            FileError: it cannot be written.
        """
        if not self.html:
            return ()
        with staged(home) as staging:
            self.save(staging, home, stem, name, checks, None, report)
            return publish(staging, force=force)
