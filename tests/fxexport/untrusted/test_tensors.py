"""Every number that a pickle says of a tensor or a storage is checked against the bytes there are."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from fxexport.untrusted.limits import MAX_EXPANDED_ELEMENTS
from fxexport.untrusted.pickle_records import Global, Persistent, PickleError
from fxexport.untrusted.tensors import LegacyStorages, described, tensor

FLOATS = Global("torch", "FloatStorage")


def test_a_tensor_is_where_it_says() -> None:
    storage = torch.arange(6, dtype=torch.float32).untyped_storage()
    made = tensor(storage, torch.float32, 1, (2, 2), (2, 1))
    assert made.tolist() == [[1, 2], [3, 4]]
    assert made.untyped_storage().data_ptr() == storage.data_ptr()
    assert tensor(storage, torch.float32, 40, (0, 3), (3, 1)).shape == (0, 3)
    assert tensor(storage, torch.float32, 0, (MAX_EXPANDED_ELEMENTS,), (0,)).shape == (MAX_EXPANDED_ELEMENTS,)


@pytest.mark.parametrize(
    ("offset", "size", "stride", "says"),
    [
        (0, (7,), (1,), "beyond its storage"),
        (6, (1,), (1,), "beyond its storage"),
        (0, (2, 2), (4, 2), "beyond its storage"),
        (-1, (1,), (1,), "no possible value"),
        (0, (-1,), (1,), "no possible value"),
        (0, (2,), (-1,), "no possible value"),
        (True, (2,), (1,), "no possible value"),
        (0, (2.0,), (1,), "no possible value"),
        (0, (0, 1 << 48), (1, 1), "no possible value"),
        (0, (2, 2), (1,), "do not fit each other"),
        (0, (1,) * 65, (1,) * 65, "do not fit each other"),
        (0, [2], (1,), "that is no tuple"),
        (0, (2,), 1, "that is no tuple"),
        (0, (MAX_EXPANDED_ELEMENTS + 1,), (0,), "expands 6 elements"),
    ],
)
def test_a_tensor_that_is_not_there_is_refused(offset: Any, size: Any, stride: Any, says: str) -> None:
    storage = torch.arange(6, dtype=torch.float32).untyped_storage()
    with pytest.raises(PickleError, match=says):
        tensor(storage, torch.float32, offset, size, stride)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("storage", "no storage"),
        (("storage", FLOATS, "0", "cpu"), "no storage"),
        (("module", FLOATS, "0", "cpu", 4), "no storage"),
        (("storage", "FloatStorage", "0", "cpu", 4), "no known type"),
        (("storage", Global("os", "FloatStorage"), "0", "cpu", 4), "no known type"),
        (("storage", Global("torch", "load"), "0", "cpu", 4), "no known type"),
        (("storage", FLOATS, 0, "cpu", 4), "without a name"),
        (("storage", FLOATS, "../0", "cpu", 4), "without a name"),
        (("storage", FLOATS, "0", "cpu", "4"), "no possible size"),
        (("storage", FLOATS, "0", "cpu", True), "no possible size"),
        (("storage", FLOATS, "0", "cpu", -1), "no possible size"),
        (("storage", FLOATS, "0", "cpu", 1 << 48), "no possible size"),
    ],
)
def test_a_reference_to_anything_else_is_refused(key: Any, says: str) -> None:
    with pytest.raises(PickleError, match=says):
        described(Persistent(key))
    assert described(Persistent(("storage", FLOATS, "0", "cpu", 4))) == ("0", torch.float32, 16)


def reference(count: int, name: str = "0", *more: Any) -> Persistent:
    return Persistent(("storage", FLOATS, name, "cpu", count, *more))


def test_storages_of_the_old_format_lie_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    path.write_bytes(b"head" + struct.pack("<qff", 2, 1, 2) + struct.pack("<qf", 1, 3))
    both = (reference(2), reference(1, "1"), reference(2))
    found = LegacyStorages(path, ("0", "1"), 4, both)
    assert found.storage(reference(1, "1"))[0].tolist() == list(struct.pack("<f", 3))
    for keys, offset, references, says in (
        (("0", "1"), 4, (reference(2), reference(1, "1"), reference(3)), "has two sizes"),
        (("0",), 4, both, "other storages than it refers to"),
        (("0", "1", "1"), 4, both, "other storages than it refers to"),
        (("0", "1"), 4, (reference(2), reference(2, "1")), "has another size than it says"),
        (("0", "1"), 4, (reference(2, "0", ("0", 0, 1)), reference(1, "1")), "views of storages"),
    ):
        with pytest.raises(PickleError, match=says):
            LegacyStorages(path, keys, offset, references)
    path.write_bytes(struct.pack("<qf", 1 << 44, 1))
    with pytest.raises(PickleError, match="is cut short"):
        LegacyStorages(path, ("0",), 0, (reference(1 << 44),))
