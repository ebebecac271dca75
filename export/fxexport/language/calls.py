"""What a run calls of torch, so that a recording can be held against it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from fxpasses.private_names import pytree

_SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)
_Number: TypeAlias = bool | int | float | complex | torch.SymInt | torch.SymFloat | torch.SymBool
_CHECK = "_assert"
"""Its message may tell extents, and it computes nothing."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Seen:
    """A tensor, by its number in the order in which they are seen, and what it is called if it is a weight.

    Attributes:
        number: the number.
        shape: its extents.
        kind: its type, and its name.
    """

    number: int
    shape: tuple[Any, ...]
    kind: tuple[object, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class _Call:
    """A function that was called.

    Attributes:
        name: the function.
        given: what it was given: tensors, numbers, and text for what else there is.
        made: the tensors that it gave.
    """

    name: str
    given: tuple[_Seen | _Number | str, ...]
    made: tuple[_Seen, ...]


class Calls(TorchFunctionMode):
    """Notes within it which functions compute tensors, from which numbers and from which other tensors.

    Whatever else code does is Python's: of two runs that call the same functions, with the same numbers, on
    tensors that come from the same calls, one computes what the other does.
    """

    def __init__(self, module: nn.Module, inputs: Sequence[torch.Tensor] = ()) -> None:
        """Nothing was called yet.

        Args:
            module: whose weights are told by their names.
            inputs: the tensors that the run is given.
        """
        super().__init__()
        self._seen = WeakIdKeyDictionary()
        self._names = {id(part): name for name, part in _registered(module)}
        self._count = 0
        self._calls: list[_Call] = []
        self._inputs = tuple(self._tensor(item) for item in inputs)

    @property
    def extents(self) -> list[tuple[Any, ...]]:
        """Those of the inputs."""
        return [item.shape for item in self._inputs]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        with _unwatched():
            given = tuple(self._read(leaf) for leaf in _leaves((args, kwargs)))
        result = func(*args, **(kwargs or {}))
        with _unwatched():
            self._note(name_of(func), given, result)
        return result

    def _note(self, name: str, given: tuple[_Seen | _Number | str, ...], result: Any) -> None:
        made = [leaf for leaf in _leaves(result) if isinstance(leaf, torch.Tensor)]
        read = [item for item in given if isinstance(item, _Seen)]
        is_about_tensors = made or (result is None and read)
        # torch 2.11 notes in tensors without cells whether gradients are recorded
        is_about_cells = not all(map(_is_empty, [*(item.shape for item in read), *(t.shape for t in made)]))
        if is_about_tensors and is_about_cells and name != _CHECK:
            self._calls.append(_Call(name, given, tuple(map(self._tensor, made))))

    def gave(self, result: Any) -> None:
        """Notes what the run ends with: of two that compute the same one may give another part of it."""
        self._calls.append(_Call("what is given", tuple(map(self._read, _leaves(result))), ()))

    def _read(self, leaf: Any) -> _Seen | _Number | str:
        if isinstance(leaf, torch.Tensor):
            return self._tensor(leaf)
        if isinstance(leaf, (bool, int, float, complex, *_SYMBOLS)):
            return leaf
        if isinstance(leaf, np.ndarray):
            return f"{leaf.dtype} {leaf.shape} {hashlib.sha256(leaf.tobytes()).hexdigest()}"
        is_plain = isinstance(leaf, str | torch.dtype | torch.device | torch.layout | torch.memory_format)
        return str(leaf) if leaf is None or leaf is ... or is_plain else type(leaf).__qualname__

    def _tensor(self, tensor: torch.Tensor) -> _Seen:
        if tensor not in self._seen:
            kind = tensor.dtype, self._names.get(id(tensor))
            self._seen[tensor] = _Seen(self._count, tuple(tensor.shape), kind)
            self._count += 1
        found: _Seen = self._seen[tensor]
        return found

    def difference(self, run: Calls) -> str | None:
        """The first function of a run that was not called so in this recording; None where all were."""
        values: dict[Any, int] = {}
        for own, other in zip(self.extents, run.extents, strict=True):
            values |= {a.node.expr: b for a, b in zip(own, other, strict=True) if isinstance(a, torch.SymInt)}
        pairs = _Pairs(values)
        if not all(map(pairs.are_same, self._inputs, run._inputs)):
            return "an input"
        for call, called in zip_longest(self._calls, run._calls):
            if call is None or called is None or not pairs.are_same_call(call, called):
                name: str = (called or call).name
                return name
        return None


class _Pairs:
    """The tensors of a recording beside those of a run.

    Args:
        values: the extents of the run, by the symbols of the recording.
    """

    def __init__(self, values: Mapping[Any, int]) -> None:
        self._values = values
        self._pairs: set[tuple[int, int]] = set()
        self._known: tuple[set[int], set[int]] = set(), set()

    def are_same_call(self, own: _Call, run: _Call) -> bool:
        """Whether the two functions are one, on the same; what they give is the same from then on.

        What is given once more may be the same object in the one and another one in the other.
        """
        if own.name != run.name or len(own.given) != len(run.given) or len(own.made) != len(run.made):
            return False
        is_same = all(map(self.are_same, own.given, run.given))
        for a, b in zip(own.made, run.made, strict=True):
            self._join(a, b)
        return is_same

    def are_same(self, own: object, run: object) -> bool:
        """Whether the two are one number, or one tensor as far as is known."""
        if isinstance(own, _Seen) and isinstance(run, _Seen):
            if own.number in self._known[0] or run.number in self._known[1]:
                return (own.number, run.number) in self._pairs
            self._join(own, run)
            return own.kind == run.kind and [*map(self._number, own.shape)] == [*map(self._number, run.shape)]
        if isinstance(own, str) or isinstance(run, str):
            return own == run
        return repr(self._number(own)) == repr(self._number(run))  # where NaN is NaN, and 1 is not 1.0

    def _join(self, own: _Seen, run: _Seen) -> None:
        self._pairs.add((own.number, run.number))
        self._known[0].add(own.number)
        self._known[1].add(run.number)

    def _number(self, number: Any) -> object:
        if not isinstance(number, _SYMBOLS):
            return number
        found = number.node.expr.xreplace(self._values)
        kind = {torch.SymInt: int, torch.SymFloat: float, torch.SymBool: bool}[type(number)]
        try:
            return kind(found)
        except TypeError:  # it hangs on values
            return None


@contextlib.contextmanager
def _unwatched() -> Iterator[None]:
    """Lets nobody look at Python's calls within it: they are of those who look."""
    watching = sys.getprofile()
    if not callable(watching):  # cProfile is none of ours
        yield
        return
    sys.setprofile(None)
    try:
        yield
    finally:
        sys.setprofile(watching)


def _is_empty(shape: Sequence[Any]) -> bool:
    """Whether a tensor has no cells, at any size of the inputs."""
    return any(isinstance(extent, int) and extent == 0 for extent in shape)


def _registered(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _leaves(value: object) -> Iterator[Any]:
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, slice):
            yield from (leaf.start, leaf.stop, leaf.step)
        else:
            yield leaf


def name_of(func: Callable[..., Any]) -> str:
    """A function's name; of an attribute that is read or set the attribute's."""
    name = getattr(func, "__name__", str(func))
    return f"{name} {getattr(func.__self__, '__name__', '')}" if name in ("__get__", "__set__") else name  # type: ignore[attr-defined]
