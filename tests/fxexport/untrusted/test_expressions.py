"""Sizes, conditions and guards: what torch writes is read, everything else is refused unevaluated."""

from __future__ import annotations

import ast

import pytest

from fxexport.untrusted.expressions import read_condition, read_guard, read_size
from fxexport.untrusted.limits import MAX_EXPRESSION
from fxexport.untrusted.refused import Refused

S = "Symbol('s77', positive=True, integer=True)"
U = "Symbol('u0', integer=True)"
BATCH = "L['x'].size()[0]"


@pytest.mark.parametrize(
    "size",
    [
        S, U, "2*s44", "Integer(3)",
        f"Mul(Integer(8), {S})", f"Pow({S}, Integer(2))", f"Max(Integer(1), {S})",
        f"Add(Mul(Integer(2), FloorDiv(Add({S}, Integer(-1)), Integer(2))), Integer(2))",
        f"Mod({S}, Integer(2))", f"Where(Equality({S}, Integer(1)), {S}, Integer(2))", "-s0 + 3 // 2",
        f"CeilToInt(FloatTrueDiv({S}, Float('2.0', precision=53)))",
    ],
)  # fmt: skip
def test_what_torch_writes_of_a_size_is_read(size: str) -> None:
    assert read_size(size) >= 1


@pytest.mark.parametrize("condition", [f"Eq({S}, Integer(1))", f"And(GreaterThan({U}, Integer(0)), true)"])
def test_a_condition_is_none_of_the_sizes(condition: str) -> None:
    assert read_condition(condition) >= 1
    with pytest.raises(Refused):
        read_size(condition)
    with pytest.raises(Refused):
        read_condition(S)


@pytest.mark.parametrize(
    "size",
    [
        "__import__('os').system('x')", "sympify('x')", "S('x')", "Symbol('s0').func", "lambda: 1", "[1][0]",
        "Symbol('s0', x=1)", "Symbol('s0', positive='x')", "Symbol(s0)", "Symbol('a b')", "Symbol('u999999')",
        "Add(*s0)", "Add(Integer(1), x=2)", "Add()", "FloorDiv(s0)", "Float('1e99999')", "exec", "pi", "N",
        "Float('1', precision=10**9)", "Integer(Integer('9'))", "Rational('1/3')", "s0 if s0 else s0",
        "Symbol('s0', positive=s1)", "s0 ^ 2", "s0**0.5",
        "Symbol('s0', x=True)", f"CeilToInt(FloatTrueDiv({S}, Float('2.0', precision=True)))",
        f"CeilToInt(FloatTrueDiv({S}, Float('2.0', precision=65)))",
        f"CeilToInt(FloatTrueDiv({S}, Float('2.0', x=53)))", f"Where(Equality({S}, 1), {S}, 2, x=1)",
        f"Pow({S}, 0.5)", "s0**'2'", f"CeilToInt(FloatTrueDiv({S}, Float('2.0', precision=s0)))",
        "'s0'", "None", "True", "1 < 2", "1j", "0xffffffffffffffffff", "s0\n", "s0\r+1", "ſ0", "s0;s1", "", 5,
        None, "9" * 5000, "(" * 300 + "s0" + ")" * 300, "s0+" * (MAX_EXPRESSION // 3) + "s0",
    ],
)  # fmt: skip
def test_anything_else_is_refused(size: object) -> None:
    with pytest.raises(Refused):
        read_size(size)
    with pytest.raises(Refused):
        read_condition(size if size != "True" else "x")


def _nested(function: str, times: int, leaf: str = S) -> str:
    for _ in range(times):
        leaf = f"{function}({leaf}, Integer(16))"
    return leaf


@pytest.mark.parametrize(
    "size",
    [
        f"Pow({S}, Integer(1000000))", f"Pow({S}, {S})", _nested("Pow", 3), _nested("PowByNatural", 3),
        _nested("LShift", 3), "2 ** 10 ** 8", "((2 ** 16) ** 16) ** 16",
        f"Pow(Add({', '.join(f's{n}' for n in range(9))}), Integer(16))",
        f"Mul({', '.join(['Add(s0, s1)'] * 12)})", f"Mul({', '.join([S] * 70)})",
        f"Mul({', '.join(['Float(chr, precision=53)'.replace('chr', repr('1e300'))] * 5)})",
    ],
)  # fmt: skip
def test_a_size_that_would_be_huge_is_refused_by_a_limit(size: str) -> None:
    with pytest.raises(Refused, match=r"limit|no arithmetic"):
        read_size(size)


@pytest.mark.parametrize(
    "guard",
    [
        f"{BATCH} >= 2", "L['x']['k'][0].size()[1] == 3", "L['flat_args'][0].size()[2] > 8",
        "(1 + (((-1) + L['x'].size()[3]) // 2)) != 1", f"2*{BATCH} != torch.sym_max(1, {BATCH} // 2)",
        f"not {BATCH} == 3 and {BATCH} < math.inf", f"max(1, {BATCH}) <= 8 or L['n'] == 2",
        "L['x'].stride()[0] == L['x'].storage_offset()", f"math.floor({BATCH} / 2.0) ** 2 >= 0",
    ],
)  # fmt: skip
def test_what_torch_writes_of_a_guard_is_read_and_spelled_anew(guard: str) -> None:
    text, parts = read_guard(guard + "  # a comment")
    assert ast.dump(ast.parse(text)) == ast.dump(ast.parse(guard))
    assert "#" not in text
    assert parts >= 3


@pytest.mark.parametrize(
    "guard",
    [
        BATCH, "1", "L['x'].size()[0] == 'text'", "L['x\\', x'].size()[0] == 1", 'L["x\\""].size()[0] == 1',
        "L['x'].__class__ == 1", "L['x'].size(0)[0] == 1", "L['x'].numpy()[0] == 1", "L[L['x']] == 1",
        "torch.load('x') == 1", "torch.sym_max == 1", "math.floor.__self__ == 1", "open('x') == 1",
        "G['x'] == 1",
        "[L['x'] == 1 for x in y]", "(lambda: L['x'] == 1)()", f"{BATCH} is 2", f"{BATCH} in L['x']",
        f"(y := {BATCH}) == 1", f"{BATCH} == f'{{1}}'", f"{BATCH} ** {BATCH} == 1", f"{BATCH} << 99 == 1",
        f"((({BATCH} ** 16) ** 16) ** 16) == 1", "s0 == 1", f"{BATCH} == 1\n", f"{BATCH} == 1, print()",
        "L == 1",
    ],
)  # fmt: skip
def test_no_other_guard_is_read(guard: str) -> None:
    with pytest.raises(Refused):
        read_guard(guard)
