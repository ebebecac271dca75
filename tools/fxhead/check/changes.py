"""What differs between a certificate and its repetition."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SINCE = ("asked_precision", "measured_precision", "by_default")
"""What certificates of the same schema lack that were written before it was told."""
# what rounding decides, and with it the version of a kernel or the machine
_FIGURES = frozenset(
    (
        "max_difference",
        "max_difference_ulp",
        "max_bound",
        "max_ratio",
        "worst",
        "top1_certified",
        "margin",
        "bound",
        "expected",
        "found",
        "index",
        "what",
        "reason",
        *SINCE,
    )
)
_ABSENT = "nothing"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CertificateChange:
    """One difference.

    Attributes:
        kind: ``file``, ``version``, ``figure`` or ``result``.
        where: the file, the package, or the field of the checks.
        then: what the certificate says.
        now: what was found.
        counts: whether the certificate does not hold because of it.
    """

    kind: str
    where: str
    then: str
    now: str
    counts: bool


def version_changes(then: Mapping[str, str], now: Mapping[str, str]) -> tuple[CertificateChange, ...]:
    """Versions and machines that differ: they explain other figures, and change no result by themselves."""
    names = dict.fromkeys((*then, *now))
    return tuple(
        CertificateChange(
            kind="version",
            where=name,
            then=then.get(name, _ABSENT),
            now=now.get(name, _ABSENT),
            counts=False,
        )
        for name in names
        if then.get(name) != now.get(name)
    )


def check_changes(
    then: Sequence[Any], now: Sequence[Any], *, is_same_place: bool
) -> tuple[CertificateChange, ...]:
    """Fields of the checks that differ.

    A figure counts where versions and machine are the same: then the same bytes give the same figures.
    """
    # as the file would read: tuples are lists, enums are texts
    repeated = json.loads(json.dumps(list(now)))
    changes = []
    for path, before, after in _differences(list(then), repeated, "checks"):
        is_figure = any(part.partition("[")[0] in _FIGURES for part in path.split("."))
        changes.append(
            CertificateChange(
                kind="figure" if is_figure else "result",
                where=path,
                then=_brief(before),
                now=_brief(after),
                counts=is_same_place or not is_figure,
            )
        )
    return tuple(changes)


def _differences(then: Any, now: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(then, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*then, *now)):
            if key in then or key not in SINCE:
                yield from _differences(then.get(key, _ABSENT), now.get(key, _ABSENT), f"{path}.{key}")
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for index, (a, b) in enumerate(zip(then, now, strict=True)):
            yield from _differences(a, b, f"{path}[{index}]")
    elif then != now or type(then) is not type(now):
        yield path, then, now


def _brief(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} entries"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 120 else text[:119] + "…"
