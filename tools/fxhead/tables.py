"""Outcomes as rich tables and lines, for a person to read at a glance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rich import box
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from fxhead.results import Check, CheckOutcome, InspectOutcome, ModelInfo, Outcome, RewriteOutcome, worst
from fxhead.study.lines import study_lines
from fxhead.study.outcome import StudyOutcome

if TYPE_CHECKING:
    from fxpasses.report import Miss, RewriteReport, Site, TraceInfo

_UNITS = ("bytes", "kB", "MB", "GB", "TB")
_VERDICT_STYLES = {"broken": "bold red", "inconclusive": "bold yellow"}


def outcome_lines(outcome: Outcome) -> Iterator[RenderableType]:
    """What to show for ``outcome``, from top to bottom."""
    if isinstance(outcome, RewriteOutcome):
        yield from _rewrite_lines(outcome)
    elif isinstance(outcome, InspectOutcome):
        yield from _inspect_lines(outcome)
    elif isinstance(outcome, CheckOutcome):
        yield from _check_lines(outcome)
    elif isinstance(outcome, StudyOutcome):
        yield from study_lines(outcome)


def _rewrite_lines(outcome: RewriteOutcome) -> Iterator[RenderableType]:
    report = outcome.report
    yield _model_line(outcome.model)
    if report.rewrites:
        yield ""
        yield _rewrite_table(report)
    yield from _miss_lines(report.misses)
    yield from _trace_lines(report.trace)
    yield ""
    if not report.rewrites:
        yield _nothing_line(outcome)
        return
    if outcome.verdict is None:
        yield "[bold]not checked[/]: --no-onnx; fxhead check REFERENCE CANDIDATE gives the certificate"
    else:
        yield from _verdict_lines(outcome.verdict, outcome.checks)
    if outcome.files:
        yield ""
        yield _file_table(outcome)
    else:
        yield "nothing was written"


def _nothing_line(outcome: RewriteOutcome) -> str:
    if outcome.already and not outcome.report.misses:
        names = ", ".join(escape(site.name) for site in outcome.already)
        return f"[bold]nothing to rewrite[/]: {names} has the {outcome.report.to} form already"
    if not outcome.report.misses:
        return f"[bold]nothing to rewrite[/]: no site in scope {outcome.report.scope}"
    return "[bold]nothing to rewrite[/]: every candidate was skipped"


def _inspect_lines(outcome: InspectOutcome) -> Iterator[RenderableType]:
    found = outcome.sites
    yield _model_line(outcome.model)
    if found.sites:
        yield ""
        yield _site_table(found.sites)
    yield from _miss_lines(found.misses)
    yield from _trace_lines(found.trace)
    yield ""
    yield f"{_count(len(found.sites), 'site')}, {_count(len(found.misses), 'miss', 'misses')}"


def _check_lines(outcome: CheckOutcome) -> Iterator[RenderableType]:
    yield "reference  " + _model_line(outcome.reference)
    yield "candidate  " + _model_line(outcome.candidate)
    yield ""
    yield from _verdict_lines(str(outcome.check.certificate.verdict), (outcome.check,))


def _model_line(model: ModelInfo) -> str:
    parts = [escape(model.class_name)]
    if model.parameters is not None:
        parts.append(f"{model.parameters:,} parameters")
    if model.input_shapes:
        shapes = " ".join("x".join(map(str, shape)) for shape in model.input_shapes)
        parts.append(f"input {shapes}" + (" (guessed)" if model.input_origin == "guessed" else ""))
    return f"[bold]{escape(model.source.text)}[/]  " + ", ".join(parts)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _rewrite_table(report: RewriteReport) -> Table:
    table = _table("site", "before", "after", "weight", "source")
    for rewrite in report.rewrites:
        copied = f" ({_size(rewrite.copied_bytes)} copied)" if rewrite.copied_bytes else ""
        shapes = f"{_shape(rewrite.weight_shape_before)} → {_shape(rewrite.weight_shape_after)}{copied}"
        site = rewrite.site
        table.add_row(
            *map(escape, (site.name, rewrite.before, rewrite.after, shapes, site.source or "")),
        )
    return table


def _site_table(sites: Iterable[Site]) -> Table:
    table = _table("site", "scope", "now", "can become", "node", "source")
    for site in sites:
        other = site.conv if site.form == "linear" else site.linear
        table.add_row(
            *map(
                escape,
                (site.name, site.scope, site.written(site.form), other, site.node, site.source or ""),
            )
        )
    return table


def _miss_lines(misses: tuple[Miss, ...]) -> Iterator[RenderableType]:
    if misses:
        yield ""
    for miss in misses:
        yield f"[yellow]{escape(str(miss))}[/]"


def _trace_lines(trace: TraceInfo) -> Iterator[RenderableType]:
    if trace.method == "export":
        yield f"traced with torch.export: {escape(trace.reason or '')}"
    for note in trace.notes:
        yield f"note: {escape(note)}"


def _verdict_lines(verdict: str, checks: tuple[Check, ...]) -> Iterator[RenderableType]:
    yield f"verdict: [{_VERDICT_STYLES.get(verdict, 'bold green')}]{verdict}[/]"
    yield from _reason_lines(checks)
    yield ""
    yield _check_table(checks)


def _check_table(checks: tuple[Check, ...]) -> Table:
    table = _table(
        "reference", "candidate", "on", "output", "difference", "of bound", "same top-1", "verdict"
    )
    for check in checks:
        names = (check.reference, check.candidate)
        verdict = str(check.certificate.verdict)
        for statistics in check.certificate.statistics:
            agreement = statistics.top1_agreement
            cells = (
                *names,
                statistics.provider,
                statistics.output,
                f"{statistics.max_difference:.2g}",
                "" if statistics.max_bound is None else f"{statistics.max_ratio:.2g}",
                "" if agreement is None else f"{agreement:.0%}",
                verdict,
            )
            table.add_row(*map(escape, cells))
            names, verdict = ("", ""), ""
        if verdict:  # broken before anything was measured
            table.add_row(*map(escape, (*names, "", "", "", "", "", verdict)))
    return table


def _reason_lines(checks: tuple[Check, ...]) -> Iterator[RenderableType]:
    """What the verdict rests on: the reason of the check that has it."""
    verdict = worst(checks)
    for check in checks:
        if check.certificate.verdict == verdict:
            yield escape(f"{check.candidate}: {check.certificate.reason}")
            return


def _file_table(outcome: RewriteOutcome) -> Table:
    table = _table("file", "size")
    table.columns[1].justify = "right"
    for file in outcome.files:
        table.add_row(escape(str(file.path)), _size(file.size_bytes))
    return table


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _count(number: int, singular: str, plural: str | None = None) -> str:
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def _size(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in _UNITS:
        if size < 1000 or unit == _UNITS[-1]:
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
