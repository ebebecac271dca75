"""A limit in seconds: it ends what goes on for ever, whoever catches what, and is gone afterwards."""

from __future__ import annotations

import contextlib
import functools
import threading
import time

import pytest
import torch

from fxpasses import find_sites, rewrite
from fxpasses.wall import marks
from fxpasses.wall.clock import SlowError, in_time
from fxpasses.wall.wall import walled


def _for_ever() -> None:
    while True:
        pass


@pytest.mark.parametrize("is_walled", [False, True])
def test_what_goes_on_for_ever_ends(is_walled: bool) -> None:
    start = time.monotonic()
    with pytest.raises(SlowError, match=r"m\.pt: takes more than the limit of 0\.2 s"):
        with walled("m.pt") if is_walled else contextlib.nullcontext(), in_time("m.pt", 0.2):
            _for_ever()
    assert time.monotonic() - start < 10


def test_no_handler_of_exceptions_takes_it_for_its_own() -> None:
    def swallow() -> None:
        with contextlib.suppress(Exception):
            _for_ever()

    with pytest.raises(SlowError), in_time(seconds=0.1):
        swallow()


def test_it_comes_again_to_who_takes_every_exception() -> None:
    end = time.monotonic() + 3

    def goes_on() -> None:
        with contextlib.suppress(BaseException):
            _for_ever()
        while time.monotonic() < end:
            pass

    with pytest.raises(SlowError), in_time(seconds=0.1):
        goes_on()
    assert time.monotonic() < end


def test_a_thread_that_waits_uses_no_seconds() -> None:
    with in_time(seconds=0.2):
        time.sleep(0.8)


def test_afterwards_nothing_comes_any_more() -> None:
    for _ in range(20):
        with contextlib.suppress(SlowError), in_time(seconds=0.001):
            sum(range(20_000))
    end = time.monotonic() + 0.7
    while time.monotonic() < end:
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "fxhead clock"]


def test_it_is_of_the_thread_that_asks_for_it() -> None:
    caught: list[str] = []

    def other() -> None:
        try:
            with in_time("other", 0.1):
                _for_ever()
        except SlowError as error:
            caught.append(str(error.where))

    thread = threading.Thread(target=other)
    thread.start()
    while thread.is_alive():
        sum(range(1000))
    assert caught == ["other"]


class _Loops(torch.nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while True:
            pass


def test_a_model_from_a_file_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "in_time", functools.partial(in_time, seconds=0.2))
    model = torch.nn.Sequential(torch.nn.Flatten(), _Loops(4, 2))
    marks.mark_unvouched(model)
    with pytest.raises(SlowError, match="Sequential: takes more than the limit"):
        find_sites(model)
    with pytest.raises(SlowError):
        rewrite(model, "conv", way="export", example_inputs=torch.zeros(2, 4))
