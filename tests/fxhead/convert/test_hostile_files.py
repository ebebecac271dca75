"""Checkpoints that somebody made to harm whoever converts them: one error, or a file as small as they are."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save as save_safetensors

from checkpoints import grid_plan, load, save, save_plan
from fxpasses import Form, WeightMove, WeightOrder, WeightPlan

Run = Callable[..., Any]
HEAD = {"dtype": "F32", "shape": [5, 8], "data_offsets": [0, 160]}
MANY_BYTES = 1 << 28


def safetensors(header: dict[str, Any] | str, content: bytes = bytes(range(160))) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + content


HEADERS: dict[str, tuple[dict[str, Any] | str, str]] = {
    "half a character": (
        {"fc.weight": HEAD, "\ud800": HEAD | {"shape": [0], "data_offsets": [0, 0]}},
        "surrogates",
    ),
    "half, told": ({"fc.weight": HEAD, "__metadata__": {"by": "\udcff"}}, "surrogates"),
    "half, inside": ({"fc.weight": HEAD | {"\udcff": 1}}, "something else than data_offsets, dtype, shape"),
    "no text": ({"fc.weight": HEAD, "__metadata__": {"by": [1]}}, "something else than texts"),
    "infinite": (f'{{"fc.weight": {json.dumps(HEAD)}, "__metadata__": {{"by": 1e999}}}}', "else than texts"),
    "twice": (f'{{"fc.weight": {json.dumps(HEAD)}, "fc.weight": {json.dumps(HEAD)}}}', "twice in one object"),
    "overlap": ({"fc.weight": HEAD, "x": HEAD}, "does not begin where the weights before it end"),
    "gap": ({"fc.weight": HEAD | {"shape": [5, 7], "data_offsets": [20, 160]}}, "does not begin where"),
    "behind": (
        {"fc.weight": HEAD | {"shape": [5, 4], "data_offsets": [0, 80]}},
        "what all of the file's bytes",
    ),
    "endless": (
        {"fc.weight": HEAD, "x": HEAD | {"shape": [0, 10**4_000], "data_offsets": [0, 0]}},
        "no natural numbers",
    ),
    "no bits": ({"fc.weight": HEAD | {"dtype": "F0", "data_offsets": [0, 0]}}, "a type called 'F0'"),
    "three bytes": ({"fc.weight": HEAD | {"dtype": "F24"}}, "a type called 'F24'"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_safetensors_does_not_write_is_refused(
    run: Run, folder: Path, written: Callable[[], set[str]], name: str
) -> None:
    header, says = HEADERS[name]
    Path("run.safetensors").write_bytes(safetensors(header))
    save_plan()
    done = run("convert-weights", "run.safetensors", "--plan", "plan.json")
    assert (done.code, says in done.err) == (2, True), done.err
    assert written() == {"run.safetensors", "plan.json"}


def test_elements_of_half_a_byte_get_another_shape_and_no_other_order(run: Run, folder: Path) -> None:
    head = {"dtype": "F4", "shape": [5, 24], "data_offsets": [0, 60]}
    Path("run.safetensors").write_bytes(safetensors({"fc.weight": head}, bytes(range(60))))
    save_plan(grid_plan(WeightOrder.CHANNELS_FIRST))
    command = ("convert-weights", "run.safetensors", "--plan", "plan.json", "-o", "out.safetensors")
    assert run(*command).code == 0
    assert Path("out.safetensors").read_bytes().endswith(bytes(range(60)))
    save_plan(grid_plan(WeightOrder.CHANNELS_LAST))
    done = run(*command, "--force")
    assert (done.code, "are no whole bytes" in done.err) == (2, True), done.err


@pytest.mark.skipif(not hasattr(os, "SEEK_DATA"), reason="this system has no holes")
@pytest.mark.parametrize("name", ["run.safetensors", "run.pt", "old.pt"])
def test_a_hole_stays_a_hole(run: Run, folder: Path, name: str) -> None:
    """Else a file of a few kilobytes would fill the disk."""
    head = torch.randn(5, 8)
    big = {"dtype": "U8", "shape": [MANY_BYTES], "data_offsets": [160, 160 + MANY_BYTES]}
    if name == "run.safetensors":
        content = safetensors({"fc.weight": HEAD, "zeros": big}, head.numpy().tobytes())
        Path(name).write_bytes(content)
        os.truncate(name, len(content) + MANY_BYTES)
    else:
        zeros = torch.zeros(MANY_BYTES // 8, dtype=torch.uint8)
        torch.save({"fc.weight": head, "zeros": zeros}, name, _use_new_zipfile_serialization=name == "run.pt")
    save_plan()
    done = run("convert-weights", name, "--plan", "plan.json", "-o", "out.pt")
    assert done.code == 0, done.err
    assert os.stat("out.pt").st_blocks * 512 < 2**23 < os.stat("out.pt").st_size
    found = load_file("out.pt") if name == "run.safetensors" else load("out.pt")
    assert torch.equal(found["fc.weight"], head.reshape(5, 8, 1, 1))
    assert not found["zeros"].any()
    if name == "run.pt":
        assert zipfile.ZipFile("out.pt").testzip() is None


def test_a_file_that_ends_in_zeros_is_whole(run: Run, folder: Path) -> None:
    content = save_safetensors({"fc.weight": torch.zeros(5, 8), "z": torch.zeros(1 << 21)})
    Path("run.safetensors").write_bytes(content)
    save_plan()
    assert run("convert-weights", "run.safetensors", "--plan", "plan.json", "-o", "out.safetensors").code == 0
    assert not load_file("out.safetensors")["z"].any()


def two_plan(*orders: WeightOrder) -> WeightPlan:
    moves = (
        WeightMove(name=name, linear_shape=(5, 24), conv_shape=(5, 4, 2, 3), order=order)
        for name, order in zip("ab", orders, strict=True)
    )
    return WeightPlan(to=Form.CONV, moves=tuple(moves))


def test_tied_weights_are_put_in_order_once(run: Run, folder: Path) -> None:
    kernel = torch.randn(5, 4, 2, 3)
    save({"a": kernel, "b": kernel.detach(), "c": torch.randn(3)}, "run.pt")
    plan = two_plan(WeightOrder.CHANNELS_LAST, WeightOrder.CHANNELS_LAST)
    save_plan(plan)
    done = run("convert-weights", "run.pt", "--plan", "plan.json", "--reverse", "-o", "out.pt")
    assert done.code == 0, done.err
    found = load("out.pt")
    wanted = plan.invert().apply({"a": kernel, "b": kernel})
    assert torch.equal(found["a"], wanted["a"])
    assert torch.equal(found["b"], wanted["b"])


@pytest.mark.parametrize("shift", [0, 24])
def test_weights_that_share_bytes_and_not_their_order_are_refused(run: Run, folder: Path, shift: int) -> None:
    """One of the two would be read in the order of the other."""
    whole = torch.randn(6 * 24)
    kernel = (5, 4, 2, 3), (24, 6, 3, 1)
    save({"a": whole.as_strided(*kernel), "b": whole.as_strided(*kernel, shift)}, "run.pt")
    orders = (WeightOrder.CHANNELS_LAST, WeightOrder.CHANNELS_LAST if shift else WeightOrder.CHANNELS_FIRST)
    save_plan(two_plan(*orders))
    done = run("convert-weights", "run.pt", "--plan", "plan.json", "--reverse", "-o", "out.pt")
    assert (done.code, "it shares memory with" in done.err) == (2, True), done.err


def test_a_number_that_nobody_can_write_down_is_refused(run: Run, folder: Path) -> None:
    save({"model": {"fc.weight": torch.randn(5, 8)}, "more": {10**5_000: torch.randn(5, 8)}}, "run.pt")
    save_plan()
    done = run("convert-weights", "run.pt", "--plan", "plan.json")
    assert (done.code, "a number above the limit of 8,192 bits" in done.err) == (2, True), done.err
