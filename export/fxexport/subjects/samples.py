"""The samples that both models are run on: given, or random in the range that an input takes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from fxexport.terms.arrays import numpy_of
from fxexport.terms.term import Array
from fxexport.untrusted.limits import MAX_SAMPLE_BYTES
from fxpasses.errors import CheckError, InputError

BATCHES = (1, 2, 5)

Inputs = torch.Tensor | Array | Sequence[torch.Tensor | Array] | Mapping[str, torch.Tensor | Array]


class Rows(Protocol):
    """All samples of one input, of which some at a time are read; an array is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``[N, …]``."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the scalars."""

    def __getitem__(self, rows: slice, /) -> Array:
        """Samples from ``rows.start`` to ``rows.stop``, which lie in the range, as an array."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """What a model says about one of its inputs.

    Attributes:
        shape: extents after the batch axis, None where one is open; None where nothing is declared.
        dtype: NumPy's name of the type, None where it has none.
        limit: integers below it are valid (the number of embeddings); None where nobody says.
    """

    name: str
    shape: tuple[int | None, ...] | None
    dtype: str | None
    limit: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Samples:
    """Input samples.

    Attributes:
        names: input names where they were given by name; else empty.
        rows: the samples of each input, all of the same number.
    """

    names: tuple[str, ...]
    rows: tuple[Rows, ...]

    @property
    def count(self) -> int:
        """How many samples there are."""
        return self.rows[0].shape[0]

    def batch(self, start: int, size: int) -> tuple[Array, ...]:
        """``size`` samples from ``start`` on, going round where there are fewer."""
        return tuple(_round(rows, start % self.count, size) for rows in self.rows)

    def ordered(self, names: Sequence[str]) -> Samples:
        """The samples in the order of a model's inputs: by name where all names are known."""
        if len(self.rows) != len(names):
            raise CheckError(
                f"{len(self.rows)} inputs given, the model has {len(names)} ({', '.join(names)})",
                fix="give one array for each input",
            )
        if set(self.names) != set(names):
            return self
        rows = tuple(self.rows[self.names.index(name)] for name in names)
        return Samples(names=tuple(names), rows=rows)


def _round(rows: Rows, start: int, size: int) -> Array:
    """Each sample is read once: where it is an image, it is decoded for that."""
    count = rows.shape[0]
    once = min(size, count)
    end = min(start + once, count)
    parts = [np.asarray(rows[begin:end]) for begin, end in ((start, end), (0, once - (end - start))) if end]
    read = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return read if size == once else np.take(read, np.arange(size) % count, axis=0)


def given_samples(inputs: Inputs | Samples) -> Samples:
    """The samples that the caller gave.

    Raises:
        CheckError: there are none, or the inputs hold different numbers of them.
        InputError: they are no samples at all.
    """
    if isinstance(inputs, Samples):
        return inputs
    names: tuple[str, ...] = ()
    if isinstance(inputs, Mapping):
        names, values = tuple(inputs), tuple(inputs.values())
    elif isinstance(inputs, torch.Tensor | np.ndarray):
        values = (inputs,)
    elif isinstance(inputs, Iterable) and not isinstance(inputs, str | bytes):
        values = tuple(inputs)
    else:
        raise InputError(
            f"is of class {type(inputs).__name__}",
            where="inputs",
            fix="give a tensor [N, …], a sequence of them, or a mapping by input name",
        )
    arrays = tuple(numpy_of(v) if isinstance(v, torch.Tensor) else np.asarray(v) for v in values)
    sizes = {len(array) if array.ndim else 0 for array in arrays}
    if not arrays or len(sizes) != 1 or 0 in sizes:
        raise CheckError(
            "the inputs hold no samples, or not the same number each",
            fix="give arrays of shape [N, …] with the same N of at least 1",
        )
    return Samples(names=names, rows=arrays)


def random_samples(specs: Sequence[InputSpec], count: int, seed: int) -> Samples:
    """``count`` random samples in the range that each input likely takes, the same for the same seed.

    Floats are standard normal, as a standardised image is; uint8 and int8 take every value, as pixels
    do; booleans are even; other integers lie below the number of embeddings that they select from.

    Raises:
        CheckError: an input leaves its shape or its range open, or there is none.
    """
    if not specs:
        raise CheckError("there is no input to run the models on", fix="give models that take one")
    rows = tuple(_random_rows(spec, index, count, seed) for index, spec in enumerate(specs))
    return Samples(names=tuple(spec.name for spec in specs), rows=rows)


def _is_float(kind: np.dtype[Any]) -> bool:
    """True for floating point; bfloat16 is a type that NumPy itself does not know as such."""
    return kind.kind == "f" or kind.name == "bfloat16"


def _random_rows(spec: InputSpec, index: int, count: int, seed: int) -> Rows:
    shape = tuple(extent for extent in spec.shape or () if extent is not None)
    if spec.shape is None or len(shape) < len(spec.shape):
        raise CheckError(
            "no inputs were given, and the shape that it takes is open",
            where=f"input {spec.name!r}",
            fix="give inputs, or a shape",
        )
    if math.prod(shape) * 8 > MAX_SAMPLE_BYTES:
        what = f"one sample takes more than {MAX_SAMPLE_BYTES // 2**30} GiB"
        raise CheckError(what, where=f"input {spec.name!r}", fix="give a model of smaller inputs")
    kind = None if spec.dtype is None else np.dtype(spec.dtype)
    is_small = kind is not None and kind.kind in "biu" and (kind.itemsize == 1 or spec.limit is not None)
    if kind is None or not (is_small or _is_float(kind)):
        raise CheckError(
            f"no inputs were given, and nothing says which values of type {spec.dtype} it takes",
            where=f"input {spec.name!r}",
            fix="give inputs",
        )
    return RandomRows(shape=(count, *shape), dtype=kind, limit=spec.limit, seed=(seed % 2**64, index))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RandomRows:
    """Random samples, each drawn when it is read: they take no memory, however many there are.

    Attributes:
        shape: ``[N, …]``.
        limit: integers lie below it; None lets them take every value.
        seed: with the number of the sample, seeds the generator that draws it.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    limit: int | None
    seed: tuple[int, ...]

    def __getitem__(self, rows: slice, /) -> Array:
        """The samples of a range."""
        return np.stack([self._sample(row) for row in range(rows.start, rows.stop)])

    def _sample(self, row: int) -> Array:
        rng = np.random.Generator(np.random.PCG64([*self.seed, row]))
        shape = self.shape[1:]
        if _is_float(self.dtype):
            return rng.standard_normal(shape).astype(self.dtype)
        if self.dtype.kind == "b":
            return rng.integers(0, 2, shape).astype(bool)
        low, high = (
            (0, self.limit) if self.limit else (np.iinfo(self.dtype).min, np.iinfo(self.dtype).max + 1)
        )
        return rng.integers(low, high, shape, dtype=np.int64).astype(self.dtype)
