"""The budget: it ends what goes on for ever, whoever catches what, and grows with files."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fxexport.untrusted.archive import open_regular
from fxpasses import find_sites, rewrite
from fxpasses.wall import clock, marks
from fxpasses.wall.clock import SlowError, add_bytes, in_budget, require_room
from fxpasses.wall.wall import walled, writing


def _for_ever() -> None:
    while True:
        pass


@pytest.mark.parametrize("is_inner", [False, True])
def test_what_goes_on_for_ever_inside_the_wall_ends(monkeypatch: pytest.MonkeyPatch, is_inner: bool) -> None:
    monkeypatch.setattr(clock, "MAX_SECONDS", 0.2)
    start = time.monotonic()
    inner = walled("inner") if is_inner else contextlib.nullcontext()
    with pytest.raises(SlowError, match=r"m\.pt: takes more than the limit of 0\.2 s"), walled("m.pt"), inner:
        _for_ever()
    assert time.monotonic() - start < 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system does not tell")
@pytest.mark.parametrize(("most", "left"), [(3e7, 1e12), (1e12, 3e7)], ids=["limit", "machine"])
def test_memory_is_limited_too(monkeypatch: pytest.MonkeyPatch, most: float, left: float) -> None:
    monkeypatch.setattr(clock, "_left", lambda: left)
    held: list[torch.Tensor] = []

    def fill() -> None:
        held.append(torch.ones(10_000_000).repeat(2))
        _for_ever()

    with pytest.raises(SlowError, match=r"limit of 0\.03 GB of memory"), in_budget(most=int(most)):
        fill()


def test_what_the_system_takes_back_of_files_hides_no_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([(500_000_000, 100_000_000)])  # then half of what files have is gone
    monkeypatch.setattr(clock, "_memory", lambda: next(told, (400_000_000, 200_000_000)))
    monkeypatch.setattr(clock, "_left", lambda: 1e12)
    with pytest.raises(SlowError, match=r"limit of 0\.03 GB of memory"), in_budget(most=30_000_000):
        _for_ever()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system does not tell")
def test_what_one_call_would_take_is_asked_before_it() -> None:
    def read() -> None:
        require_room(1 << 20)
        try:
            require_room(1 << 31)
        except Exception as error:
            raise ValueError("no file of ours") from error

    require_room(1 << 60)
    told = r"m\.onnx: takes more than the limit of 1\.07 GB"
    with pytest.raises(SlowError, match=told), in_budget("m.onnx", most=1 << 30):
        read()


def test_files_that_are_read_add_to_both_once_and_by_what_is_on_the_disk(tmp_path: Path) -> None:
    (tmp_path / "full").write_bytes(bytes(range(256)) * 8000)
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(1 << 33)
    with in_budget("m.pt", 60, 1000):
        for name in ("full", "full", "holes"):
            open_regular(tmp_path / name).close()
        add_bytes(0)
        watch = clock._watches[threading.get_ident()]
    held = (tmp_path / "full").stat().st_blocks * 512
    assert held
    assert watch._bytes == 1000 + 8 * held
    assert watch._seconds == pytest.approx(60 + 3 + held / 1e6)


def test_what_is_written_here_adds_no_more_than_what_was_read(tmp_path: Path) -> None:
    """A copy of a file that is a hole is none, and would ask for eight times its zeros."""
    (tmp_path / "given").write_bytes(b"x" * 8192)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "copy").write_bytes(bytes(1 << 20))
    with walled("m.pt"), writing(tmp_path / "out"):
        watch = clock._watches[threading.get_ident()]
        before = watch._bytes
        for name in ("given", "out/copy"):
            open_regular(tmp_path / name).close()
    assert watch._bytes == before + 2 * 8 * 8192


def test_a_model_in_memory_adds_by_its_size_where_no_wall_has_seen_its_file() -> None:
    def seconds() -> float:
        return clock._watches[threading.get_ident()]._seconds

    model = torch.nn.Linear(1000, 1000)
    marks.mark_unvouched(model)
    with marks.walled_for(model):
        assert seconds() == pytest.approx(61 + 4.004)
        with marks.walled_for(model):
            assert seconds() == pytest.approx(61 + 4.004)
    with walled("m.pt"), marks.walled_for(model):
        assert seconds() == 60


def test_a_call_into_compiled_code_that_goes_on_ends_the_watching_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    monkeypatch.setattr(clock, "_STUCK_S", 0.1)
    with pytest.raises(SlowError), in_budget("m.onnx", 0.1):
        hashlib.pbkdf2_hmac("sha256", b"", b"", 8_000_000)
    assert [str(args.exc_value) for args in told] == [str(told[0].exc_value)]
    assert "m.onnx: takes more than the limit" in str(told[0].exc_value)


_STUCK_COMMAND = """
import hashlib, sys
from fxhead import cli
from fxpasses.wall import clock, wall

def stuck():
    with wall.walled("m.onnx"):
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)

clock.MAX_SECONDS, clock._STUCK_S, cli.main = 0.1, 0.1, stuck
cli.run()
"""


def test_and_with_it_a_command() -> None:
    done = subprocess.run([sys.executable, "-c", _STUCK_COMMAND], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("fxhead: error: m.onnx: takes more than the limit of 0.1 s")
    assert done.stderr.count("\n") == 1


def test_no_handler_of_exceptions_takes_it_for_its_own() -> None:
    def swallow() -> None:
        with contextlib.suppress(Exception):
            _for_ever()

    with pytest.raises(SlowError), in_budget(seconds=0.1):
        swallow()


def test_it_does_not_come_again_to_who_cleans_up_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would skip what makes an error of the first, and leave the caller one that nothing takes."""
    monkeypatch.setattr(clock, "_AGAIN_S", 0.05)
    ends = []

    @contextlib.contextmanager
    def slow_to_leave() -> Iterator[None]:
        try:
            yield
        finally:
            with contextlib.suppress(KeyError):
                end = time.monotonic() + 0.5
                while time.monotonic() < end:
                    with contextlib.suppress(KeyError):
                        raise KeyError
            ends.append(end)

    with pytest.raises(SlowError), in_budget(seconds=0.1), slow_to_leave():
        _for_ever()
    assert len(ends) == 1


def test_it_comes_again_to_who_takes_every_exception() -> None:
    end = time.monotonic() + 10

    def goes_on() -> None:
        with contextlib.suppress(BaseException):
            _for_ever()
        while time.monotonic() < end:
            pass

    with pytest.raises(SlowError), in_budget(seconds=0.1):
        goes_on()
    assert time.monotonic() < end


def test_a_budget_inside_of_another_does_not_tell_for_it() -> None:
    with (
        pytest.raises(SlowError, match=r"outer: takes more than the limit of 0\.1 s"),
        in_budget("outer", 0.1),
    ):
        with contextlib.suppress(SlowError), in_budget("inner"):
            _for_ever()


def test_a_thread_that_waits_uses_no_seconds() -> None:
    with in_budget(seconds=0.2):
        time.sleep(0.8)


def test_afterwards_nothing_comes_any_more() -> None:
    for _ in range(20):
        with contextlib.suppress(SlowError), in_budget(seconds=0.001):
            sum(range(20_000))
    end = time.monotonic() + 0.7
    while time.monotonic() < end:
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "fxhead clock"]


def test_nobody_waits_for_a_call_that_fills_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[float] = []
    monkeypatch.setattr(threading, "excepthook", lambda failed: ended.append(time.monotonic()))
    numbers = itertools.count()
    monkeypatch.setattr(clock, "_memory", lambda: (next(numbers) << 40,) * 2)
    start = time.monotonic()
    with pytest.raises(SlowError, match="of memory"), in_budget(most=1 << 20):
        time.sleep(3)
    assert ended
    assert ended[0] - start < 2.5


def test_it_is_of_the_thread_that_asks_for_it() -> None:
    caught: list[str] = []

    def other() -> None:
        try:
            with in_budget("other", 0.1):
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
    torch.export.export(torch.nn.Linear(4, 2), (torch.zeros(2, 4),))  # whose imports must not be cut short
    monkeypatch.setattr(clock, "MAX_SECONDS", 0.2)
    model = torch.nn.Sequential(torch.nn.Flatten(), _Loops(4, 2))
    marks.mark_unvouched(model)
    with pytest.raises(SlowError, match="Sequential: takes more than the limit"):
        find_sites(model)
    with pytest.raises(SlowError):
        rewrite(model, "conv", way="export", example_inputs=torch.zeros(2, 4))


def test_a_budget_leaves_nothing_behind_that_profilers_trip_over() -> None:
    script = (
        "import cProfile, time\n"
        "from fxpasses.wall import clock\n"
        "def ended():\n"
        "    try:\n"
        "        with clock.in_budget('m.pt', 0.1):\n"
        "            while True: pass\n"
        "    except clock.SlowError: return True\n"
        "with clock.in_budget('m.pt'): pass\n"
        "assert ended()\n"
        "cProfile.runctx('[abs(i) for i in range(9)]; (lambda: 1)()', {}, {})\n"
        "print('done')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("done\n"), done.stderr
