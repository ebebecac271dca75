"""What ``fxhead rewrite`` did, as a record and for a person."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from rich.console import RenderableType
from rich.filesize import decimal
from rich.markup import escape

from fxhead.check.lines import rewrite_verdict
from fxhead.check.outcome import Check, is_enough, worst
from fxhead.outcome import ExitCode, ModelInfo, Outcome, WrittenFile
from fxhead.rewriting.memory_lines import memory_lines
from fxhead.show.fitting_table import FittingTable
from fxhead.show.tables import file_table, miss_lines, model_line, shape_text, trace_lines
from fxpasses.report import RewriteReport, Site


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RewriteOutcome(Outcome):
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

    command = "rewrite"
    told = ("verdict",)
    unwritten = ("require", "unchecked")

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
        report = self.report
        yield model_line(self.model)
        if report.rewrites:
            yield ""
            yield _rewrite_table(report)
        yield from miss_lines(report.misses)
        yield from trace_lines(report.trace)
        yield ""
        if not report.rewrites:
            yield _nothing_line(self)
            if self.files:  # the page that says so
                yield ""
                yield file_table(self.files)
            return
        if report.memory is not None:
            yield from memory_lines(report.memory)
            yield ""
        if report.native_size is not None:
            native = shape_text(report.native_size)
            yield f"native size {native}: one position, more on a larger input, an error on a smaller one"
        if self.verdict is None:
            how = "fxhead check REFERENCE CANDIDATE gives the certificate"
            yield f"[bold]not checked[/]: {self.unchecked}; {how}"
        else:
            yield from rewrite_verdict(self.verdict, self.checks)
        if self.files:
            yield ""
            yield file_table(self.files)
        else:
            yield "nothing was written"


def _nothing_line(outcome: RewriteOutcome) -> str:
    if outcome.already and not outcome.report.misses:
        names = ", ".join(escape(site.name) for site in outcome.already)
        return f"[bold]nothing to rewrite[/]: {names} has the {outcome.report.to} form already"
    if not outcome.report.misses:
        return f"[bold]nothing to rewrite[/]: no site in scope {outcome.report.scope}"
    return "[bold]nothing to rewrite[/]: every candidate was skipped"


def _rewrite_table(report: RewriteReport) -> FittingTable:
    table = FittingTable("site", "before", "after", "weight", "source")
    for rewrite in report.rewrites:
        copied = f" ({decimal(rewrite.copied_bytes)} copied)" if rewrite.copied_bytes else ""
        shapes = (
            f"{shape_text(rewrite.weight_shape_before)} → {shape_text(rewrite.weight_shape_after)}{copied}"
        )
        site = rewrite.site
        table.add(site.name, rewrite.before, rewrite.after, shapes, site.source or "")
    return table
