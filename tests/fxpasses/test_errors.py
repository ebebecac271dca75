"""Errors: they cross from a worker to whoever asked it."""

from __future__ import annotations

import pickle

from fxpasses.errors import SizeError


def test_an_error_is_the_same_after_a_pickle() -> None:
    error = pickle.loads(pickle.dumps(SizeError("has no size", where="net.pt", fix="give one")))
    assert (type(error), error.what, error.where, error.fix) == (
        SizeError,
        "has no size",
        "net.pt",
        "give one",
    )
    assert str(error) == "net.pt: has no size; give one"
