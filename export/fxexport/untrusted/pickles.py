"""A pickle as plain records: what it would make and call, with nothing made, called or imported.

``pickle.load`` is an interpreter whose instructions call functions. This one runs the same instructions
and only writes down what they would have called. Whoever reads the records decides what may become real.
Nesting costs no recursion, and no instruction takes more memory than the file has bytes.

Source:
    ``pickletools`` of the standard library.
"""

from __future__ import annotations

import contextlib
import os
import pickletools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

from fxexport.untrusted.expansion import require_bounded
from fxexport.untrusted.limits import (
    MAX_ARGUMENT_BYTES,
    MAX_LINE_BYTES,
    MAX_NUMBER_BITS,
    MAX_PICKLE_INSTRUCTIONS,
)
from fxexport.untrusted.pickle_records import (
    Global,
    Made,
    Persistent,
    Pickled,
    PickleError,
    PlainDict,
    PlainSet,
)

Instruction = tuple[pickletools.OpcodeInfo, Any, int | None]
"""What it does, its argument, and where in the file it stands."""
Watched = Callable[[Iterator[Instruction]], Iterator[Instruction]]

_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}
MARK = object()
"""Lies on the stack where a group of values begins."""
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


@contextlib.contextmanager
def unwarned() -> Iterator[None]:
    """Python warns of odd escapes in the text that it parses; this is a stranger's, for nobody to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_pickle(file: BinaryIO, most: int = MAX_PICKLE_INSTRUCTIONS) -> Pickled:
    """What one pickle of at most so many instructions describes; the file is left behind it.

    Raises:
        PickleError: it is damaged, or has an instruction that no model needs.
    """
    machine = PickleMachine(most)
    root = machine.read(file)
    return Pickled(root, tuple(machine.names), tuple(machine.references))


class PickleMachine:
    """The stack and the memo of a pickle's interpreter.

    Attributes:
        stack: values, and ``MARK`` where a group of them begins.
        references: every reference to something outside the pickle, in order.
    """

    def __init__(self, most: int = MAX_PICKLE_INSTRUCTIONS) -> None:
        self._most = most
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self.names: dict[Global, Global] = {}
        self.references: list[Persistent] = []

    def read(self, file: BinaryIO, watched: Watched = iter) -> Any:
        """What the pickle that begins where ``file`` stands describes; the file is left behind it.

        ``watched`` gives on the instructions that it is given; the machine has run each of them when it asks
        for the next.

        Raises:
            PickleError: it is damaged, or has an instruction that no model needs.
        """
        try:
            with unwarned():
                root = self._run(watched(pickletools.genops(cast(Any, _BoundedFile(file)))))
                require_bounded(root)
                return root
        except PickleError:
            raise
        except (ValueError, IndexError, KeyError, EOFError, OverflowError, MemoryError) as error:
            raise PickleError(f"the pickle is damaged ({error})") from error

    def _run(self, instructions: Iterator[Instruction]) -> Any:
        for count, (code, argument, _) in enumerate(instructions):
            name = code.name
            if count > self._most:
                raise PickleError(f"the pickle has more instructions than the limit of {self._most:,}")
            if name in _MEMO_GETS:
                self.stack.append(self._memo[int(argument)])
            elif name in _MEMO_PUTS:
                self._memo[int(argument)] = self._top()
            elif name in _LITERALS:
                if type(argument) is int and argument.bit_length() > MAX_NUMBER_BITS:
                    raise PickleError(f"the pickle has a number above the limit of {MAX_NUMBER_BITS:,} bits")
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _TUPLES:
                self.stack.append(tuple(self._take(_TUPLES[name])))
            elif name in _PUSHED:
                self.stack.append(_PUSHED[name](self))
            elif name == "STOP":
                if len(self.stack) != 1:
                    raise PickleError("the pickle is damaged (it leaves more than one object)")
                return self.stack[0]
            elif name not in ("PROTO", "FRAME"):
                method = getattr(self, f"_do_{name.lower()}", None)
                if method is None:
                    raise PickleError(f"the pickle has an instruction that no model needs ({name})")
                method(argument)
        raise PickleError("the pickle ends too early")

    def _top(self) -> Any:
        if not self.stack or self.stack[-1] is MARK:
            raise PickleError("the pickle is damaged (nothing on its stack)")
        return self.stack[-1]

    def _pop(self) -> Any:
        top = self._top()
        self.stack.pop()
        return top

    def _take(self, count: int) -> list[Any]:
        return [self._pop() for _ in range(count)][::-1]

    def _take_marked(self) -> list[Any]:
        taken: list[Any] = []
        while self.stack:
            value = self.stack.pop()
            if value is MARK:
                return taken[::-1]
            taken.append(value)
        raise PickleError("the pickle is damaged (no mark)")

    def _do_pop(self, _: Any) -> None:
        self.stack.pop()

    def _do_memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._top()

    def _do_dict(self, _: Any) -> None:
        made, content = PlainDict(), self._take_marked()
        self._add_pairs(made, content)
        self.stack.append(made)

    def _do_append(self, _: Any) -> None:
        value = self._pop()
        self._add_elements(self._top(), [value])

    def _do_appends(self, _: Any) -> None:
        values = self._take_marked()
        self._add_elements(self._top(), values)

    _do_additems = _do_appends

    def _do_setitem(self, _: Any) -> None:
        pair = self._take(2)
        self._add_pairs(self._top(), pair)

    def _do_setitems(self, _: Any) -> None:
        content = self._take_marked()
        self._add_pairs(self._top(), content)

    def _add_elements(self, target: Any, values: list[Any]) -> None:
        if isinstance(target, Made):
            target.items.extend(values)
        elif isinstance(target, list):
            target.extend(values)
        else:
            raise PickleError("the pickle appends to what is no list")

    def _add_pairs(self, target: Any, content: list[Any]) -> None:
        if len(content) % 2:
            raise PickleError("the pickle is damaged (a key without a value)")
        pairs = list(zip(content[::2], content[1::2], strict=True))
        if isinstance(target, Made):
            target.items.extend(pairs)
        elif isinstance(target, PlainDict):
            target.pairs.extend(pairs)
        else:
            raise PickleError("the pickle sets items of what is no dict")

    def _do_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._push_global(module, name)

    def _do_stack_global(self, _: Any) -> None:
        module, name = self._take(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("the pickle computes the name that it imports")
        self._push_global(module, name)

    def _push_global(self, module: str, name: str) -> None:
        found = Global(_RENAMED.get(module, module), name)
        self.stack.append(self.names.setdefault(found, found))

    def _made(self, *, is_instance: bool) -> Made:
        function, args = self._take(2)
        return Made(function=function, args=args, is_instance=is_instance)

    def _do_build(self, _: Any) -> None:
        state = self._pop()
        target = self._top()
        if not isinstance(target, Made):
            raise PickleError("the pickle gives a state to what is no object of a class")
        target.states.append(state)

    def _do_binpersid(self, _: Any) -> None:
        key = self._pop()
        if isinstance(key, tuple) and len(key) == 4 and key[0] == "module" and isinstance(key[1], Global):
            self.stack.append(key[1])  # torch.save before 1.6 put the class's source text beside its name
            return
        self.references.append(Persistent(key))
        self.stack.append(self.references[-1])


_PUSHED: dict[str, Callable[[PickleMachine], Any]] = {
    "MARK": lambda _: MARK,
    "EMPTY_LIST": lambda _: [],
    "EMPTY_DICT": lambda _: PlainDict(),
    "EMPTY_SET": lambda _: PlainSet(),
    "LIST": PickleMachine._take_marked,
    "TUPLE": lambda machine: tuple(machine._take_marked()),
    "FROZENSET": lambda machine: PlainSet(machine._take_marked()),
    "REDUCE": lambda machine: machine._made(is_instance=False),
    "NEWOBJ": lambda machine: machine._made(is_instance=True),
}
"""What an instruction leaves on the stack."""


class _BoundedFile:
    """A file for ``pickletools``: a length that the file claims and does not have reserves no memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        start = file.tell()
        self._end = file.seek(0, os.SEEK_END)
        file.seek(start)
        self.tell = file.tell

    def read(self, count: int) -> bytes:
        if count > MAX_ARGUMENT_BYTES:
            raise PickleError(f"it has a text or number above the limit of {MAX_ARGUMENT_BYTES:,} bytes")
        return self._file.read(min(count, self._end - self._file.tell()))

    def readline(self) -> bytes:
        return self._file.readline(MAX_LINE_BYTES)
