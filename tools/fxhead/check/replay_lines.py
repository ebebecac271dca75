"""What a repeated certificate shows a person: whether it holds, and what differs."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.markup import escape

from fxhead.check.lines import rewrite_verdict
from fxhead.check.outcome import ReplayOutcome, worst

_SHOWN_CHANGES = 20


def replay_lines(outcome: ReplayOutcome) -> Iterator[RenderableType]:
    """Whether the certificate holds, what differs, and what was found now."""
    was, now = outcome.was, worst(outcome.checks) or ""
    name = escape(str(outcome.certificate))
    if outcome.is_reproduced:
        yield f"[bold green]reproduced[/]: {name} says {was}, with the same layers, and so it is"
    else:
        yield f"[bold red]not reproduced[/]: {name} says {was}, found now: {now}"
    yield from _change_lines(outcome)
    yield ""
    yield from rewrite_verdict(now, outcome.checks)


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
