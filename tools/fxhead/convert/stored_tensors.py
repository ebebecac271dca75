"""Tensors as a checkpoint describes them: shape, strides and storage, with no weight read.

Source:
    ``torch._utils._rebuild_tensor_v2`` and its kin, whose calls ``torch.save`` writes.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch

from fxexport.untrusted.pickle_records import Global, Made, Persistent, PlainDict
from fxexport.untrusted.tensors import described
from fxhead.loading.recognise import is_tensor
from fxpasses.errors import FileError
from fxpasses.report import Form
from fxpasses.weights.move import WeightMove

SIZE, STRIDE = 2, 3
"""Positions of these among the arguments of torch's rebuild functions."""
_REBUILDS = {f"torch._utils._rebuild_tensor{suffix}" for suffix in ("", "_v2", "_v3")}
_PARAMETERS = {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
_WITH_ATTRIBUTES = "torch._tensor._rebuild_from_type_v2"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """A run of bytes that tensors view; ``key`` is what the file calls it."""

    key: str
    size_bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        stride: elements from one index to the next, by axis.
        storage: where its elements are.
        arguments: what identifies its description in the file: two mentions of one tensor have the same.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    item_bytes: int
    storage: Storage
    arguments: object

    @property
    def first_byte(self) -> int:
        """Its first byte, counted from the start of the storage."""
        return self.offset * self.item_bytes

    @property
    def extent_bytes(self) -> int:
        """Bytes from its first to behind its last element."""
        if 0 in self.shape:
            return 0
        last = sum((extent - 1) * step for extent, step in zip(self.shape, self.stride, strict=True))
        return (last + 1) * self.item_bytes

    @property
    def is_dense(self) -> bool:
        """Whether its elements fill its extent, each in a place of its own."""
        filled = 1
        axes = [(step, extent) for step, extent in zip(self.stride, self.shape, strict=True) if extent != 1]
        for step, extent in sorted(axes):
            if step != filled:
                return False
            filled *= extent
        return True

    @property
    def size_bytes(self) -> int:
        """Bytes of all its elements."""
        return math.prod(self.shape) * self.item_bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TensorEdit:
    """One tensor to be reshaped.

    Attributes:
        place: where it is in the checkpoint, for people.
        shape: its extents afterwards.
        stride: its strides afterwards.
        is_copy: whether its elements get another order, so that they have to be written anew.
    """

    place: str
    tensor: StoredTensor
    move: WeightMove
    to: Form
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    is_copy: bool


def edit_of(place: str, tensor: StoredTensor, move: WeightMove, to: Form) -> TensorEdit:
    """The edit that takes ``tensor`` to the form ``to``; strides as torch itself would have them."""
    before = torch.empty_strided(tensor.shape, tensor.stride, device="meta")
    after = move.convert(before, to)
    return TensorEdit(
        place=place,
        tensor=tensor,
        move=move,
        to=to,
        shape=tuple(after.shape),
        stride=tuple(after.stride()),
        is_copy=not after._is_view(),
    )


def tensor_in(value: Any, where: str) -> StoredTensor | None:
    """The tensor that ``value`` describes, or None where it is something else.

    Raises:
        FileError: it is described in a way that contradicts itself.
    """
    if isinstance(value, StoredTensor):
        return value
    call = _rebuild_call(value)
    if call is None:
        return None
    name, args = call
    try:
        # (storage, offset, size, stride, requires_grad, hooks, …), the third version with a dtype next
        persistent, offset, shape, stride = args[: STRIDE + 1]
        storage, item_bytes = storage_of(persistent)
        if name.endswith("_v3"):
            item_bytes = _dtype_bytes(args[6])
        tensor = StoredTensor(
            shape=_extents(shape),
            stride=_extents(stride),
            offset=_extents((offset,))[0],
            item_bytes=item_bytes,
            storage=storage,
            arguments=args,
        )
        is_inside = tensor.first_byte + tensor.extent_bytes <= storage.size_bytes
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise _damaged(f"a tensor is described wrongly ({error})", where) from error
    if not is_inside:
        raise _damaged("a tensor reaches beyond its storage", where)
    return tensor


def _rebuild_call(value: Any) -> tuple[str, tuple[Any, ...]] | None:
    """The innermost rebuild function and its arguments, without what wraps a tensor in a parameter."""
    while isinstance(value, Made) and isinstance(value.args, tuple) and not value.is_instance:
        name, args = str(value.function), value.args
        if name in _REBUILDS:
            return name, args
        if name in _PARAMETERS and args:
            value = args[0]
        elif name == _WITH_ATTRIBUTES and len(args) > 2 and isinstance(args[2], tuple):
            return (str(args[0]), args[2]) if str(args[0]) in _REBUILDS else None
        else:
            return None
    return None


def storage_of(persistent: Any) -> tuple[Storage, int]:
    """The storage that a pickle refers to, and the size of its elements.

    Raises:
        TypeError, ValueError: it is none that ``torch.save`` writes.
    """
    if not isinstance(persistent, Persistent):
        raise TypeError("no storage")
    key, dtype, size = described(persistent)
    if any(part is not None for part in persistent.key[5:]):
        raise ValueError("a storage of a kind that torch no longer writes")
    return Storage(key=key, size_bytes=size), 1 if dtype is None else dtype.itemsize


def _dtype_bytes(name: Any) -> int:
    dtype = getattr(torch, name.name, None) if isinstance(name, Global) and name.module == "torch" else None
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"no dtype {name}")
    return dtype.itemsize


def _extents(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple) or not all(type(v) is int and 0 <= v < 1 << 62 for v in values):
        raise ValueError("extents that are no natural numbers")
    return values


def _damaged(what: str, where: str) -> FileError:
    return FileError(f"is damaged: {what}", where=where, fix="copy or save the file again")


def pairs_of(value: Any) -> list[tuple[Any, Any]] | None:
    """The pairs of a dict, an OrderedDict or the like; None for anything else."""
    if isinstance(value, PlainDict):
        return value.pairs
    if not isinstance(value, Made) or is_tensor(value) or not value.items:
        return None
    return value.items if all(isinstance(item, tuple) and len(item) == 2 for item in value.items) else None
