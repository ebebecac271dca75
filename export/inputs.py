"""The batches that both models are run on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from export.arrays import numpy_of
from export.heads import OnnxSubject
from export.terms import Array
from fxpasses.errors import CheckError

BATCHES = (1, 2, 5)

Inputs = torch.Tensor | Array | Sequence[torch.Tensor | Array] | Mapping[str, torch.Tensor | Array]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Samples:
    """Input samples.

    Attributes:
        names: input names where they were given by name; else empty.
        arrays: one array ``[N, …]`` for each input.
    """

    names: tuple[str, ...]
    arrays: tuple[Array, ...]

    def batch(self, start: int, size: int) -> tuple[Array, ...]:
        """``size`` samples from ``start`` on, going round where there are fewer."""
        rows = (start + np.arange(size)) % len(self.arrays[0])
        return tuple(array[rows] for array in self.arrays)

    def ordered(self, names: Sequence[str]) -> Samples:
        """The samples in the order of a model's inputs: by name where all names are known."""
        if len(self.arrays) != len(names):
            raise CheckError(
                f"{len(self.arrays)} inputs given, the model has {len(names)} ({', '.join(names)})",
                fix="give one array for each input",
            )
        if set(self.names) != set(names):
            return self
        arrays = tuple(self.arrays[self.names.index(name)] for name in names)
        return Samples(names=tuple(names), arrays=arrays)


def given_samples(inputs: Inputs) -> Samples:
    """The samples that the caller gave.

    Raises:
        CheckError: there are none, or the inputs hold different numbers of them.
    """
    names: tuple[str, ...] = ()
    if isinstance(inputs, Mapping):
        names, values = tuple(inputs), tuple(inputs.values())
    elif isinstance(inputs, torch.Tensor | np.ndarray):
        values = (inputs,)
    else:
        values = tuple(inputs)
    arrays = tuple(numpy_of(v) if isinstance(v, torch.Tensor) else np.asarray(v) for v in values)
    sizes = {len(array) if array.ndim else 0 for array in arrays}
    if not arrays or len(sizes) != 1 or 0 in sizes:
        raise CheckError(
            "the inputs hold no samples, or not the same number each",
            fix="give arrays of shape [N, …] with the same N of at least 1",
        )
    return Samples(names=names, arrays=arrays)


def _is_float(kind: np.dtype[Any] | None) -> bool:
    """True for floating point; bfloat16 is a type that NumPy itself does not know as such."""
    return kind is not None and (kind.kind == "f" or kind.name == "bfloat16")


def random_samples(subject: OnnxSubject, seed: int) -> Samples:
    """Standard normal samples in the shapes that an ONNX file declares, eight of them.

    Raises:
        CheckError: the file leaves a shape open or has an input that is not floating point.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    arrays = []
    for value in subject.inputs:
        dims = None if value.shape is None else [d if isinstance(d, int) else None for d in value.shape]
        kind = None if value.dtype is None else value.dtype.numpy()
        if dims is None or None in dims[1:] or not _is_float(kind):
            raise CheckError(
                f"no inputs were given, and input {value.name!r} has no fixed shape of floats",
                where=subject.name,
                fix="give inputs",
            )
        shape = [extent for extent in dims[1:] if extent is not None]
        arrays.append(rng.standard_normal((sum(BATCHES), *shape)).astype(kind))
    return Samples(names=subject.input_names, arrays=tuple(arrays))
