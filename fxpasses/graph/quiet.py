"""torch's tracers kept to themselves: what matters of them reaches the caller as an exception."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator

from fxpasses.private_names import FUNCTORCH


@contextlib.contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Within it the named loggers report critical events only."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def quiet_export() -> Iterator[None]:
    """Within it ``torch.export`` neither logs nor prints the graph on which it failed."""
    with quiet("torch.fx", "torch.export", "torch._export"), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def quiet_trial() -> Iterator[None]:
    """Within it nobody is told of an operator that refuses its input: that is what is being tried out."""
    with quiet("torch._subclasses.fake_tensor"), contextlib.redirect_stderr(io.StringIO()):
        yield  # a GraphModule prints its source text


@contextlib.contextmanager
def quiet_failure() -> Iterator[None]:
    """Within it what is written to stderr waits, and is dropped if an exception follows.

    A call of a GraphModule that fails prints its source text before it raises. And a graph that fails within
    what was a ``torch.vmap`` leaves that begun: no function of torch that draws random numbers would work.
    """
    held, others = io.StringIO(), sys.stderr
    depth = FUNCTORCH.get_dynamic_layer_stack_depth()
    try:
        with contextlib.redirect_stderr(held):
            yield
    finally:
        with contextlib.suppress(RuntimeError):  # torch 2.11 fails once it has taken the last one
            FUNCTORCH.pop_dynamic_layer_stack_and_undo_to_depth(depth)
    others.write(held.getvalue())
