"""Sizes that a file computes stay right where the value that they are of changes its axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fxexport.onnx_dialect.rewrite import rewrite_onnx
from onnx_files import classifier, images, operators, require_same, weights

CONSTANTS: dict[str, Any] = {
    **{f"at{place}": np.array([place]) for place in range(4)},
    **{"rows": np.array([0, 8, -1]), "six": np.array([6]), "five": np.array([5])},
    "w": weights(8, 5),
}
TOKENS = (
    "a = Reshape(r, rows) q = Transpose<perm=[0,2,1]>(a) t = MatMul(q, w) s = Shape(t) n = Gather(s, at0) "
)
AGAIN = "u = Transpose<perm=[0,2,1]>(t) v = Reshape(u, c) y = ReduceMean<axes=[-2,-1],keepdims=0>(v)"
EXTENTS = "d = Shape(r) h = Gather(d, at2) l = Gather(d, at3) "

FILES = {
    "channels": "k = Gather(s, at2) c = Concat<axis=0>(n, k, six, six) " + AGAIN,
    "tokens": "k = Gather(s, at1) c = Concat<axis=0>(n, five, k, at1) " + AGAIN,
}


@pytest.mark.parametrize("name", FILES)
def test_they_are_those_of_the_value_as_it_was(name: str) -> None:
    """The file went on asking for the shape of a value of other axes, and did not run."""
    model = classifier(TOKENS + FILES[name], CONSTANTS)
    made = rewrite_onnx(model, to="conv", scope="all")
    assert len(made.report.rewrites) == 1
    require_same(model, made.module, images())


def test_open_ones_that_fit_each_other_at_one_size_alone_are_no_error() -> None:
    """The file was called broken, since nothing shows that 6 times 6 is height times width."""
    model = classifier(TOKENS + FILES["channels"], CONSTANTS, dims="N,3,H,W")
    made = rewrite_onnx(model, to="conv", scope="all")
    assert len(made.report.rewrites) == 1
    require_same(model, made.module, images())


def test_those_of_the_inputs_that_were_given_are_computed_on() -> None:
    """They were numbers, and the new file one for inputs of this size."""
    body = TOKENS + EXTENTS + "k = Gather(s, at2) c = Concat<axis=0>(n, k, h, l) " + AGAIN
    model = classifier(body, CONSTANTS, dims="N,3,H,W")
    made = rewrite_onnx(model, to="conv", scope="all", input_shapes=[(1, 3, 6, 6)])
    assert len(made.report.rewrites) == 1
    assert "Conv" in operators(made.module)
    for size in (6, 8):
        require_same(model, made.module, images(3, size=size))
