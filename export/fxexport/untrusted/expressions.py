"""Sizes and guards of a program: texts that torch evaluates, read as one of the few forms that it writes.

A size is what ``sympy.srepr`` writes: calls of a fixed set of functions, symbols and numbers. A guard
compares sizes of inputs, in Python. Both are parsed and never evaluated here. What is read is measured, as
if every symbol were as large as it may be: a power of a power of a power is short to write.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import warnings

from fxexport.untrusted.limits import (
    MAX_EXPONENT,
    MAX_EXPRESSION,
    MAX_EXPRESSION_BITS,
    MAX_EXPRESSION_DEPTH,
    MAX_EXPRESSION_NODES,
    MAX_EXPRESSION_TERMS,
    MAX_SYMBOL_DIGITS,
)
from fxexport.untrusted.names import name, shown
from fxexport.untrusted.refused import Refused

_SYMBOL_BITS = 63
_FLOAT_BITS = 1_100
_SYMBOL = re.compile(rf"[A-Za-z_]{{1,20}}\d{{0,{MAX_SYMBOL_DIGITS}}}", re.ASCII)
_SHORT_SYMBOL = re.compile(rf"[a-z]{{1,4}}\d{{1,{MAX_SYMBOL_DIGITS}}}")
_FLOAT = re.compile(r"-?[0-9.]{1,40}(e[-+]?[0-9]{1,3})?", re.ASCII)
_ASSUMPTIONS = frozenset(
    "integer positive nonnegative negative nonpositive zero nonzero real finite commutative".split()
)
# by the number of their arguments; None takes any number
_ARITHMETIC: dict[str, int | None] = {
    "Add": None, "Mul": None, "Max": None, "Min": None, "IsNonOverlappingAndDenseIndicator": None,
    "Mod": 2, "PythonMod": 2, "FloorDiv": 2, "CleanDiv": 2, "CeilDiv": 2, "IntTrueDiv": 2, "FloatTrueDiv": 2,
    "RShift": 2, "RoundDecimal": 2, "Rational": 2, "ModularIndexing": 3,
    "floor": 1, "ceiling": 1, "Abs": 1, "FloorToInt": 1, "CeilToInt": 1, "TruncToInt": 1, "TruncToFloat": 1,
    "RoundToInt": 1, "ToFloat": 1, "Identity": 1, "Integer": 1,
}  # fmt: skip
_FRACTIONS = frozenset("Float Rational FloatTrueDiv IntTrueDiv ToFloat TruncToFloat RoundDecimal".split())
_POWERS = frozenset({"Pow", "PowByNatural", "LShift"})
_COMPARISONS = frozenset(
    "Equality Unequality Eq Ne StrictGreaterThan GreaterThan LessThan StrictLessThan".split()
)
_CONNECTIVES: dict[str, int | None] = {"And": None, "Or": None, "Not": 1}
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)
_ORDER = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_GUARD_FUNCTIONS: dict[str, int | None] = {
    "max": None, "min": None, "abs": 1, "round": 1, "math.floor": 1, "math.ceil": 1, "math.trunc": 1,
    "torch.sym_max": 2, "torch.sym_min": 2, "torch.sym_float": 1, "torch._sym_sqrt": 1,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class _Measure:
    """How large a value can be: bits of an integer, and terms once it is multiplied out."""

    bits: int
    terms: int = 1

    def __post_init__(self) -> None:
        if self.bits > MAX_EXPRESSION_BITS:
            raise Refused(f"has a size of more than the limit of {MAX_EXPRESSION_BITS:,} bits")
        if self.terms > MAX_EXPRESSION_TERMS:
            raise Refused(f"has a size of more than the limit of {MAX_EXPRESSION_TERMS:,} terms")


def read_size(text: object) -> int:
    """The number of parts of a text that is arithmetic on symbols: ``Add(Symbol('s0'), Integer(1))``.

    Raises:
        Refused: it is anything else, gives no integer, or is larger than an honest size.
    """
    return _read(text, "a size", _integer)


def read_number(text: object) -> int:
    """The same where a number with a fraction may come of it."""
    return _read(text, "a number", _arithmetic)


def read_condition(text: object) -> int:
    """The same for a comparison: ``GreaterThan(Symbol('u0'), Integer(2))``."""
    return _read(text, "a condition", _condition)


def read_guard(text: object) -> tuple[str, int]:
    """A guard, ``L['x'].size()[0] >= 2``, spelled anew, and the number of its parts.

    Raises:
        Refused: it is no comparison of the sizes of inputs.
    """
    tree = _parsed(text, "a guard")
    _guard_condition(tree, _Where(str(text), "a guard"))
    return ast.unparse(tree), sum(1 for _ in ast.walk(tree))


@dataclasses.dataclass(frozen=True, slots=True)
class _Where:
    text: str
    what: str
    depth: int = 0

    def deeper(self) -> _Where:
        if self.depth > MAX_EXPRESSION_DEPTH:
            raise Refused(f"has {self.what} nested deeper than the limit of {MAX_EXPRESSION_DEPTH}")
        return _Where(self.text, self.what, self.depth + 1)

    def refuse(self) -> Refused:
        kind = "no comparison of sizes" if self.what == "a guard" else "no arithmetic"
        return Refused(f"has {self.what} that is {kind} ({shown(self.text)})")


def _read(text: object, what: str, read: object) -> int:
    tree = _parsed(text, what)
    read(tree, _Where(str(text), what))  # type: ignore[operator]
    return sum(1 for _ in ast.walk(tree))


def _parsed(text: object, what: str) -> ast.expr:
    if not isinstance(text, str) or not text.isascii() or not text.isprintable():
        raise Refused(f"has {what} that is no expression ({shown(text)})")
    if len(text) > MAX_EXPRESSION:
        raise Refused(f"has {what} longer than the limit of {MAX_EXPRESSION:,} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Refused(f"has {what} that is no expression ({shown(text)})") from error
    if sum(1 for _ in ast.walk(tree)) > MAX_EXPRESSION_NODES:
        raise Refused(f"has {what} of more than the limit of {MAX_EXPRESSION_NODES:,} parts")
    return tree


# --- sizes ---------------------------------------------------------------------------------------


def _integer(node: ast.expr, where: _Where) -> _Measure:
    match node:
        case ast.Call(func=ast.Name(id=name)) if name in _FRACTIONS:
            raise where.refuse()
        case ast.Constant(value=float()) | ast.BinOp(op=ast.Div()):
            raise where.refuse()
    return _arithmetic(node, where)


def _arithmetic(node: ast.expr, where: _Where) -> _Measure:
    where = where.deeper()
    match node:
        case ast.Constant(value=value):
            return _number(value, where)
        case ast.Name(id=name) if _SHORT_SYMBOL.fullmatch(name):
            return _Measure(_SYMBOL_BITS)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _arithmetic(operand, where)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_arithmetic(left, where), right, where)
        case ast.BinOp(left=left, op=operator, right=right) if isinstance(operator, _OPERATORS):
            measures = [_arithmetic(left, where), _arithmetic(right, where)]
            return _combined("Mul" if isinstance(operator, ast.Mult) else "Add", measures)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            return _call(name, args, keywords, where)
    raise where.refuse()


def _call(name: str, args: list[ast.expr], keywords: list[ast.keyword], where: _Where) -> _Measure:
    match name, args:
        case "Symbol", [ast.Constant(value=str(symbol))] if _SYMBOL.fullmatch(symbol):
            if all(word.arg in _ASSUMPTIONS and _is_flag(word.value) for word in keywords):
                return _Measure(_SYMBOL_BITS)
        case "Float", [ast.Constant(value=str(value))] if _FLOAT.fullmatch(value):
            if all(word.arg == "precision" and _is_precision(word.value) for word in keywords):
                return _Measure(_FLOAT_BITS)
        case "Where", [condition, first, second] if not keywords:
            _condition(condition, where)
            return _combined("Add", [_arithmetic(first, where), _arithmetic(second, where)])
        case _, [base, exponent] if name in _POWERS and not keywords:
            return _power(_arithmetic(base, where), exponent, where)
        case _ if name in _ARITHMETIC and _fits(_ARITHMETIC[name], args) and not keywords:
            return _combined(name, [_arithmetic(argument, where) for argument in args])
    raise where.refuse()


def _combined(name: str, measures: list[_Measure]) -> _Measure:
    """What a function makes of its arguments; products add bits, sums add terms, the rest is opaque."""
    bits, terms = 0, 1 if name != "Add" else 0
    for measure in measures:
        if name == "Mul":
            bits, terms = bits + measure.bits, terms * measure.terms
        else:
            bits, terms = max(bits, measure.bits), terms + (measure.terms if name == "Add" else 0)
        _Measure(bits, terms)
    return _Measure(bits + len(measures).bit_length(), max(terms, 1))


def _power(base: _Measure, exponent: ast.expr, where: _Where) -> _Measure:
    match exponent:
        case ast.Call(func=ast.Name(id="Integer"), args=[inner], keywords=[]):
            exponent = inner
    negative = isinstance(exponent, ast.UnaryOp) and isinstance(exponent.op, ast.USub)
    value = exponent.operand if negative else exponent  # type: ignore[attr-defined]
    if not isinstance(value, ast.Constant) or type(value.value) is not int:
        raise where.refuse()
    if value.value > MAX_EXPONENT:
        raise Refused(f"has {where.what} with a power above the limit of {MAX_EXPONENT}")
    count = max(value.value, 1)
    return _Measure(base.bits * count, base.terms**count)


def _condition(node: ast.expr, where: _Where) -> None:
    where = where.deeper()
    match node:
        case ast.Name(id="true" | "false") | ast.Constant(value=True | False):
            return
        case ast.Call(func=ast.Name(id=name), args=[left, right], keywords=[]) if name in _COMPARISONS:
            _arithmetic(left, where)
            _arithmetic(right, where)
            return
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _CONNECTIVES:
            if _fits(_CONNECTIVES[name], args):
                for argument in args:
                    _condition(argument, where)
                return
    raise where.refuse()


def _number(value: object, where: _Where) -> _Measure:
    if type(value) is float:
        return _Measure(_FLOAT_BITS)
    if type(value) is int and abs(value) < 1 << 64:
        return _Measure(max(value.bit_length(), 1))
    raise where.refuse()


def _fits(count: int | None, args: list[ast.expr]) -> bool:
    return bool(args) and count in (None, len(args)) and not any(isinstance(a, ast.Starred) for a in args)


def _is_flag(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is bool


def _is_precision(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int and 0 < node.value <= 64


# --- guards --------------------------------------------------------------------------------------


def _guard_condition(node: ast.expr, where: _Where) -> None:
    where = where.deeper()
    match node:
        case ast.Compare(left=left, comparators=others, ops=operators):
            if all(isinstance(operator, _ORDER) for operator in operators):
                for part in (left, *others):
                    _guard_number(part, where)
                return
        case ast.BoolOp(values=values):
            for part in values:
                _guard_condition(part, where)
            return
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            _guard_condition(operand, where)
            return
    raise where.refuse()


def _guard_number(node: ast.expr, where: _Where) -> _Measure:
    where = where.deeper()
    match node:
        case ast.Constant(value=bool()):
            return _Measure(1)
        case ast.Constant(value=value):
            return _number(value, where)
        case ast.Attribute(value=ast.Name(id="math"), attr="inf"):
            return _Measure(_FLOAT_BITS)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _guard_number(operand, where)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_guard_number(left, where), right, where)
        case ast.BinOp(left=left, op=operator, right=right) if isinstance(operator, _OPERATORS):
            measures = [_guard_number(left, where), _guard_number(right, where)]
            return _combined("Mul" if isinstance(operator, ast.Mult) else "Add", measures)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            _guard_condition(test, where)
            return _combined("Add", [_guard_number(body, where), _guard_number(orelse, where)])
        case ast.Call(func=function, args=args, keywords=[]) if not isinstance(function, ast.Attribute) or (
            isinstance(function.value, ast.Name)
        ):
            called = ast.unparse(function)
            if called in _GUARD_FUNCTIONS and _fits(_GUARD_FUNCTIONS[called], args):
                return _combined(called, [_guard_number(argument, where) for argument in args])
    _guard_extent(node, where)
    return _Measure(_SYMBOL_BITS)


def _guard_extent(node: ast.expr, where: _Where) -> None:
    """``L['x']['k'][0].size()[1]``, a stride or an offset, or an input that is a number."""
    match node:
        case ast.Subscript(
            value=ast.Call(func=ast.Attribute(value=source, attr="size" | "stride"), args=[], keywords=[]),
            slice=ast.Constant(value=int()),
        ):
            node = source
        case ast.Subscript(value=ast.Attribute(value=source, attr="shape"), slice=ast.Constant(value=int())):
            node = source
        case ast.Call(func=ast.Attribute(value=source, attr="storage_offset"), args=[], keywords=[]):
            node = source
    steps = 0
    while isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        key = node.slice.value
        if type(key) is str:
            name(key, "an input")
        elif type(key) is not int:
            raise where.refuse()
        node, steps = node.value, steps + 1
    if not (steps and isinstance(node, ast.Name) and node.id == "L"):
        raise where.refuse()
