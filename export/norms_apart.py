"""Batch norms as operators of their own in a file, as in the model, whatever stands before them.

torch's exporter multiplies a batch norm into the weights of a convolution before it, and leaves it behind
any other operator. Where a convolution and its form as a matrix product are to be compared, both files
have to keep the norm, so that their weights are the model's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from onnxscript import rewriter
from onnxscript.rewriter.rules.common import _fuse_batchnorm


@contextlib.contextmanager
def norms_apart() -> Iterator[None]:
    """Within it the exporter's optimiser leaves batch norms where they are."""
    rules = rewriter._DEFAULT_REWRITE_RULES
    fusing = {id(rule) for rule in _fuse_batchnorm.rules}
    rewriter._DEFAULT_REWRITE_RULES = tuple(rule for rule in rules if id(rule) not in fusing)
    try:
        yield
    finally:
        rewriter._DEFAULT_REWRITE_RULES = rules
