"""A module recorded by ``torch.export``, called as it is called by its users."""

from __future__ import annotations

import contextlib
import dataclasses
import operator
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from types import FrameType
from typing import Any, TypeAlias, cast
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn
from torch.export import ExportedProgram
from torch.overrides import TorchFunctionMode

from fxexport.language.calls import Calls
from fxexport.language.graph import Dims, NotRead
from fxexport.private_names import META
from fxpasses.graph.held import Change, Held
from fxpasses.graph.quiet import quiet
from fxpasses.graph.tracing import tracing
from fxpasses.private_names import pytree


class Unread:
    """Stands in a model's memory for what a run may write, and has no right to read."""

    def _refuse(self, *_: object) -> Any:
        raise NotRead("it is read")

    __getattribute__ = __bool__ = __eq__ = __hash__ = __repr__ = __str__ = __format__ = _refuse


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a module holds when it is recorded.

    Attributes:
        held: what that is; None for what it holds now.
        unread: where it holds what may not be read.
        gives: where what it holds instead afterwards is given behind its outputs, as far as that is tensors.
    """

    held: Held | None = None
    unread: Sequence[Change] = ()
    gives: Sequence[Change] = ()


_NOW = Start()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A recorded call.

    Attributes:
        program: what was recorded.
        calls: what was called while it was recorded.
        changes: where the module held something else after it.
    """

    program: ExportedProgram
    calls: Calls
    changes: Sequence[Change]


class Called(nn.Module):
    """A module as it is called: with its hooks, its own ``__call__``, and the code that its graph became.

    What ``torch.export`` is given it takes apart: it runs the graph of a ``GraphModule`` instead of its code,
    and passes over what stands around ``forward``. What is called inside of it runs as it is. And it calls
    several times, which has to find the same in the module each time.
    """

    PREFIX = "inner."

    def __init__(
        self,
        inner: nn.Module,
        start: Start = _NOW,
        tell: Callable[[tuple[Calls, Sequence[Change]]], object] = bool,
    ) -> None:
        """Wraps the module; ``tell`` hears what a run called, and what it changed."""
        super().__init__()
        self.inner = inner
        self.training = inner.training
        self._start, self._tell = start, tell

    def forward(self, *args: torch.Tensor) -> Any:
        """Calls it."""
        found = held = Held(self.inner)
        if self._start.held is not None:
            self._start.held.put_back()
            held = Held(self.inner)
        for place in self._start.unread:
            cast(dict[Any, Any], place.container)[place.key] = Unread()
        try:
            calls = Calls(self.inner, args)
            with _told_as_when_run(), WholePools(), calls:
                result = self.inner(*args)
            calls.gave(result)
            changes = [change for change in held.changes() if not _is_registered(self.inner, change.value)]
        finally:
            held.put_back()
            found.put_back()
        self._tell((calls, changes))
        made = inside(changes, self._start.gives)
        return (result, kept_tensors(made)) if made else result


def _is_registered(module: nn.Module, value: object) -> bool:
    """Whether a value is parameters and buffers, as recurrent layers list them.

    While it records, torch.export puts others in their place, and the layer lists those.
    """
    known = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
    leaves = [leaf() if isinstance(leaf, weakref.ref) else leaf for leaf in pytree.tree_leaves(value)]
    return bool(leaves) and all(id(leaf) in known for leaf in leaves)


def inside(changes: Sequence[Change], others: Sequence[Change]) -> list[Change]:
    """Those changes that are in the place of another one."""
    places = [change.place for change in others]
    return [change for change in changes if change.place in places]


def kept_tensors(changes: Sequence[Change]) -> list[torch.Tensor]:
    """The tensors that a module holds in changed places."""
    leaves = pytree.tree_leaves([change.value for change in changes])
    return [item for item in leaves if isinstance(item, torch.Tensor)]


@contextlib.contextmanager
def _told_as_when_run() -> Iterator[None]:
    """Code that asks whether it is recorded hears what it hears in a run; torch's own code hears the truth.

    Else a module could do one thing when it runs and another when it is recorded, which no guard tells.
    """
    functions = "is_compiling", "is_exporting"

    def answer() -> bool:
        caller: FrameType | None = sys._getframe(1)
        while caller is not None and caller.f_code.co_name in functions:  # older names of the same question
            caller = caller.f_back
        module = "" if caller is None else str(caller.f_globals.get("__name__"))
        return module == "torch" or module.startswith("torch.")

    flags = "_is_compiling_flag", "_is_exporting_flag"
    told: dict[str, Any] = dict.fromkeys(functions, answer) | dict.fromkeys(flags, False)
    if not torch.compiler.is_exporting():
        yield
        return
    with mock.patch.multiple(torch.compiler, **told):
        yield


_POOLS: dict[Callable[..., Any], int] = {F.avg_pool1d: 1, F.avg_pool2d: 2, F.avg_pool3d: 3}


class WholePools(TorchFunctionMode):
    """Within it an average pool whose window is all of its input is the mean, at every size.

    ``F.avg_pool2d(x, x.shape[2:])`` is one, but the operator takes numbers only, so that torch fixes them.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The mean in the place of such a pool."""
        given = kwargs or {}
        rank = _POOLS.get(func, 0)
        if rank and _is_whole(rank, *args, **given):
            pooled: torch.Tensor = args[0] if args else given["input"]
            return pooled.mean(tuple(range(-rank, 0)), keepdim=True)
        return func(*args, **given)


def _is_whole(
    rank: int,
    input: torch.Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> bool:
    """Whether the window is made of the map's free extents; they are compared without their numbers."""
    extents, pads = input.shape[-rank:], padding if isinstance(padding, Sequence) else (padding,)
    if divisor_override is not None or any(pads) or not isinstance(kernel_size, Sequence):
        return False  # one number for several axes is the map where that is square alone
    return len(kernel_size) == rank and all(
        isinstance(a, torch.SymInt) and isinstance(b, torch.SymInt) and a.node.expr == b.node.expr
        for a, b in zip(kernel_size, extents, strict=True)
    )


RECORDING_S = 30
"""Processor time: torch takes minutes for some models that pad what they window, whatever comes of it."""

ANY_MEMORY = 1 << 62
"""Recording takes what the model is large."""

TOO_SLOW = f"torch.export takes more than {RECORDING_S} s where sizes are free"

_Kept: TypeAlias = dict[tuple[object, ...], tuple[nn.Module, Held, Recording | NotRead]]
_shared: ContextVar[_Kept | None] = ContextVar("recordings", default=None)


@contextlib.contextmanager
def shared_recordings() -> Iterator[None]:
    """Within it a module is recorded once for all calls that are alike; it has to stay as it is."""
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)


def are_shared() -> bool:
    """Whether what is recorded now is kept."""
    return _shared.get() is not None


@dataclasses.dataclass(frozen=True, slots=True)
class ModuleCall:
    """The arguments of a call."""

    tensors: tuple[torch.Tensor, ...]

    def freed(self, *, batch: bool, sizes: bool) -> list[Dims]:
        """The extents of the tensors, None for those that are to be free."""
        rows = next((item.shape[0] for item in self.tensors if item.dim()), None)

        def is_free(axis: int, extent: int) -> bool:
            return sizes if axis > 1 else batch and axis == 0 and extent == rows

        return [
            tuple(None if is_free(axis, extent) else extent for axis, extent in enumerate(item.shape))
            for item in self.tensors
        ]

    def at(self, dims: Sequence[Dims]) -> ModuleCall:
        """The same with tensors of these extents; None leaves one as it is."""

        def resized(item: torch.Tensor, own: Dims) -> torch.Tensor:
            for axis, (extent, wanted) in enumerate(zip(item.shape, own, strict=True)):
                if wanted is not None and wanted != extent:
                    item = item.index_select(axis, torch.arange(wanted, device=item.device) % max(1, extent))
            return item

        return ModuleCall(tuple(map(resized, self.tensors, dims)))

    def doubled(self) -> ModuleCall:
        """The same with a batch of two where it is one: an extent of 1 would be fixed."""
        first = next((item for item in self.tensors if item.dim()), None)
        if first is None or first.shape[0] != 1:
            return self
        is_one = (item.shape[:1] == (1,) for item in self.tensors)
        pairs = zip(self.tensors, is_one, strict=True)
        return ModuleCall(tuple(torch.cat([item, item]) if one else item for item, one in pairs))

    def recorded(self, module: nn.Module, dims: Sequence[Dims]) -> Recording:
        """The module as ``torch.export`` records this call; extents that are None in ``dims`` are free.

        Raises:
            NotRead: it refuses.
        """
        kept = _shared.get()
        if kept is None:
            return self.recorded_from(_NOW, module, dims)
        key = id(module), str(dims), *((item.shape, item.dtype, item.device) for item in self.tensors)
        if key not in kept or kept[key][1].changes():
            held = Held(module)
            kept[key] = module, held, NotRead(TOO_SLOW)  # which nobody tells who stops it
            try:
                kept[key] = module, held, self.recorded_from(_NOW, module, dims)
            except NotRead as refused:
                kept[key] = module, held, refused
        found = kept[key][2]
        if isinstance(found, NotRead):
            raise found
        return found

    def recorded_from(self, start: Start, module: nn.Module, dims: Sequence[Dims]) -> Recording:
        """The same where the module holds what ``start`` says."""
        auto = torch.export.Dim.AUTO
        free = tuple({axis: auto for axis, extent in enumerate(own) if extent is None} for own in dims)
        told: list[tuple[Calls, Sequence[Change]]] = []
        try:
            with (
                quiet("torch.export", "torch.fx", "torch._subclasses"),
                warnings.catch_warnings(),
                torch.no_grad(),
                tracing(module),
                # the same for positive divisors, without a branch on the remainder, which torch 2.11 has
                mock.patch.object(META, "div_rtn", operator.floordiv),
            ):
                warnings.simplefilter("ignore")
                program = torch.export.export(
                    Called(module, start, told.append),
                    # where torch fails it leaves marks on its inputs, of axes that are free
                    tuple(item.detach() for item in self.tensors),
                    dynamic_shapes={"args": free} if any(free) else None,
                    strict=False,
                )
        except Exception as error:  # whatever the module's own code raises
            lines = str(error).strip().splitlines() or [""]
            raise NotRead(f"torch.export refuses the module ({type(error).__name__}: {lines[0]})") from error
        calls, changes = told[-1]
        return Recording(program=program, calls=calls, changes=changes)
