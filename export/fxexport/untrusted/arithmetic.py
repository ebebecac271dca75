"""Numbers and sequences that a graph computes beside its tensors, and how large they can become.

A graph may compute with sizes in Python: ``n = x.size(0); m = n * n``. Python's integers have no bound and
its sequences can be repeated, so sixty lines fill any memory. What a graph computes is followed here with
every size as large as it may be, and a value beyond the limits is refused before anything is run.
"""

from __future__ import annotations

import builtins
import dataclasses
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from fxexport.untrusted.limits import MAX_DIMENSIONS, MAX_INTEGER_BITS, MAX_SEQUENCE
from fxexport.untrusted.refused import Refused
from fxpasses.private_names import OpOverload

_SIZE_BITS = 64
_FLOAT_BITS = 1_100
"""Of an integer that a float was rounded to."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Number:
    """A number of at most so many bits."""

    bits: int

    def __post_init__(self) -> None:
        if self.bits > MAX_INTEGER_BITS:
            raise Refused(f"computes an integer of more than the limit of {MAX_INTEGER_BITS:,} bits")


@dataclasses.dataclass(frozen=True, slots=True)
class _Sequence:
    """A tuple, list or text of at most so many elements, each of so many bits, or a sequence itself."""

    length: int
    bits: int
    is_nested: bool = False

    def __post_init__(self) -> None:
        if self.length > MAX_SEQUENCE:
            raise Refused(f"makes a sequence of more than the limit of {MAX_SEQUENCE:,} elements")


_Value = _Number | _Sequence | None
"""None for a tensor, and for what cannot grow."""
_SIZE = _Number(_SIZE_BITS)
_SHAPE = _Sequence(MAX_DIMENSIONS, _SIZE_BITS)
_TRUTH = frozenset(
    getattr(operator, name) for name in "eq ne lt le gt ge is_ is_not not_ truth contains".split()
)
_PRODUCTS = frozenset({operator.mul, operator.imul})
_SUMS = frozenset({operator.add, operator.iadd, operator.sub, operator.isub})
_POWERS = frozenset({operator.pow, operator.ipow, builtins.pow})
_SHIFTS = frozenset({operator.lshift, operator.ilshift})
_SHAPE_METHODS = frozenset({"size", "stride"})
_SIZE_METHODS = frozenset("dim ndimension numel nelement item index storage_offset itemsize nbytes".split())


def require_small_numbers(graph: Graph) -> None:
    """Returns where everything that the graph computes in Python stays small.

    Raises:
        Refused: an integer or a sequence can grow beyond the limits.
    """
    known: dict[Node, _Value] = {}
    for node in graph.nodes:
        args = [_value(argument, known) for argument in node.args]
        if node.op == "call_method":
            known[node] = _of_method(str(node.target), args)
        elif node.op == "call_function":
            known[node] = _of_function(node.target, node.args, args)
        elif node.op == "get_attr" and isinstance(graph.owning_module, GraphModule):
            inner = getattr(graph.owning_module, str(node.target).partition(".")[0], None)
            if isinstance(inner, GraphModule):
                require_small_numbers(inner.graph)


def _value(argument: Any, known: dict[Node, _Value]) -> _Value:
    if isinstance(argument, Node):
        return known.get(argument)
    if isinstance(argument, bool | int):
        return _Number(max(int(argument).bit_length(), 1))
    if isinstance(argument, float):
        return _SIZE
    if isinstance(argument, str):
        return _Sequence(len(argument), 0)
    if isinstance(argument, tuple | list):
        parts = [_value(part, known) for part in argument]
        return _joined(parts, is_nested=any(isinstance(part, _Sequence) for part in parts))
    return None


def _joined(parts: Sequence[_Value], *, is_nested: bool) -> _Sequence:
    lengths = [part.length if isinstance(part, _Sequence) else 1 for part in parts]
    bits = max((part.bits for part in parts if part is not None), default=0)
    return _Sequence(sum(lengths), bits, is_nested)


def _of_method(name: str, args: Sequence[_Value]) -> _Value:
    if name in _SHAPE_METHODS:
        return _SHAPE if len(args) == 1 else _SIZE
    if name in _SIZE_METHODS:
        return _SIZE
    if name == "tolist":
        raise Refused("makes a list of a tensor's elements, which has no limit")
    return None


def _of_function(function: Any, given: Sequence[Any], args: Sequence[_Value]) -> _Value:
    if isinstance(function, OpOverload):
        return _of_operator(function)
    if function is getattr:
        return _of_attribute(given)
    if function is torch.broadcast_shapes:
        return _SHAPE
    if function is torch.numel:
        return _SIZE
    if function in _NUMBERS:
        rounded = args[0].bits if args and isinstance(args[0], _Number) else 0
        return _Number(max(rounded, _NUMBERS[function]))
    if function is operator.getitem:
        return _item(given, args)
    if _is_of_torch(function) or not args or None in args[:2]:
        return None  # a tensor among the operands makes a tensor
    return _RULES.get(function, _of_the_largest)(given, args)


def _is_of_torch(function: Any) -> bool:
    module = getattr(function, "__module__", None) or ""
    return module.startswith(("torch", "timm")) and not getattr(function, "__name__", "").startswith("sym_")


def _of_operator(function: OpOverload) -> _Value:
    kinds = [str(result.type) for result in function._schema.returns]
    if any("Tensor" in kind for kind in kinds) or not kinds:
        return None
    return _Sequence(MAX_DIMENSIONS, _SIZE_BITS) if "List" in kinds[0] else _SIZE


def _of_attribute(given: Sequence[Any]) -> _Value:
    name = given[1] if len(given) > 1 else None
    if name == "shape":
        return _SHAPE
    return _SIZE if name in ("ndim", "itemsize", "nbytes") else None


# --- functions of numbers and sequences ------------------------------------------------------------


def _of_the_largest(given: Sequence[Any], values: Sequence[_Value]) -> _Value:
    """What is no larger than the largest argument, by one bit: most of them."""
    sequences = [value for value in values if isinstance(value, _Sequence)]
    if len(sequences) > 1 or any(sequence.is_nested for sequence in sequences):
        return _joined(values, is_nested=True)
    if sequences:  # sum, max, min
        return _Number(max(v.bits for v in values if v is not None) + sequences[0].length.bit_length())
    return _Number(1 + max((value.bits for value in values if value is not None), default=0))


def _product(given: Sequence[Any], values: Sequence[_Value]) -> _Value:
    sequence = next((value for value in values if isinstance(value, _Sequence)), None)
    if sequence is None:
        return _Number(sum(value.bits for value in values if value is not None))
    times = next((part for part in given if type(part) is int), None)
    if times is None:
        raise Refused("repeats a sequence as often as it computes, which has no limit")
    return _Sequence(sequence.length * max(times, 0), sequence.bits, sequence.is_nested)


def _sum(given: Sequence[Any], values: Sequence[_Value]) -> _Value:
    sequences = [value for value in values if isinstance(value, _Sequence)]
    if sequences:
        return _joined(values, is_nested=any(sequence.is_nested for sequence in sequences))
    return _of_the_largest(given, values)


def _power(given: Sequence[Any], values: Sequence[_Value]) -> _Value:
    base, exponent = values[0], given[1] if len(given) > 1 else None
    if not isinstance(base, _Number) or isinstance(exponent, float):
        return _SIZE
    if type(exponent) is not int:
        raise Refused("computes a power with an exponent that it computes, which has no limit")
    return _Number(base.bits * max(exponent, 1))


def _shift(given: Sequence[Any], values: Sequence[_Value]) -> _Value:
    base, count = values[0], given[1] if len(given) > 1 else None
    if not isinstance(base, _Number):
        return None
    if type(count) is not int:
        raise Refused("shifts a number as far as it computes, which has no limit")
    return _Number(base.bits + max(count, 0))


def _item(given: Sequence[Any], values: Sequence[_Value]) -> _Value:
    sequence, key = values[0], given[1] if len(given) > 1 else None
    if not isinstance(sequence, _Sequence):
        return None
    return sequence if sequence.is_nested or isinstance(key, slice) else _Number(sequence.bits)


def _all_multiplied(given: Sequence[Any], values: Sequence[_Value]) -> _Value:
    sequence = values[0]
    return _Number(sequence.length * sequence.bits) if isinstance(sequence, _Sequence) else None


def _truth(given: Sequence[Any], values: Sequence[_Value]) -> _Value:
    return _Number(1)


_Rule = Callable[[Sequence[Any], Sequence[_Value]], _Value]
_RULES: dict[Any, _Rule] = {
    **dict.fromkeys(_PRODUCTS, _product),
    **dict.fromkeys(_SUMS, _sum),
    **dict.fromkeys(_POWERS, _power),
    **dict.fromkeys(_SHIFTS, _shift),
    **dict.fromkeys(_TRUTH, _truth),
    math.prod: _all_multiplied,
}
_NUMBERS: dict[Any, int] = {
    **dict.fromkeys((len, float, bool, operator.index), _SIZE_BITS),
    **dict.fromkeys((math.sqrt, math.log, math.log2, math.exp, math.pow), _SIZE_BITS),
    **dict.fromkeys((int, round, math.floor, math.ceil, math.trunc), _FLOAT_BITS),
}
"""What these give is a number of at least so many bits, whatever they are given."""
