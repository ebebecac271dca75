"""A pickle as plain records: what it would make and call, with nothing made, called or imported.

``pickle.load`` is an interpreter whose instructions call functions. This one runs the same instructions
and only writes down what they would have called. Whoever reads the records decides what may become real.
Nesting costs no recursion, and no instruction takes more memory than the file has bytes.

Source:
    ``pickletools`` of the standard library.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickletools
import warnings
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

_MAX_INSTRUCTIONS = 20_000_000
_MAX_LINE_BYTES = 1 << 16
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}


class PickleError(ValueError):
    """The pickle is damaged or uses what no file here needs."""


@dataclasses.dataclass(frozen=True, slots=True)
class Global:
    """A name that the pickle would import."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class Made:
    """An object that the pickle would make, by a call or as a bare instance of a class.

    Attributes:
        function: what it would call; a ``Global`` in every honest file.
        args: the arguments.
        is_instance: whether it is ``cls.__new__(cls, *args)`` and no call.
        states: what the object would be given as its state.
        items: key and value pairs, or single elements, that would be added.
    """

    function: Any
    args: Any
    is_instance: bool
    states: list[Any] = dataclasses.field(default_factory=list)
    items: list[Any] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(slots=True, eq=False)
class Persistent:
    """A reference to something outside the pickle: a tensor's storage."""

    key: Any


class PlainSet(list[Any]):
    """The elements of a set, which may be records and then have no hash."""


class PlainDict:
    """The pairs of a dict in order; its keys may be records."""

    __slots__ = ("pairs",)

    def __init__(self) -> None:
        self.pairs: list[tuple[Any, Any]] = []


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Pickled:
    """What a pickle describes.

    Attributes:
        root: numbers, strings, tuples, lists, and the records of this file.
        names: every name that the pickle would import, used or not.
        references: every reference to something outside it, used or not.
    """

    root: Any
    names: tuple[Global, ...]
    references: tuple[Persistent, ...]


@contextlib.contextmanager
def unwarned() -> Iterator[None]:
    """Python warns of odd escapes in the text that it parses; this is a stranger's, for nobody to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_pickle(file: BinaryIO) -> Pickled:
    """What one pickle describes; the file is left behind it.

    Raises:
        PickleError: it is damaged, or has an instruction that no model needs.
    """
    machine = _Machine()
    try:
        with unwarned():
            root = machine.run(pickletools.genops(cast(Any, _Bounded(file))))
        return Pickled(root, tuple(machine.names), tuple(machine.references))
    except PickleError:
        raise
    except (ValueError, IndexError, KeyError, EOFError, UnicodeError, OverflowError, MemoryError) as error:
        raise PickleError(f"the pickle is damaged ({error})") from error


class _Bounded:
    """A file for ``pickletools``: a length that the file claims and does not have reserves no memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        start = file.tell()
        self._end = file.seek(0, os.SEEK_END)
        file.seek(start)
        self.tell = file.tell

    def read(self, count: int) -> bytes:
        return self._file.read(min(count, self._end - self._file.tell()))

    def readline(self) -> bytes:
        return self._file.readline(_MAX_LINE_BYTES)


_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = frozenset(
    "BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 BINSTRING SHORT_BINSTRING "
    "INT LONG FLOAT UNICODE STRING".split()
)
_MEMO_PUTS, _MEMO_GETS = (
    frozenset({"BINPUT", "LONG_BINPUT", "PUT"}),
    frozenset({"BINGET", "LONG_BINGET", "GET"}),
)
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """The stack and the memo of a pickle's interpreter."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.names: dict[Global, Global] = {}
        self.references: list[Persistent] = []

    def run(self, instructions: Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]) -> Any:
        for count, (code, argument, _) in enumerate(instructions):
            name = code.name
            if count > _MAX_INSTRUCTIONS:
                raise PickleError("the pickle has too many instructions")
            if name in _MEMO_GETS:
                self.stack.append(self.memo[int(argument)])
            elif name in _MEMO_PUTS:
                self.memo[int(argument)] = self.top()
            elif name in _LITERALS:
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _TUPLES:
                self.stack.append(tuple(self.take(_TUPLES[name])))
            elif name == "STOP":
                if len(self.stack) != 1:
                    raise PickleError("the pickle is damaged (it leaves more than one object)")
                return self.stack[0]
            elif name not in ("PROTO", "FRAME"):
                method = getattr(self, f"do_{name.lower()}", None)
                if method is None:
                    raise PickleError(f"the pickle has an instruction that no model needs ({name})")
                method(argument)
        raise PickleError("the pickle ends too early")

    def top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise PickleError("the pickle is damaged (nothing on its stack)")
        return self.stack[-1]

    def pop(self) -> Any:
        top = self.top()
        self.stack.pop()
        return top

    def take(self, count: int) -> list[Any]:
        return [self.pop() for _ in range(count)][::-1]

    def take_marked(self) -> list[Any]:
        taken: list[Any] = []
        while self.stack:
            value = self.stack.pop()
            if value is _MARK:
                return taken[::-1]
            taken.append(value)
        raise PickleError("the pickle is damaged (no mark)")

    def do_mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def do_pop(self, _: Any) -> None:
        self.stack.pop()

    def do_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.top()

    def do_empty_list(self, _: Any) -> None:
        self.stack.append([])

    def do_empty_dict(self, _: Any) -> None:
        self.stack.append(PlainDict())

    def do_empty_set(self, _: Any) -> None:
        self.stack.append(PlainSet())

    def do_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self.take_marked()))

    def do_list(self, _: Any) -> None:
        self.stack.append(self.take_marked())

    def do_dict(self, _: Any) -> None:
        made, content = PlainDict(), self.take_marked()
        self.add_pairs(made, content)
        self.stack.append(made)

    def do_frozenset(self, _: Any) -> None:
        self.stack.append(PlainSet(self.take_marked()))

    def do_append(self, _: Any) -> None:
        value = self.pop()
        self.add_elements(self.top(), [value])

    def do_appends(self, _: Any) -> None:
        values = self.take_marked()
        self.add_elements(self.top(), values)

    do_additems = do_appends

    def do_setitem(self, _: Any) -> None:
        pair = self.take(2)
        self.add_pairs(self.top(), pair)

    def do_setitems(self, _: Any) -> None:
        content = self.take_marked()
        self.add_pairs(self.top(), content)

    def add_elements(self, target: Any, values: list[Any]) -> None:
        if isinstance(target, Made):
            target.items.extend(values)
        elif isinstance(target, list):
            target.extend(values)
        else:
            raise PickleError("the pickle appends to what is no list")

    def add_pairs(self, target: Any, content: list[Any]) -> None:
        if len(content) % 2:
            raise PickleError("the pickle is damaged (a key without a value)")
        pairs = list(zip(content[::2], content[1::2], strict=True))
        if isinstance(target, Made):
            target.items.extend(pairs)
        elif isinstance(target, PlainDict):
            target.pairs.extend(pairs)
        else:
            raise PickleError("the pickle sets items of what is no dict")

    def do_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.push_global(module, name)

    def do_stack_global(self, _: Any) -> None:
        module, name = self.take(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("the pickle computes the name that it imports")
        self.push_global(module, name)

    def push_global(self, module: str, name: str) -> None:
        found = Global(_RENAMED.get(module, module), name)
        self.stack.append(self.names.setdefault(found, found))

    def do_reduce(self, _: Any) -> None:
        function, args = self.take(2)
        self.stack.append(Made(function=function, args=args, is_instance=False))

    def do_newobj(self, _: Any) -> None:
        function, args = self.take(2)
        self.stack.append(Made(function=function, args=args, is_instance=True))

    def do_build(self, _: Any) -> None:
        state = self.pop()
        target = self.top()
        if not isinstance(target, Made):
            raise PickleError("the pickle gives a state to what is no object of a class")
        target.states.append(state)

    def do_binpersid(self, _: Any) -> None:
        key = self.pop()
        if isinstance(key, tuple) and len(key) == 4 and key[0] == "module" and isinstance(key[1], Global):
            self.stack.append(key[1])  # torch.save before 1.6 put the class's source text beside its name
            return
        self.references.append(Persistent(key))
        self.stack.append(self.references[-1])
