"""Numbers that somebody typed: however long, they are a number or one error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fxhead.cam.labels import choose_classes
from fxhead.cam.scorer import choose_head
from fxhead.inputs.naturals import natural_in
from fxhead.inputs.options import parse_size
from fxhead.inputs.shapes import parse_shape
from fxpasses.errors import InputError

LONG = "9" * 5_000


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("7", 7), (" 12 ", 12), ("0" * 5_000 + "3", 3), ("000", 0), ("9" * 18, 10**18 - 1)]
    + [(text, None) for text in ("", " ", "-1", "1.0", "1_0", "x", "\u00b2", "\u0663", "9" * 19, LONG)],
)
def test_digits_are_a_number_and_nothing_else_is(text: str, number: int | None) -> None:
    assert natural_in(text) == number


@pytest.mark.parametrize(
    "read",
    [
        parse_size,
        lambda text: parse_size(f"8,{text}"),
        parse_shape,
        lambda text: parse_shape(f"1x3x{text}"),
        lambda text: choose_classes([text], ["a", "b"], 2),
        lambda text: choose_head(["one", "two"], text),
    ],
    ids=["size", "crop", "shape", "extent", "class", "head"],
)
def test_a_number_without_end_is_one_error(read: Callable[[str], Any]) -> None:
    with pytest.raises(InputError):
        read(LONG)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 10**30])
def test_a_seed_that_torch_does_not_take_is_one_error(run: Callable[..., Any], seed: int) -> None:
    done = run("inspect", "torchvision:alexnet", "--seed", str(seed))
    assert (done.code, "a seed lies between" in done.err) == (2, True)


def test_memory_without_end_is_one_error(run: Callable[..., Any], folder: Path) -> None:
    done = run("batch", "model.pt", "--to", "conv", "-o", "out", "--memory", "9" * 400)
    assert (done.code, "no number of bytes" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("options", "says"), [(("--timeout", "nan"), "no number of seconds"), (("--memory", "0"), "in no memory")]
)
def test_a_limit_that_limits_nothing_is_one_error(
    run: Callable[..., Any], folder: Path, options: tuple[str, ...], says: str
) -> None:
    done = run("batch", "model.pt", "--to", "conv", "-o", "out", *options)
    assert (done.code, says in done.err) == (2, True)
