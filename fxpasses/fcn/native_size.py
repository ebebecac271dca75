"""The native size of a fully convolutional head: the smallest input that it takes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fxpasses.engine import undo
from fxpasses.errors import InputError
from fxpasses.report import Form


def native_size(module: nn.Module | None) -> tuple[int, ...] | None:
    """The smallest input, as spatial extents; None where no rewrite made such a head, or it is not known."""
    records = () if module is None else undo.load(module)
    return next((entry.native for entry in records if entry.to is Form.FCN and entry.native), None)


def require_native(native: Sequence[int] | None, shapes: Sequence[Sequence[int]], where: str) -> None:
    """Returns where no input is smaller than the native size.

    ``native`` is None where there is no such head; ``shapes`` have batch and channels first.

    Raises:
        InputError: the first input with as many spatial axes is smaller along one of them.
    """
    sizes = [tuple(shape[2:]) for shape in shapes]
    given = next((size for size in sizes if native is not None and len(size) == len(native)), None)
    if native is None or given is None or all(a >= b for a, b in zip(given, native, strict=True)):
        return
    least = "x".join(map(str, native))
    raise InputError(
        f"an input of {'x'.join(map(str, given))} is below the native size {least} of its fully"
        " convolutional head, which has no window there",
        where=where,
        fix=f"give inputs of at least {least}",
    )
