"""Outcomes as rich tables and lines, for a person to read at a glance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.markup import escape

from fxhead.cam.outcome import CamOutcome
from fxhead.fitting import FittingTable
from fxhead.memory import memory_lines
from fxhead.replays import replay_lines
from fxhead.results import (
    CheckOutcome,
    ConvertOutcome,
    InspectOutcome,
    ModelInfo,
    Outcome,
    ReplayOutcome,
    RewriteOutcome,
    WrittenFile,
)
from fxhead.study.lines import study_lines
from fxhead.study.outcome import StudyOutcome
from fxhead.units import in_bytes
from fxhead.verdicts import check_verdict, rewrite_verdict

if TYPE_CHECKING:
    from fxhead.data_images import Preparation
    from fxpasses.report import Miss, RewriteReport, Site, TraceInfo


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
    elif isinstance(outcome, ReplayOutcome):
        yield from replay_lines(outcome)
    elif isinstance(outcome, ConvertOutcome):
        yield from _convert_lines(outcome)
    elif isinstance(outcome, CamOutcome):
        yield from _cam_lines(outcome)


def _convert_lines(outcome: ConvertOutcome) -> Iterator[RenderableType]:
    yield f"[bold]{escape(outcome.checkpoint)}[/]  {outcome.container} checkpoint"
    yield ""
    if not outcome.converted:
        yield f"[bold]nothing to convert[/]: it has the {outcome.to} form already; nothing was written"
        return
    table = FittingTable("tensor", "shape")
    for tensor in outcome.converted:
        copied = f" ({in_bytes(tensor.copied_bytes)} reordered)" if tensor.copied_bytes else ""
        table.add(tensor.place, f"{_shape(tensor.before)} → {_shape(tensor.after)}{copied}")
    yield table
    yield ""
    yield _file_table(outcome.files)


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
    if report.memory is not None:
        yield from memory_lines(report.memory)
        yield ""
    if report.native_size is not None:
        native = _shape(report.native_size)
        yield f"native size {native}: one position, more on a larger input, an error on a smaller one"
    if outcome.verdict is None:
        yield "[bold]not checked[/]: --no-onnx; fxhead check REFERENCE CANDIDATE gives the certificate"
    else:
        yield from rewrite_verdict(outcome.verdict, outcome.checks)
    if outcome.files:
        yield ""
        yield _file_table(outcome.files)
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
    yield _model_line(outcome.model, with_container=True)
    if found.sites:
        yield ""
        yield _site_table(found.sites)
    if found.memory is not None and found.memory.sites:
        yield ""
        yield from memory_lines(found.memory)
    yield from _miss_lines(found.misses)
    yield from _trace_lines(found.trace)
    yield ""
    yield f"{_count(len(found.sites), 'site')}, {_count(len(found.misses), 'miss', 'misses')}"


def _check_lines(outcome: CheckOutcome) -> Iterator[RenderableType]:
    yield "reference  " + _model_line(outcome.reference)
    yield "candidate  " + _model_line(outcome.candidate)
    yield ""
    yield from check_verdict(outcome)
    if outcome.files:
        yield ""
        yield _file_table(outcome.files)


def _cam_lines(outcome: CamOutcome) -> Iterator[RenderableType]:
    yield _model_line(outcome.model)
    if not outcome.images:
        yield from _miss_lines(outcome.misses)
        yield ""
        reason = "its head cannot stand before a pool" if outcome.misses else "it has no head behind a pool"
        yield f"[bold]no maps[/]: {reason}; nothing was written"
        return
    yield ""
    table = FittingTable(
        "image", "class", "logit", "highest score", "at x, y", right=("logit", "highest score")
    )
    for image in outcome.images:
        for record in image.classes:
            x, y = record.peak_at
            name = str(image.path) if record is image.classes[0] else ""
            table.add(name, record.name, f"{record.logit:.3f}", f"{record.peak:.3f}", f"{x:.0f}, {y:.0f}")
    yield table
    yield ""
    if outcome.preparation is not None:
        yield f"images: {_preparation(outcome.preparation, outcome.interpolation or '')}"
        yield ""
    yield _file_table(outcome.files)


def _preparation(how: Preparation, interpolation: str) -> str:
    text = f"shorter side {how.resize} ({interpolation}), centre {how.crop}x{how.crop}"
    for name, values in (("mean", how.mean), ("deviation", how.std)):
        text += f", {name} {' '.join(f'{value:g}' for value in values)}" if values else ""
    return text


def _model_line(model: ModelInfo, *, with_container: bool = False) -> str:
    parts = [escape(model.class_name)]
    if with_container and model.container is not None:
        parts = [escape(f"{model.container}: {model.class_name}")]
    if model.parameters is not None:
        parts.append(f"{model.parameters:,} parameters")
    if model.input_shapes:
        shapes = " ".join("x".join(map(str, shape)) for shape in model.input_shapes)
        parts.append(f"input {shapes}" + (" (guessed)" if model.input_origin == "guessed" else ""))
    return f"[bold]{escape(model.source.text)}[/]  " + ", ".join(parts)


def _rewrite_table(report: RewriteReport) -> FittingTable:
    table = FittingTable("site", "before", "after", "weight", "source")
    for rewrite in report.rewrites:
        copied = f" ({in_bytes(rewrite.copied_bytes)} copied)" if rewrite.copied_bytes else ""
        shapes = f"{_shape(rewrite.weight_shape_before)} → {_shape(rewrite.weight_shape_after)}{copied}"
        site = rewrite.site
        table.add(site.name, rewrite.before, rewrite.after, shapes, site.source or "")
    return table


def _site_table(sites: Iterable[Site]) -> FittingTable:
    table = FittingTable("site", "scope", "now", "can become", "node", "source")
    for site in sites:
        other = site.linear if site.form == "conv" else site.conv
        if site.scope == "unfolded" and site.form == "conv":
            other = site.unfolded
        written = site.written(site.form)
        table.add(site.name, site.scope, written, other, site.node, site.source or "")
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


def _file_table(files: Iterable[WrittenFile]) -> FittingTable:
    table = FittingTable("file", "size", right=("size",))
    for file in files:
        table.add(str(file.path), in_bytes(file.size_bytes))
    return table


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _count(number: int, singular: str, plural: str | None = None) -> str:
    return f"{number} {singular if number == 1 else plural or singular + 's'}"
