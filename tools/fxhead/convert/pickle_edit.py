"""A pickle with the shapes of some tensors changed, and every other byte as it was.

Nothing is loaded and pickled again: that would lose what a loader does not keep, such as device tags and
objects that it may not make. The two tuples in a tensor's description that hold its extents and strides
are replaced where they stand; a pickle has no lengths or offsets that would have to follow.

Source:
    ``pickletools`` of the standard library.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pickle import dumps
from pickletools import optimize
from typing import Any, BinaryIO

from fxexport.untrusted.limits import MAX_PICKLE_INSTRUCTIONS
from fxexport.untrusted.pickle_records import Persistent
from fxexport.untrusted.pickles import MARK, Instruction, PickleMachine
from fxhead.convert.stored_tensors import SIZE, STRIDE, TensorEdit
from fxpasses.errors import PlanError

Span = tuple[int, int]
_PUTS = frozenset({"BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"})
_GETS = frozenset({"BINGET", "LONG_BINGET", "GET"})
_FRAME_BYTES = 9


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpannedPickle:
    """A pickle's content, and where in the file its tuples stand.

    Attributes:
        elements: by identity of a tuple, the tuple and the places of its elements.
        mentions: by identity of a tuple, the places that refer back to it.
        frames: places of frame headers, which hold lengths.
        names: what it would import.
        storages: its references to bytes outside of it.
    """

    root: Any
    start: int
    end: int
    elements: dict[int, tuple[tuple[Any, ...], list[Span]]]
    mentions: dict[int, list[Span]]
    frames: list[Span]
    names: frozenset[str]
    storages: tuple[Persistent, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PickledCheckpoint:
    """A checkpoint whose content is a pickle; ``data`` are the pickle's bytes."""

    pickle: SpannedPickle
    data: bytes

    @property
    def root(self) -> Any:
        """What it holds."""
        return self.pickle.root

    @property
    def names(self) -> frozenset[str]:
        """What it would import."""
        return self.pickle.names


def read_spanned(file: BinaryIO, most: int = MAX_PICKLE_INSTRUCTIONS) -> SpannedPickle:
    """The pickle of at most so many instructions that begins where ``file`` stands; the file is left behind.

    Raises:
        PickleError: it is damaged, or has an instruction that only an attack would.
    """
    start = file.tell()
    machine = PickleMachine(most)
    watch = _Watch(machine)
    root = machine.read(file, watch.watched)
    return SpannedPickle(
        root=root,
        start=start,
        end=file.tell(),
        elements=watch.elements,
        mentions=watch.mentions,
        frames=watch.frames,
        names=frozenset(map(str, machine.names)),
        storages=tuple(machine.references),
    )


class _Watch:
    """Notes where what lies on a machine's stack was written, by looking at it between instructions."""

    def __init__(self, machine: PickleMachine) -> None:
        self.machine = machine
        self.spans: list[Span] = []
        self.elements: dict[int, tuple[tuple[Any, ...], list[Span]]] = {}
        self.mentions: dict[int, list[Span]] = defaultdict(list)
        self.frames: list[Span] = []

    def watched(self, instructions: Iterator[Instruction]) -> Iterator[Instruction]:
        """The instructions as they come; the machine has run each of them when the next is asked for."""
        last: tuple[str, int, list[Span] | None] | None = None
        for instruction in instructions:
            code, _, position = instruction
            assert position is not None, "an open file has positions"
            if last is not None:
                self.settle(*last, end=position)
            last = (code.name, position, self.marked() if code.name == "TUPLE" else None)
            yield instruction

    def marked(self) -> list[Span]:
        """Places of what lies above the topmost mark."""
        stack = self.machine.stack
        above = next((n for n, value in enumerate(reversed(stack)) if value is MARK), 0)
        return self.spans[len(stack) - above :]

    def settle(self, name: str, start: int, elements: list[Span] | None, *, end: int) -> None:
        """Takes note of an instruction that was run."""
        stack, spans = self.machine.stack, self.spans
        if name == "FRAME":
            self.frames.append((start, start + _FRAME_BYTES))
        elif name in _PUTS:
            return  # what follows a value to remember it is not part of the value
        elif len(stack) > len(spans):
            spans.append((start, end))
        else:
            del spans[len(stack) :]
            if spans:
                spans[-1] = (spans[-1][0], end)
        if elements is not None:
            self.elements[id(stack[-1])] = (stack[-1], elements)
        elif name in _GETS and isinstance(stack[-1], tuple):
            self.mentions[id(stack[-1])].append((start, end))


def edited(pickle: SpannedPickle, data: bytes, edits: Sequence[TensorEdit]) -> bytes:
    """``data``, the bytes of ``pickle``, with the shapes and strides of the edits.

    Raises:
        PlanError: a tensor is described in a way that cannot be changed alone.
    """
    if not edits:
        return data
    changes: dict[Span, bytes] = dict.fromkeys(pickle.frames, b"")  # frames are hints, and optional
    originals: list[tuple[tuple[int, ...], Span]] = []
    for edit in edits:
        args = edit.tensor.arguments
        found = pickle.elements.get(id(args))
        if found is None or pickle.mentions.get(id(args)):
            raise PlanError(
                "its description in the file is not as torch.save writes it",
                where=edit.place,
                fix="load the checkpoint with torch.load and save it again",
            )
        values, spans = found
        for position, extents in ((SIZE, edit.shape), (STRIDE, edit.stride)):
            changes[spans[position]] = _tuple(extents)
            originals.append((values[position], spans[position]))
    for value, span in originals:
        # another tensor may refer back to this tuple: it gets its own copy of the old one
        for mention in pickle.mentions.get(id(value), ()):
            if mention != span:
                changes.setdefault(mention, _tuple(value))
    parts, position = [], pickle.start
    for (start, end), new in sorted(changes.items()):
        parts += [data[position - pickle.start : start - pickle.start], new]
        position = end
    return b"".join((*parts, data[position - pickle.start :]))


def _tuple(values: tuple[int, ...]) -> bytes:
    """A tuple of natural numbers as Python's pickler spells it, without what begins and ends a pickle."""
    return optimize(dumps(values, protocol=2))[2:-1]
