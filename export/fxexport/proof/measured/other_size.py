"""The samples at another size, for models whose head works on maps: they are certified there as well."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fxexport.subjects.onnx_subject import OnnxSubject
from fxexport.subjects.samples import Rows, Samples
from fxexport.subjects.subject import BatchError, Subject
from fxexport.terms.term import Array, Shape
from fxpasses.errors import first_line


def map_axes(samples: Samples, sides: Iterable[Subject]) -> tuple[slice, ...]:
    """The axes of each input that are a map's.

    They are those behind the channels, or where a file leaves the first axis open and fixes the last, before.
    """
    files = [side for side in sides if isinstance(side, OnnxSubject)]
    found = []
    for place, name in enumerate(samples.names or [""] * len(samples.rows)):
        shapes = [_declared(side, place, name) for side in files]
        is_last = any(len(shape) > 1 and shape[0] is None and shape[-1] is not None for shape in shapes)
        found.append(slice(1, -1) if is_last else slice(2, None))
    return tuple(found)


def _declared(side: OnnxSubject, place: int, name: str) -> Sequence[int | None]:
    """The extents that a file declares of an input, without the batch."""
    names = side.input_names
    return side.input_shapes[names.index(name) if name in names else place]


def resized(samples: Samples, axes: Sequence[slice], *, is_doubled: bool = False) -> Samples:
    """The samples repeated beyond their edges: a quarter more of the first axis, an eighth of the others.

    With ``is_doubled`` twice as much of each, which models take whose maps have to come out even.
    """
    pairs = zip(samples.rows, axes, strict=True)
    return at_sizes(samples, [_larger(rows.shape, map_, is_doubled=is_doubled) for rows, map_ in pairs])


def at_sizes(samples: Samples, shapes: Sequence[Sequence[int]]) -> Samples:
    """The samples cut off, or repeated beyond their edges, to be of these shapes but for their number."""
    rows = (
        own if tuple(shape[1:]) == own.shape[1:] else _Wrapped(rows=own, shape=(own.shape[0], *shape[1:]))
        for own, shape in zip(samples.rows, shapes, strict=True)
    )
    return dataclasses.replace(samples, rows=tuple(rows))


def why_not(subject: Subject, samples: Samples, provider: str = "cpu") -> str | None:
    """Why a model does not take samples of these sizes, as a clause, or None."""
    feed = samples.ordered(subject.input_names).batch(0, subject.fixed_batch or subject.batches((2,))[0])
    shapes = subject.input_shapes if isinstance(subject, OnnxSubject) else ()
    for shape, array in zip(shapes, feed, strict=False):
        fixed = [a for a, b in zip(shape, array.shape[1:], strict=False) if a not in (None, b)]
        if fixed:
            return f"it takes {'x'.join(str(extent or '?') for extent in shape)} only"
    try:
        subject.rerun([feed], provider)
    except BatchError as error:
        return first_line(error.__cause__ or error)[:200]
    return None


def size_of(samples: Samples, axes: Sequence[slice]) -> str:
    """Extents of the maps, in words."""
    sizes = [rows.shape[map_] for rows, map_ in zip(samples.rows, axes, strict=True)]
    return " and ".join(dict.fromkeys("x".join(map(str, size)) for size in sizes if size))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Wrapped:
    """Rows of another size; each is repeated beyond its edges."""

    rows: Rows
    shape: Shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.rows.dtype

    def __getitem__(self, rows: slice, /) -> Array:
        array = np.asarray(self.rows[rows])
        for axis, extent in enumerate(self.shape[1:], 1):
            if extent != array.shape[axis]:
                array = array.take(np.arange(extent) % array.shape[axis], axis)
        return array


def _larger(shape: Shape, axes: slice, *, is_doubled: bool) -> Shape:
    sizes = enumerate(shape[axes])
    made = (extent + -(-extent // (1 if is_doubled else 4 if axis == 0 else 8)) for axis, extent in sizes)
    return (*shape[: axes.start], *made, *(() if axes.stop is None else shape[axes.stop :]))
