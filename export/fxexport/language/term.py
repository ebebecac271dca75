"""Terms: operators over operands, each made once, so that what is equal is the same object.

A term is an operator's name, everything that its schema says about it, and its operands with the part of
their axes that each of its own axes walks. It holds no node, no name of a value and no printed text.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Container, Hashable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fxexport.language.extents import Extent
from fxexport.language.identities import IDENTITIES
from fxexport.language.layout import (
    Layout,
    Parts,
    Shape,
    behind,
    extent_of,
    extents_of,
    own_axes,
)

Array: TypeAlias = NDArray[Any]

FLOATS = ("float64", "float32", "bfloat16", "float16")
"""Types whose arithmetic stands for that of the reals."""


class Uninterpreted(Exception):
    """The operator means something that the language has no term for; it becomes a foreign one.

    Control flow of this package: whatever reads or makes terms may raise one, which no caller outside sees.
    """


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rounded:
    """How far a real number may lie from what stands for it in a graph.

    Attributes:
        folded: by the roundings of a fold that computes it from constants.
        defined: since every spelling of a definition's number is a rounding of it.
        step: the largest share that a single one of these has.
        made_of: the constants that it is computed from, and how often; none of a definition's.
    """

    folded: float = 0.0
    defined: float = 0.0
    step: float = 0.0
    made_of: frozenset[tuple[Term, int]] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Term:
    """One value, up to views of it.

    Attributes:
        op: the operator.
        attributes: everything else that tells it from another operator.
        operands: what it reads, and how.
        dtype: type of the elements.
        shape: extents of its axes, none of them 1; None where the rank is unknown.
        is_closed: whether it is made of constants alone.
        skeleton: a hash in which no constant's value counts, the same in every process.
        serial: its number in the table.
        array: the elements of a constant, in the order of its axes.
        rounded: of a constant that no graph stores as it is.
    """

    op: str
    attributes: tuple[Hashable, ...]
    operands: tuple[Operand, ...]
    dtype: str
    shape: Shape | None
    is_closed: bool
    skeleton: str
    serial: int
    array: Array | None = None
    rounded: Rounded | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Operand:
    """A term that another one reads.

    Attributes:
        term: what is read.
        access: the parts of its axes that the reader's axes walk, one entry for each; empty where the
            operand repeats itself. None where the operand's rank is unknown.
    """

    term: Term
    access: tuple[Parts, ...] | None

    def value(self, layout: Layout) -> Value:
        """The operand as the reader's axes see it, where they are arranged as ``layout``."""
        slots = [parts[0] if parts else None for parts in self.access or ()]
        return Value(term=self.term, known_layout=tuple(behind(parts, slots) for parts in layout))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A term seen through a layout: what a graph's value is.

    Attributes:
        term: the term.
        known_layout: how its axes lie over the dimensions; None where the rank is unknown.
        contents: the elements of a vector or scalar of integers, where they are extents.
    """

    term: Term
    known_layout: Layout | None
    contents: tuple[Extent, ...] | None = None

    @property
    def layout(self) -> Layout:
        """The layout."""
        if self.known_layout is None:
            raise Uninterpreted("a value of unknown rank")
        return self.known_layout

    @property
    def dtype(self) -> str:
        """Type of the elements."""
        return self.term.dtype

    @property
    def shape(self) -> Shape:
        """Extents of the dimensions."""
        return extents_of(self.layout)

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.layout)

    @property
    def is_closed(self) -> bool:
        """Whether it is made of constants alone."""
        return self.term.is_closed

    @property
    def is_float(self) -> bool:
        """Whether its arithmetic stands for that of the reals."""
        return self.term.dtype in FLOATS

    @property
    def is_scalar(self) -> bool:
        """Whether it is one closed number, however often repeated."""
        return self.term.is_closed and self.term.shape == ()

    def seen(self, layout: Layout) -> Value:
        """The same term through another layout."""
        return Value(term=self.term, known_layout=layout)

    def permuted(self, order: Sequence[int]) -> Value:
        """Its dimensions in another order."""
        return self.seen(tuple(self.layout[dim] for dim in order))


def below(term: Term, known: Container[Term] = ()) -> list[Term]:
    """The term and all that it is made of and that is not known, operands before what reads them."""
    found: set[Term] = set()
    left = [term]
    while left:
        item = left.pop()
        if item not in found and item not in known:
            found.add(item)
            left.extend(operand.term for operand in item.operands)
    return sorted(found, key=lambda item: item.serial)


def digest(*parts: object) -> str:
    """A hash of what the parts print, for parts that print all they hold."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=10).hexdigest()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a term was first met in a graph.

    Attributes:
        operator: the operator as the graph names it.
        node: name of the node.
        module: the module that a recorded program called it in; empty where there is none.
        is_random: whether it draws random numbers, so that two runs differ.
        twin: what tells it from nodes that do not compute the same bits, where the graph shows that.
    """

    operator: str
    node: str
    module: str = ""
    twin: str = ""
    is_random: bool = False

    def __str__(self) -> str:
        return f"{self.operator} {(self.module or self.node)!r}"

    @property
    def is_operator(self) -> bool:
        """Whether it computes anything."""
        return self.operator not in ("input", "initializer", "parameter", "constant")


class Terms:
    """Every term of both graphs, each once.

    Attributes:
        used: names of the identities that were used.
        origin: where the terms that are made come from; None for what no node wrote.
        origins: for each side and term the first place.
        side: 0 while the left graph is read, 1 for the right one.
        sizes: what torch's symbols are, while a recording is read.
        exchanged: constants of a side, and what stands for them where it is read again.
        merges: whether linear maps in a row and beside each other are read as one.
    """

    def __init__(self) -> None:
        """An empty table."""
        self.used: set[str] = set()
        self.side = 0
        self.sizes: dict[str, Extent] = {}
        self.origin: Origin | None = None
        self.origins: dict[tuple[int, Term], Origin] = {}
        self.exchanged: dict[tuple[int, Term], Term] = {}
        self.merges = False
        self._known: dict[Hashable, Term] = {}
        self._constants: dict[Hashable, list[Term]] = {}
        self._count = 0

    def use(self, identity: str) -> None:
        """Notes that an identity of the table was used."""
        self.used.add(IDENTITIES[identity].name)

    def term(
        self,
        op: str,
        attributes: tuple[Hashable, ...],
        operands: Sequence[Operand],
        dtype: str,
        shape: Shape | None,
        *,
        is_closed: bool | None = None,
    ) -> Term:
        """The term, made if it is new."""
        read = tuple(operands)
        key = (op, attributes, tuple((o.term.serial, o.access) for o in read), dtype, shape)
        found = self._known.get(key)
        if found is None:
            closed = all(o.term.is_closed for o in read) if is_closed is None else is_closed
            skeleton = _skeleton(op, attributes, read, dtype, shape)
            found = Term(op, attributes, read, dtype, shape, closed, skeleton, self._next())
            self._known[key] = found
        return self._noted(found)

    def constant(self, array: Array, *, rounded: Rounded | None = None, dtype: str | None = None) -> Value:
        """The constant with these elements; those of the same bits are one term."""
        kept = array.reshape([extent for extent in array.shape if extent != 1])
        name = dtype or str(array.dtype)
        key = (name, kept.shape, rounded, _sample(kept))
        for term in self._constants.setdefault(key, []):
            if term.array is not None and is_same(term.array, kept, has_signs=True):
                found = term
                break
        else:
            skeleton = digest("constant", name, kept.shape)
            found = Term("constant", (), (), name, kept.shape, True, skeleton, self._next(), kept, rounded)
            self._constants[key].append(found)
        found = self.exchanged.get((self.side, found), found)
        return with_contents(Value(term=self._noted(found), known_layout=own_axes(array.shape)))

    def real(self, number: float, dtype: str, rounded: Rounded | None = None) -> Value:
        """A real number that stands for what arithmetic in ``dtype`` makes of it, or is an element of it."""
        array = np.asarray(number, np.float64)
        with np.errstate(all="ignore"):
            element = array.astype(numpy_type(dtype))
        is_element = rounded is None and is_same(element.astype(np.float64), array, has_signs=True)
        return self.constant(element if is_element else array, rounded=rounded, dtype=dtype)

    def _noted(self, term: Term) -> Term:
        if self.origin is not None:
            self.origins.setdefault((self.side, term), self.origin)
        return term

    def _next(self) -> int:
        self._count += 1
        return self._count


def numpy_type(name: str) -> np.dtype:
    """The numpy type of this name, those of ml_dtypes included."""
    import ml_dtypes

    own = getattr(ml_dtypes, name, None)
    try:
        return np.dtype(own if own is not None else name)
    except TypeError as error:
        raise Uninterpreted(f"type {name}") from error


def with_contents(value: Value) -> Value:
    """The value, with its elements as extents where it is a short vector of integers."""
    array = value.term.array
    if array is None or array.dtype.kind not in "iu" or value.rank > 1 or array.size > SHORT:
        return value
    return dataclasses.replace(value, contents=tuple(int(number) for number in array.reshape(-1)))


SHORT = 64
"""Vectors of more elements are no shapes."""


def is_same(first: Array, second: Array, *, has_signs: bool = False) -> bool:
    """Whether two arrays hold the same elements, ``-0`` taken for ``0`` and NaN for NaN, or the same bits."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    left, right = np.atleast_1d(first, second)
    if left.ctypes.data == right.ctypes.data and left.strides == right.strides:
        return True  # weights of several files are held once
    rows = max(1, _BLOCK // max(1, left[:1].size))  # a comparison of all at once takes as much memory
    starts = range(0, len(left), rows)
    compare = _has_same_bits if has_signs else _is_same
    return all(compare(left[start : start + rows], right[start : start + rows]) for start in starts)


_BLOCK = 1 << 22


def _is_same(first: Array, second: Array) -> bool:
    if np.array_equal(first, second):
        return True
    if first.dtype.kind not in "fcV":
        return False
    with np.errstate(all="ignore"):
        return bool(np.all((first == second) | (np.isnan(first) & np.isnan(second))))


def _has_same_bits(first: Array, second: Array) -> bool:
    kind = f"u{min(first.itemsize, 8)}"
    left, right = (np.ascontiguousarray(array).view(kind) for array in (first, second))
    return np.array_equal(left, right)


def _sample(array: Array) -> str:
    flat = array.reshape(-1)
    few = flat[:: max(1, flat.size // 16)][:16]
    return digest([str(item) for item in few.tolist()]).replace("-0.0", "0.0")


def _skeleton(op: str, attributes: object, read: Sequence[Operand], dtype: str, shape: object) -> str:
    """First what does not depend on where a constant was folded, then how far constants are written out."""
    first = [
        ("closed", o.term.dtype) if o.term.is_closed else (o.term.skeleton[:_FIRST], o.access) for o in read
    ]
    second = [
        o.access and [extent_of(parts) for parts in o.access] if o.term.is_closed else o.term.skeleton
        for o in read
    ]
    return digest(op, attributes, first, dtype, shape) + digest(second)


_FIRST = 20
"""Digits of a digest."""
