"""Every name in a file has a type with a stated alphabet, made in one place."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fxexport.untrusted import names
from fxexport.untrusted.refused import Refused

Make = Callable[[object], str]
EVIL = ['x"); y = 1', "x'", "x y", "x\n", "x\r", "x\\", "x\0", "x=1", "x,y", "é", "ﬁ", "x\u2028", "x\ud800",
        "(x)", "x#", "x;y", "__class__", "__init__", "", 5, None, b"x", ["x"], "x" * 1001]  # fmt: skip


@pytest.mark.parametrize("make", [names.name, names.part, names.path, names.member, names.variable])
@pytest.mark.parametrize("value", EVIL, ids=ascii)
def test_what_would_be_more_than_a_name_in_source_text_is_none(make: Make, value: object) -> None:
    with pytest.raises(Refused) as caught:
        make(value)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (names.name, ["fc", "0", "3x3", "_a", "_Net__x", "lambda", "x" * 1000]),
        (names.part, ["fc", "0", "block1-0"]),
        (names.path, ["fc.weight", "layers.0.3x3.bias", "a", "block1.block1-0.proj"]),
        (names.member, ["fc.weight", "0.weight", "block.graph.weight", "_tensor_constant0", "a-0.b"]),
        (names.variable, ["x", "args_0", "_x", "None_"]),
        (names.word, ["", "bilinear", "mean", "cpu:0", "a b-c"]),
        (names.text, ["File \"net.py\", line 3\n\tx = 1", "é"]),
    ],
)  # fmt: skip
def test_what_models_have_is_one(make: Make, values: list[str]) -> None:
    assert [make(value) for value in values] == values


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (names.name, ["a.b", "a-b"]),
        (names.part, ["a.b"]),
        (names.path, ["a..b", ".a", "a.", "a.__class__", "a.b c"]),
        (names.member, ["forward", "graph.weight", "code", "block.forward", "class.a", "a.class"]),
        (names.variable, ["0", "3x3", "lambda", "None", "class", "a.b", "a-b"]),
        (names.word, ["'", '"', "a\nb", "(", "{x}", "\\", "x" * 201]),
        (names.text, ["\x1b[2J", "\r", "\0", "\u2028", "x" * 100_001]),
    ],
)  # fmt: skip
def test_what_another_kind_of_name_may_be_is_not_this_one(make: Make, values: list[str]) -> None:
    for value in values:
        with pytest.raises(Refused):
            make(value)


@pytest.mark.parametrize("make", [names.word, names.text])
@pytest.mark.parametrize("value", [None, 5, b"x", ["x"]], ids=ascii)
def test_what_is_no_text_is_neither_word_nor_prose(make: Make, value: object) -> None:
    with pytest.raises(Refused):
        make(value)


def test_modules_that_names_make_are_counted() -> None:
    names.require_few_modules([f"a.{place}.weight" for place in range(1_000)] * 50)
    with pytest.raises(Refused, match="121 modules one below the other, more than the limit of 120"):
        names.require_few_modules(["a." * 121 + "weight"])
    with pytest.raises(Refused, match="has 20,001 modules, more than the limit of 20,000"):
        names.require_few_modules([f"m{place}.weight" for place in range(20_001)])
