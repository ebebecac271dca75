"""Errors: they cross from a worker to whoever asked it."""

from __future__ import annotations

import pickle

from fxpasses.errors import FileError, SizeError, suggest


def test_an_error_is_the_same_after_a_pickle() -> None:
    error = pickle.loads(pickle.dumps(SizeError("has no size", where="net.pt", fix="give one")))
    assert (type(error), error.what, error.where, error.fix) == (
        SizeError,
        "has no size",
        "net.pt",
        "give one",
    )
    assert str(error) == "net.pt: has no size; give one"


def test_what_a_file_says_makes_no_endless_error() -> None:
    error = FileError("is no " + "x" * 10**6 + " at all", where="y" * 10**6, fix="give " + "z" * 10**6)
    assert len(str(error)) < 20_000
    assert error.what.startswith("is no x")
    assert error.what.endswith("x at all")
    assert len(str(pickle.loads(pickle.dumps(error)))) < 20_000


def test_of_very_many_names_some_are_told() -> None:
    known = [f"net{number}" for number in range(1_000)]
    assert suggest("nett7", known) == "did you mean 'net7'?"
    assert suggest("xyz", known).startswith("use one of 1,000 names, such as 'net0', 'net1'")
    assert len(suggest("xyz", known)) < 100
