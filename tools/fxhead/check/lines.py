"""A certificate for a person: what is broken first, then what each layer established, and on what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from fxhead.check.outcome import Check
from fxhead.show.fitting_table import FittingTable
from fxhead.show.tables import count_text

if TYPE_CHECKING:
    from fxexport.results import Certificate, Coverage, Failure, LayerResult, TargetResult
    from fxhead.inputs.samples import DataRecord

_VERDICT_STYLES = {"broken": "bold red", "inconclusive": "bold yellow"}
_STATUS_STYLES = {"failed": "bold red", "not run": "yellow"}
_SHOWN_FLIPS = 10
_COVERED = {
    "parameters": ("parameter", "parameters"),
    "probes": ("exact probe", "exact probes"),
    "nodes": ("pair of operators", "pairs of operators"),
    "logits": ("output value", "output values"),
    "samples": ("decision", "decisions"),
}


def verdict_line(verdict: str) -> str:
    """The one line that matters."""
    return f"verdict: [{_VERDICT_STYLES.get(verdict, 'bold green')}]{verdict}[/]"


def rewrite_verdict(verdict: str, checks: tuple[Check, ...]) -> Iterator[RenderableType]:
    """The verdict over the checks of a rewrite, and one row for each of them."""
    yield verdict_line(verdict)
    check = next(check for check in checks if check.certificate.verdict == verdict)
    if any(layer.failures for layer in check.certificate.layers):
        yield escape(f"{check.candidate} against {check.reference}:")
        yield from _failure_lines(check.certificate)
    else:
        yield escape(f"{check.candidate}: {check.certificate.reason}")
    for each in checks:
        yield from _integer_lines(each.certificate)
    yield ""
    yield _check_table(checks)


def certificate_lines(certificate: Certificate) -> Iterator[RenderableType]:
    """What is broken or the reason of the verdict; the layers; the outputs; the flips."""
    failures = [*_failure_lines(certificate)]
    yield from failures or [escape(certificate.reason)]
    if certificate.witness is not None:
        yield escape(str(certificate.witness))
    yield from (escape(f"scope: {sentence}") for sentence in certificate.scope)
    yield from _target_lines(certificate)
    yield ""
    yield _layer_table(certificate)
    if certificate.statistics:
        yield ""
        yield _output_table(certificate)
    yield from _flip_lines(certificate)


def _failure_lines(certificate: Certificate) -> Iterator[RenderableType]:
    """The first layer that failed, with its values; then the other failures, a line each."""
    failed = [layer for layer in certificate.layers if layer.failures]
    if not failed:
        return
    first = failed[0].failures[0]
    yield _failure_line(failed[0], first)
    if first.expected is not None and first.found is not None:
        yield Padding(_values(first.expected, first.found, first.bound), (0, 0, 0, 2))
    others = [(layer, failure) for layer in failed for failure in layer.failures][1:]
    # one of each layer says more than all of one
    shown = dict(reversed([(layer.layer, failure) for layer, failure in others]))
    for layer in failed:
        if layer.layer in shown:
            yield escape(f"also {layer.layer}: {shown[layer.layer]}")
    if len(others) > len(shown):
        yield f"… and {len(others) - len(shown)} more; --json lists them"


def _failure_line(layer: LayerResult, failure: Failure) -> str:
    place = "" if failure.index is None else f"[{', '.join(map(str, failure.index))}]"
    name = "" if failure.name is None else f"{failure.name}{place}: "
    who = " ".join(part for part in (failure.side, failure.provider and f"on {failure.provider}") if part)
    text = escape(f"{name}{failure.what}" + (f" ({who})" if who else ""))
    return f"[bold red]{layer.layer} failed[/]: {text}"


def _values(expected: float, found: float, bound: float | None) -> FittingTable:
    """The two values and what may lie between them."""
    rows = FittingTable("expected", "found", "difference", "allowed")
    allowed = "none: equal bit for bit is due" if bound is None else f"{bound:.3g}"
    rows.add(f"{expected:.9g}", f"{found:.9g}", f"{abs(found - expected):.3g}", allowed)
    return rows


def _layer_table(certificate: Certificate) -> FittingTable:
    table = FittingTable("layer", "on", "result", "what was compared", prose="what was compared")
    for on, layer in layer_results(certificate):
        status = Text(str(layer.status), style=_STATUS_STYLES.get(layer.status, "green"))
        reason = None if layer.failures else layer.reason
        parts = [part for part in (covered(layer.covered), reason) if part]
        table.add(str(layer.layer), on, status, "; ".join(parts))
    return table


def layer_results(certificate: Certificate) -> Iterator[tuple[str, LayerResult]]:
    """The layers in their order, each on every target where it is established anew on each."""
    targets = certificate.targets
    yield "", certificate.weights
    yield from ((_target(target), target.wiring) for target in targets)
    yield "", certificate.backbone
    yield from ((_target(target), target.rounding) for target in targets)
    yield from ((_target(target), target.decision) for target in targets)


def _target(target: TargetResult) -> str:
    return target.provider if target.mode == "strict" else f"{target.provider} {target.mode}"


def _target_lines(certificate: Certificate) -> Iterator[RenderableType]:
    """What holds with a provider's own defaults, on which the verdict does not rest, and who is not exact."""
    for target in certificate.targets:
        if target.mode == "defaults":
            yield escape(f"with the defaults of {target.provider}: {target.verdict}: {target.reason}")
        if target.coarser is not None:
            yield escape(f"precision: {target.coarser}")
    yield from _integer_lines(certificate)


def _integer_lines(certificate: Certificate) -> Iterator[RenderableType]:
    yield from (escape(f"integer kernels: {sentence}") for sentence in certificate.integer_kernels)


def covered(coverage: Coverage) -> str:
    """How much a layer looked at, in words."""
    parts = []
    for field, (one, many) in _COVERED.items():
        count = getattr(coverage, field)
        if count:
            parts.append(f"{count:,} {one if count == 1 else many}")
    return ", ".join(parts)


def _output_table(certificate: Certificate) -> FittingTable:
    numbers = ("difference", "of bound", "top-1", "top-5", "certified", "samples")
    table = FittingTable("output", "on", *numbers, right=numbers)
    for record in certificate.statistics:
        table.add(
            record.output,
            record.provider,
            f"{record.max_difference:.2g}",
            "" if record.max_ratio is None else f"{record.max_ratio:.2g}",
            percent(record.top1_agreement),
            percent(record.top5_agreement),
            percent(record.top1_certified),
            f"{record.samples:,}" if record.samples else "",
        )
    return table


def percent(share: float | None) -> str:
    """A share; 100% only where it is all, and 0% only where it is none."""
    if share is None:
        return ""
    if share in (0.0, 1.0):
        return f"{share:.0%}"
    return f"{min(max(share, 0.0001), 0.9999):.2%}"


def _flip_lines(certificate: Certificate) -> Iterator[RenderableType]:
    count = sum(record.flips for record in certificate.statistics)
    if not count:
        return
    yield ""
    yield f"[bold]flips[/]: {count:,} {'sample changes' if count == 1 else 'samples change'} class"
    numbers = ("sample", "reference", "candidate", "margin", "explained by rounding")
    table = FittingTable("output", "on", *numbers, right=numbers[:-1])
    for flip in certificate.flips[:_SHOWN_FLIPS]:
        explained = (
            ""
            if flip.bound is None
            else f"{'yes' if flip.margin <= flip.bound else 'no'}, up to {flip.bound:.2g}"
        )
        table.add(
            flip.output,
            flip.provider,
            str(flip.sample),
            str(flip.reference_class),
            str(flip.candidate_class),
            f"{flip.margin:.2g}",
            explained,
        )
    yield table
    if count > _SHOWN_FLIPS:
        listed = len(certificate.flips)
        told = "all" if listed == count else f"{listed:,} of them"
        yield f"… and {count - _SHOWN_FLIPS:,} more; --json lists {told}"


def _check_table(checks: Sequence[Check]) -> FittingTable:
    table = FittingTable(
        "candidate", "reference", "on", "output", "difference", "of bound", "top-1", "verdict"
    )
    for check in checks:
        names = (check.candidate, check.reference)
        verdict = str(check.certificate.verdict)
        style = _VERDICT_STYLES.get(verdict, "green")
        for record in check.certificate.statistics:
            table.add(
                *names,
                record.provider,
                record.output,
                f"{record.max_difference:.2g}",
                "" if record.max_ratio is None else f"{record.max_ratio:.2g}",
                percent(record.top1_agreement),
                Text(verdict, style=style),
            )
        if not check.certificate.statistics:  # broken before anything was measured
            table.add(*names, "", "", "", "", "", Text(verdict, style=style))
    return table


def describe_data(data: DataRecord, seed: int) -> str:
    """Which samples were run, as a clause."""
    inputs = ", ".join(
        f"{spec.name} {'x'.join(map(str, spec.shape or ()))} {spec.dtype}" for spec in data.inputs
    )
    if data.kind == "random":
        return f"{count_text(data.samples, 'random sample')} (seed {seed}), {inputs}"
    if data.preparation is None:
        return f"{count_text(data.samples, 'sample')} of {data.path}, {inputs}"
    how = data.preparation
    left_out = f"; {count_text(data.left_out, 'other file')} left out" if data.left_out else ""
    return f"{count_text(data.samples, 'image')} of {data.path}, {how}, {inputs}{left_out}"
