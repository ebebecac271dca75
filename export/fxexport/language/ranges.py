"""For which extents of its inputs a recording is the module.

Guards on one extent are tried at every extent up to a limit, so that the range that comes of them is exact.
What is asked of several extents together is told as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fxexport.language.graph import Dims, GraphInput
from fxexport.language.guards import Condition, NotUnderstood, Symbol, conditions

MOST = 2**14
"""The largest extent at which guards are tried."""

_BELOW = 6
"""About so many extents below all ranges are tried, of all axes together."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """What was taken for granted about extents.

    Attributes:
        symbols: of each input what its axes have as extents.
        ranges: for each symbol the smallest and the largest extent; None where there is no largest.
        conditions: what has to hold besides.
        outside: extents of all inputs, below the recorded ones, at which something does not hold.
        fixed: the same above them, and beside those that were to be free and that torch fixed or tied.
    """

    symbols: tuple[tuple[Symbol, ...], ...]
    ranges: dict[str, tuple[int, int | None]]
    conditions: tuple[Condition, ...]
    outside: tuple[tuple[Dims, ...], ...]
    fixed: tuple[tuple[Dims, ...], ...]

    def ranged(self, inputs: Sequence[GraphInput]) -> tuple[GraphInput, ...]:
        """The inputs with the ranges of their axes."""
        found = []
        for item, own in zip(inputs, self.symbols, strict=True):
            ranges = [self.ranges[axis] if isinstance(axis, str) else (axis, axis) for axis in own]
            least, most = tuple(low for low, _ in ranges), tuple(high for _, high in ranges)
            found.append(dataclasses.replace(item, least=least, most=most))
        return tuple(found)

    def takes(self, wanted: Sequence[Dims]) -> bool:
        """Whether the recording is the module where some extents are these numbers."""
        fixed: dict[str, int] = {}
        for axes, own in zip(self.symbols, wanted, strict=True):
            for axis, extent in zip(axes, own, strict=True):
                if extent is None:
                    continue
                if extent != (axis if isinstance(axis, int) else fixed.setdefault(axis, extent)):
                    return False
        for name, extent in fixed.items():
            low, high = self.ranges[name]
            if extent < low or (high is not None and extent > high):
                return False
        return all(bool(item.holds(fixed)) for item in self.conditions if item.symbols <= set(fixed))


def granted(
    guards: Sequence[str],
    inputs: Sequence[GraphInput],
    shapes: Sequence[tuple[int, ...]],
    free: Sequence[Dims],
    names: Mapping[str, str],
) -> Granted:
    """Reads the guards of a recording.

    Args:
        guards: as torch writes them.
        inputs: what was recorded.
        shapes: at which extents.
        free: None for those that were to be free.
        names: what inputs are called to users, where that is otherwise.

    Raises:
        NotUnderstood: one of them is of no known form, or did not hold.
    """
    symbols = tuple(
        tuple(key or extent for key, extent in zip(item.same, shape, strict=True))
        for item, shape in zip(inputs, shapes, strict=True)
    )
    recorded = {
        axis: extent
        for own, shape in zip(symbols, shapes, strict=True)
        for axis, extent in zip(own, shape, strict=True)
        if isinstance(axis, str)
    }
    axes = {
        (item.name, place): axis
        for item, own in zip(inputs, symbols, strict=True)
        for place, axis in enumerate(own)
    }
    found = [item for guard in dict.fromkeys(guards) for item in conditions(guard, axes, names)]
    false = next((item.text for item in found if not item.holds(recorded)), None)
    if false is not None:
        raise NotUnderstood(f"its guard {false} does not hold")
    runs, ends = _runs(found, recorded, _declared(inputs))
    every = {name: np.arange(low, high + 1, dtype=np.float64) for name, (low, high) in runs.items()}
    left = []
    for item in (item for item in found if len(item.symbols) > 1):
        name = item.kept_by(every)
        if name is None:
            left.append(item)
        else:
            ends[name] = runs[name][1]
    outside: list[tuple[Dims, ...]] = []
    fixed = list(_not_free(symbols, shapes, free))
    for extents in _failing(runs, left, recorded):
        dims = tuple(
            tuple(extents[axis] if isinstance(axis, str) else axis for axis in own) for own in symbols
        )
        # below an end are few extents, and where maps vanish; above one lies what nobody has recorded
        is_above = any(extents[name] > extent for name, extent in recorded.items())
        (fixed if is_above else outside).append(dims)
    return Granted(
        symbols=symbols,
        ranges={name: (low, ends[name]) for name, (low, _) in runs.items()},
        conditions=tuple(left),
        outside=tuple(dict.fromkeys(outside)),
        fixed=tuple(dict.fromkeys(fixed)),
    )


def _declared(inputs: Sequence[GraphInput]) -> dict[str, tuple[int, int | None]]:
    """The range of each symbol that torch itself assumes: 0 and 1 are other extents to it than the rest."""
    return {
        key: (low, high)
        for item in inputs
        for key, low, high in zip(item.same, item.least, item.most, strict=True)
        if key is not None
    }


def _runs(
    found: Sequence[Condition], recorded: Mapping[str, int], declared: Mapping[str, tuple[int, int | None]]
) -> tuple[dict[str, tuple[int, int]], dict[str, int | None]]:
    """The extents around the recorded ones at which all holds, and where they end; None for nowhere."""
    runs: dict[str, tuple[int, int]] = {}
    ends: dict[str, int | None] = {}
    every = np.arange(MOST + 1, dtype=np.float64)
    for name, start in recorded.items():
        least, most = declared[name]
        fails = (every < least) | (every > (MOST if most is None else most))
        own = [item for item in found if item.symbols == {name}]
        for item in own:
            fails |= ~item.holds({name: every})
        if start > MOST:
            raise NotUnderstood(f"an extent of {start:,}, of more than {MOST:,}")
        places = np.flatnonzero(fails)
        low = int(max(places[places < start], default=-1)) + 1
        high = int(min(places[places > start], default=MOST + 1)) - 1
        runs[name] = low, high
        ends[name] = None if high == MOST and most is None and all(item.is_least for item in own) else high
    return runs, ends


def _failing(
    runs: Mapping[str, tuple[int, int]], conditions: Sequence[Condition], recorded: Mapping[str, int]
) -> Iterator[dict[str, int]]:
    """Extents nearest to the recorded ones at which something does not hold."""
    for name, (low, high) in runs.items():
        for extent in (low - 1, low - 2, high + 1):
            if 0 < extent < MOST:
                yield dict(recorded) | {name: extent}
    for extent in _spread(max((low for low, _ in runs.values()), default=0)):
        yield {name: min(extent, start) for name, start in recorded.items()}
    every = np.arange(MOST, dtype=np.float64)
    for item in conditions:
        for names in (*({name} for name in sorted(item.symbols)), item.symbols):
            fails: Any = np.flatnonzero(~item.holds(dict(recorded) | dict.fromkeys(names, every)))
            # past the end of a range, the range says so
            fails = fails[fails >= max(runs[name][0] for name in names)]
            fails = fails[fails <= min(runs[name][1] for name in names)]
            start = max(recorded[name] for name in names)
            for extent in (*fails[(fails < start) & (fails > 0)][-1:], *fails[fails > start][:1]):
                beyond = dict(recorded) | dict.fromkeys(names, int(extent))
                within = {name: min(place, recorded[name]) for name, place in beyond.items()}
                yield beyond if item.holds(within) else within  # a batch may stand above for nothing


def _spread(end: int) -> list[int]:
    """Extents below ``end``, the largest first: all of a few, of many some, even and odd ones."""
    step = max(1, end // _BELOW) | 1
    return list(range(end - 1, 0, -step))


def _not_free(
    symbols: Sequence[Sequence[Symbol]], shapes: Sequence[tuple[int, ...]], free: Sequence[Dims]
) -> Iterator[tuple[Dims, ...]]:
    """Extents next to those that were to be free, and that torch fixed or tied to others."""
    seen: set[str] = set()
    for number, (own, shape, dims) in enumerate(zip(symbols, shapes, free, strict=True)):
        for place, (axis, extent, wanted) in enumerate(zip(own, shape, dims, strict=True)):
            is_tied = isinstance(axis, str) and axis in seen and place > 0
            if isinstance(axis, str):
                seen.add(axis)
            if wanted is None and (is_tied or isinstance(axis, int)):
                for other in (extent - 1, extent + 1, 2 * extent):
                    if other > 0:
                        yield _with(shapes, number, place, other)
    if any(
        extent is None and isinstance(axis, int)
        for own, dims in zip(symbols, free, strict=True)
        for axis, extent in zip(own[2:], dims[2:], strict=True)
    ):
        yield tuple((*shape[:2], *(2 * extent for extent in shape[2:])) for shape in shapes)


def _with(shapes: Sequence[tuple[int, ...]], number: int, place: int, extent: int) -> tuple[Dims, ...]:
    changed = list(shapes[number])
    changed[place] = extent
    return (*shapes[:number], tuple(changed), *shapes[number + 1 :])
