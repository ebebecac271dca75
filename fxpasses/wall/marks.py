"""Which models in memory came from a file that nobody vouched for: what they run, runs inside the wall."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Hashable, Iterator
from typing import Any

from fxpasses.wall.clock import add_bytes, is_limited
from fxpasses.wall.wall import walled

_marked: weakref.WeakSet[object] = weakref.WeakSet()


def mark_unvouched(model: object) -> None:
    """Remembers that the model came from such a file, and each module in it, which may be used alone."""
    modules = getattr(model, "modules", None)
    _marked.update([model] if modules is None else modules())


def is_unvouched(model: object) -> bool:
    """Whether it did, or was made of one that did."""
    return isinstance(model, Hashable) and model in _marked


def tensors_of(model: Any) -> Iterator[Any]:
    """The parameters and buffers of a module or program."""
    yield from model.parameters()
    yield from model.buffers()


@contextlib.contextmanager
def walled_for(*models: object) -> Iterator[None]:
    """``walled`` where each of the models came from such a file, or is the path of a file.

    A model of the caller's own may do as it likes, and does so beside others too.
    """
    files = [model for model in models if isinstance(model, str | os.PathLike)]
    others = [model for model in models if not isinstance(model, str | os.PathLike)]
    if all(map(is_unvouched, others)):
        names = [*map(os.fsdecode, files), *(type(model).__name__ for model in others)]
        # a wall that is up already has seen the files
        given = [] if is_limited() else [tensor for model in others for tensor in tensors_of(model)]
        with walled(" and ".join(names)):
            if given:
                add_bytes(sum(tensor.nbytes for tensor in given))
            yield
    else:
        yield
