"""The samples at another size, for models whose head works on maps: they are certified there as well."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from fxexport.subjects.onnx_subject import OnnxSubject
from fxexport.subjects.samples import Rows, Samples
from fxexport.subjects.subject import BatchError, Subject
from fxexport.terms.term import Array, Shape
from fxpasses.errors import first_line

_FIRST_SIZE = 2


def resized(samples: Samples) -> Samples:
    """The samples repeated beyond their edges: a quarter more of the first axis, an eighth of the others."""
    return at_sizes(samples, [_larger(rows.shape) for rows in samples.rows])


def at_sizes(samples: Samples, shapes: Sequence[Sequence[int]]) -> Samples:
    """The samples cut off, or repeated beyond their edges, to be of these shapes but for their number."""
    rows = (
        own if tuple(shape[1:]) == own.shape[1:] else _Wrapped(rows=own, shape=(own.shape[0], *shape[1:]))
        for own, shape in zip(samples.rows, shapes, strict=True)
    )
    return dataclasses.replace(samples, rows=tuple(rows))


def why_not(subject: Subject, samples: Samples) -> str | None:
    """Why a model does not take samples of these sizes, as a clause, or None."""
    feed = samples.ordered(subject.input_names).batch(0, subject.fixed_batch or subject.batches((2,))[0])
    if not isinstance(subject, OnnxSubject):
        try:
            subject.rerun([feed], "")
        except BatchError as error:
            return first_line(error.__cause__ or error)[:200]
        return None
    for shape, array in zip(subject.input_shapes, feed, strict=True):
        fixed = [a for a, b in zip(shape, array.shape[1:], strict=False) if a not in (None, b)]
        if fixed:
            return f"it takes {'x'.join(map(str, shape[1:]))} only"
    return None


def size_of(samples: Samples) -> str:
    """Extents behind the channels, in words."""
    sizes = [rows.shape[_FIRST_SIZE:] for rows in samples.rows if len(rows.shape) > _FIRST_SIZE]
    return " and ".join(dict.fromkeys("x".join(map(str, size)) for size in sizes))


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


def _larger(shape: Shape) -> Shape:
    sizes = enumerate(shape[_FIRST_SIZE:])
    return (*shape[:_FIRST_SIZE], *(extent + -(-extent // (4 if axis == 0 else 8)) for axis, extent in sizes))
