"""The result of ``fxhead rewrite`` for a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.filesize import decimal
from rich.markup import escape

from fxhead.check.lines import rewrite_verdict
from fxhead.rewriting.memory_lines import memory_lines
from fxhead.show.fitting_table import FittingTable
from fxhead.show.tables import file_table, miss_lines, model_line, shape_text, trace_lines

if TYPE_CHECKING:
    from fxhead.rewriting.outcome import RewriteOutcome
    from fxpasses.report import RewriteReport


def rewrite_lines(outcome: RewriteOutcome) -> Iterator[RenderableType]:
    """The result, from top to bottom."""
    report = outcome.report
    yield model_line(outcome.model)
    if report.rewrites:
        yield ""
        yield _rewrite_table(report)
    yield from miss_lines(report.misses)
    yield from trace_lines(report.trace)
    yield ""
    if not report.rewrites:
        yield _nothing_line(outcome)
        if outcome.files:  # the page that says so
            yield ""
            yield file_table(outcome.files)
        return
    if report.memory is not None:
        yield from memory_lines(report.memory)
        yield ""
    if report.native_size is not None:
        native = shape_text(report.native_size)
        yield f"native size {native}: one position, more on a larger input, an error on a smaller one"
    if outcome.verdict is None:
        how = "fxhead check REFERENCE CANDIDATE gives the certificate"
        yield f"[bold]not checked[/]: {outcome.unchecked}; {how}"
    else:
        yield from rewrite_verdict(outcome.verdict, outcome.checks)
    if outcome.files:
        yield ""
        yield file_table(outcome.files)
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
