"""What came of a certificate that was done again, as a record and for a person."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from rich.console import RenderableType
from rich.markup import escape

from fxhead.check.changes import CertificateChange
from fxhead.check.lines import rewrite_verdict
from fxhead.check.outcome import Check, worst
from fxhead.outcome import ExitCode, ModelInfo, Outcome

_SHOWN_CHANGES = 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOutcome(Outcome):
    """Result of ``fxhead check --replay``.

    Attributes:
        certificate: the file.
        was: the verdict in it.
        models: what was read.
        checks: what was found now.
        changes: what differs.
        seconds: wall-clock time.
    """

    command = "check"
    told = ("is_reproduced", "verdict")

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
    def verdict(self) -> str | None:
        """The worst of what was found now."""
        return worst(self.checks)

    @property
    def exit_code(self) -> ExitCode:
        """NO where the result is another."""
        return ExitCode.DONE if self.is_reproduced else ExitCode.NO

    def lines(self) -> Iterator[RenderableType]:
        """Whether the certificate holds, what differs, and what was found now."""
        was, now = self.was, self.verdict or ""
        name = escape(str(self.certificate))
        if self.is_reproduced:
            yield f"[bold green]reproduced[/]: {name} says {was}, with the same layers, and so it is"
        else:
            yield f"[bold red]not reproduced[/]: {name} says {was}, found now: {now}"
        yield from _change_lines(self)
        yield ""
        yield from rewrite_verdict(now, self.checks)


def _change_lines(outcome: ReplayOutcome) -> Iterator[RenderableType]:
    """What differs, what counts first; figures follow from a result, and are counted where there is one."""
    order = ("file", "result", "version", "figure")
    changes = sorted(outcome.changes, key=lambda change: (not change.counts, order.index(change.kind)))
    has_result = any(change.kind == "result" for change in changes)
    shown = [change for change in changes if change.kind != "figure" or not has_result][:_SHOWN_CHANGES]
    for change in shown:
        word = "[bold red]changed[/]" if change.counts else "changed, but does not count"
        then, since = (escape(_short(text)) for text in (change.then, change.now))
        yield f"{word}: {escape(_place(change.where, outcome))}: {then} then, {since} now"
    if len(changes) > len(shown):
        yield f"… and {len(changes) - len(shown):,} more; --json lists all"


def _place(where: str, outcome: ReplayOutcome) -> str:
    """Where a change is, with a check by the name of its candidate."""
    for index, check in enumerate(outcome.checks):
        if where.startswith(f"checks[{index}]."):
            return f"{check.candidate}: {where.partition('.')[2]}"
    return where


def _short(text: str) -> str:
    is_digest = len(text) == 64 and {*text} <= {*"0123456789abcdef"}
    return f"{text[:12]}…" if is_digest else text
