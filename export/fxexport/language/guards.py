"""The guards of a recording: what was asked of the extents of its inputs, as conditions that can be tried.

They are read in a closed grammar, and computed for many extents at once.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from fxexport.untrusted.expressions import read_guard
from fxexport.untrusted.refused import Refused

_EXACT = 2.0**53

Symbol: TypeAlias = str | int
"""What an axis has as extent: a symbol, or a number."""

Axes: TypeAlias = Mapping[tuple[str, int], Symbol]
"""The symbol of an axis of an input."""


class NotUnderstood(Exception):
    """A guard is of no known form."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What was asked of extents.

    Attributes:
        text: in Python, extents as ``x.size(2)``.
        test: the same over symbols.
        symbols: the symbols.
    """

    text: str
    test: ast.expr
    symbols: frozenset[str]

    def holds(self, extents: Mapping[str, Any]) -> Any:
        """Whether it does, for numbers or for arrays of them; not where a number is too large to know."""
        truth, is_exact = _truth(self.test, extents)
        return truth & is_exact

    @property
    def is_least(self) -> bool:
        """Whether it only says how small an extent may be."""
        match self.test:
            case ast.Compare(left=ast.Name(), ops=[ast.GtE() | ast.Gt()], comparators=[ast.Constant()]):
                return True
            case ast.Compare(left=ast.Constant(), ops=[ast.LtE() | ast.Lt()], comparators=[ast.Name()]):
                return True
        return False

    def kept_by(self, runs: Mapping[str, Any]) -> str | None:
        """The symbol that keeps a product from being 1, where no more is asked; torch asks that often.

        Args:
            runs: the extents that each symbol may have.
        """
        match self.test:
            case ast.Compare(left=product, ops=[ast.NotEq()], comparators=[ast.Constant(value=1)]):
                for factor in _factors(product):
                    names = sorted(_symbols(factor))
                    value, is_exact = _value(factor, runs) if len(names) == 1 else (0, True)
                    if np.all((value >= 2) & is_exact):
                        return names[0]
        return None


def conditions(guard: str, axes: Axes, names: Mapping[str, str]) -> Iterator[Condition]:
    """Reads a guard, ``L['x'].size()[2] > 7``; each part of a conjunction is a condition.

    Args:
        guard: as torch writes it.
        axes: symbols of all axes.
        names: what inputs are called to users, where that is otherwise.

    Raises:
        NotUnderstood: it is of no known form.
    """
    try:
        text, _ = read_guard(guard)
    except Refused as error:
        raise NotUnderstood(f"its guard {error}") from error
    tests, told = (
        _parts(_Extents(axes, words).visit(ast.parse(text, mode="eval").body)) for words in (None, names)
    )
    for test, words in zip(tests, told, strict=True):
        yield Condition(text=ast.unparse(words), test=test, symbols=_symbols(test))


def _parts(node: ast.expr) -> list[ast.expr]:
    return node.values if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And) else [node]


class _Extents(ast.NodeTransformer):
    """Puts symbols, or words, in the place of ``L['x'].size()[2]``."""

    def __init__(self, axes: Axes, words: Mapping[str, str] | None) -> None:
        self._axes, self._words = axes, words

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        match node:
            case ast.Subscript(
                value=ast.Call(func=ast.Attribute(value=source, attr="size")),
                slice=ast.Constant(value=int(axis)),
            ):
                name = "_".join(reversed([str(key) for key in _keys(source)]))
                found = self._axes.get((name, axis))
                if isinstance(found, str):
                    words = self._words
                    return ast.Name(found if words is None else f"{words.get(name, name)}.size({axis})")
                if found is not None:
                    return ast.Constant(found)
        raise NotUnderstood(f"a guard on {ast.unparse(node)}")


def _keys(node: ast.expr) -> Iterator[object]:
    while isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        yield node.slice.value
        node = node.value


def _symbols(node: ast.expr) -> frozenset[str]:
    called = {id(part.func) for part in ast.walk(node) if isinstance(part, ast.Call)}
    inner = {id(part.value) for part in ast.walk(node) if isinstance(part, ast.Attribute)}
    names = (part for part in ast.walk(node) if isinstance(part, ast.Name))
    return frozenset(part.id for part in names if id(part) not in called | inner)


def _factors(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            yield from _factors(left)
            yield from _factors(right)
        case _:
            yield node


# --- values --------------------------------------------------------------------------------------

_Number: TypeAlias = Any
"""A float64, or an array of them: extents are exact below 2**53, and what is beyond counts as not known."""

_BINARY: dict[type[ast.operator], Any] = {
    ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.true_divide,
    ast.FloorDiv: np.floor_divide, ast.Mod: np.mod, ast.Pow: np.power,
}  # fmt: skip
_ORDER: dict[type[ast.cmpop], Any] = {
    ast.Eq: np.equal, ast.NotEq: np.not_equal, ast.Lt: np.less, ast.LtE: np.less_equal,
    ast.Gt: np.greater, ast.GtE: np.greater_equal,
}  # fmt: skip
_FUNCTIONS: dict[str, Any] = {
    "max": np.maximum, "min": np.minimum, "torch.sym_max": np.maximum, "torch.sym_min": np.minimum,
    "abs": np.abs, "math.floor": np.floor, "math.ceil": np.ceil, "math.trunc": np.trunc, "round": np.round,
    "torch.sym_float": np.positive, "torch._sym_sqrt": np.sqrt,
}  # fmt: skip


def _truth(node: ast.expr, extents: Mapping[str, _Number]) -> tuple[Any, Any]:
    match node:
        case ast.Compare(left=left, ops=operators, comparators=others):
            values = [_value(part, extents) for part in (left, *others)]
            truth, is_exact = np.True_, np.True_
            for operator, first, second in zip(operators, values, values[1:], strict=False):
                truth = truth & _ORDER[type(operator)](first[0], second[0])
                is_exact = is_exact & first[1] & second[1]
            return truth, is_exact
        case ast.BoolOp(op=operator, values=parts):
            truths, known = zip(*(_truth(part, extents) for part in parts), strict=True)
            combine = np.logical_and if isinstance(operator, ast.And) else np.logical_or
            return functools.reduce(combine, truths), functools.reduce(np.logical_and, known)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            truth, is_exact = _truth(operand, extents)
            return ~truth, is_exact
    raise NotUnderstood(f"a guard with {ast.unparse(node)}")


def _value(node: ast.expr, extents: Mapping[str, _Number]) -> tuple[_Number, Any]:
    match node:
        case ast.Constant(value=(bool() | int() | float()) as value):
            return np.float64(value), np.True_
        case ast.Name(id=name):
            return np.float64(extents[name]), np.True_
        case ast.Attribute(attr="inf"):
            return np.float64(np.inf), np.True_
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value, is_exact = _value(operand, extents)
            return -value, is_exact
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _BINARY:
            return _computed(_BINARY[type(operator)], [_value(left, extents), _value(right, extents)])
        case ast.IfExp(test=test, body=body, orelse=orelse):
            truth, is_known = _truth(test, extents)
            (a, a_exact), (b, b_exact) = _value(body, extents), _value(orelse, extents)
            return np.where(truth, a, b), is_known & np.where(truth, a_exact, b_exact)
        case ast.Call(func=function, args=args) if (name := ast.unparse(function)) in _FUNCTIONS:
            return _computed(_FUNCTIONS[name], [_value(argument, extents) for argument in args])
    raise NotUnderstood(f"a guard with {ast.unparse(node)}")


def _computed(function: Any, operands: Sequence[tuple[_Number, Any]]) -> tuple[_Number, Any]:
    numbers, known = zip(*operands, strict=True)
    with np.errstate(all="ignore"):
        value = functools.reduce(function, numbers) if len(numbers) > 1 else function(*numbers)
    return value, functools.reduce(np.logical_and, known) & (np.abs(value) < _EXACT)
