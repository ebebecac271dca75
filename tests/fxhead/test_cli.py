"""What every command has in common: help, usage errors, exit codes, streams, colour."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fxhead import __version__, cli
from fxhead.show import render

COMMANDS = tuple(cli.fxhead.commands)
Run = Callable[..., Any]


@pytest.mark.parametrize("arguments", [(), *((command,) for command in COMMANDS)], ids=str)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_explains_every_option(run: Run, arguments: tuple[str, ...], option: str) -> None:
    done = run(*arguments, option)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("Usage: fxhead")
    for line in done.out.splitlines():
        assert not line.strip().startswith("--") or len(line.split()) > 1, line


def test_without_arguments_it_is_the_help(run: Run) -> None:
    done = run()
    assert (done.code, done.err) == (0, "")
    assert done.out == run("--help").out


def test_the_help_has_a_whole_line_for_each_command(run: Run) -> None:
    lines = run("--help").out.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in lines] == sorted(COMMANDS)
    assert all(line.endswith(".") and not line.endswith("..") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["inspct", "model.pt"], "did you mean 'inspect'? see 'fxhead --help'"),
        (["inspect", "--scop", "all"], "did you mean one of: '--json', '--scope', '--to'? see"),
        (["explain", "BAKED"], "did you mean 'BAKED_BATCH'?"),
    ],
    ids=lambda value: value[0],
)
def test_what_was_typed_wrong_has_the_nearest_beside_it(run: Run, arguments: list[str], near: str) -> None:
    done = run(*arguments)
    assert done.code == 2
    assert near in done.err


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("fxhead insp", "plain,inspect"),
        ("fxhead rewrite --to de", "plain,dense"),
        ("fxhead rewrite mod", "file,mod"),
        ("fxhead check a.pt b", "file,b"),
        ("fxhead inspect --weights we", "file,we"),
    ],
)
def test_a_shell_completes(typed: str, completed: str) -> None:
    """As the function asks that ``_FXHEAD_COMPLETE=bash_source fxhead`` defines."""
    at = str(len(typed.split()) - 1)
    asked = {"_FXHEAD_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": at}
    path = os.pathsep.join(str(Path(cli.__file__).parents[index]) for index in (1, 2))
    done = subprocess.run(
        [sys.executable, "-m", "fxhead"],
        env=os.environ | asked | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == [completed]


def test_version_is_the_package_s(run: Run) -> None:
    assert run("--version").out == f"fxhead {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["rewrite", "--help"], ["rewrite"], ["study", "--help"]], ids=str
)
def test_help_and_usage_errors_do_not_import_torch(arguments: list[str]) -> None:
    code = f"import sys, fxhead.cli; fxhead.cli.main({arguments}); print('torch' in sys.modules)"
    path = Path(cli.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "False", done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rewrite"], "Missing argument"),
        (["rewrite", "model.pt"], "Missing option '--to'"),
        (["rewrite", "model.pt", "--to", "quick"], "'quick' is not one of"),
        (["rewrite", "model.pt", "--to", "conv", "--opset", "x"], "'x' is not a valid integer"),
        (["inspect", "model.pt", "--scope", "everything"], "'everything' is not one of"),
        (["check", "model.pt"], "Missing argument"),
        (["nonesuch"], "No such command"),
        (["inspect", "--nonesuch", "model.pt"], "No such option"),
    ],
    ids=str,
)
def test_bad_usage_is_exit_code_2_with_a_hint(run: Run, arguments: list[str], says: str) -> None:
    done = run(*arguments)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert "--help" in done.err
    assert len(done.err.splitlines()) == 1
    assert "Traceback" not in done.err
    document = run(*arguments, "--json").document
    assert set(document) == {"error"}
    assert set(document["error"]) == {"type", "what", "where", "fix"}


ERRORS = [
    (["model.pt"], "FileError", "no such file"),
    (["torchvision:resnet81"], "InputError", "did you mean 'resnet18'"),
    (["nets:biuld"], "InputError", "did you mean 'build'"),
    (["nets:build", "--input-shape", "3"], "InputError", "only one axis"),
    (["nets:build", "--input-shape", "1x4x8x8"], "InputError", "does not take an input of 1x4x8x8"),
    (["nets:build", "--weights", "gone.pt"], "FileError", "no such file"),
    (["nets:build", "--weights", "."], "InputError", "'.' is no file of weights"),
    (["nets:build", "--weights", "DEFAULT"], "InputError", "'DEFAULT' is no file of weights"),
    (["nets.py"], "FileError", "not a file that torch.save wrote"),
]


@pytest.mark.parametrize("command", [("inspect",), ("rewrite", "--to", "conv")], ids=lambda value: value[0])
@pytest.mark.parametrize(("arguments", "kind", "says"), ERRORS, ids=[str(error[0]) for error in ERRORS])
def test_bad_input_is_one_line_and_exit_code_2(
    run: Run,
    written: Callable[[], set[str]],
    command: tuple[str, ...],
    arguments: list[str],
    kind: str,
    says: str,
) -> None:
    done = run(*command, *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1].startswith("fxhead: error: ")
    assert says in done.err
    assert "Traceback" not in done.err
    as_json = run(*command, *arguments, "--json")
    assert as_json.code == 2
    assert as_json.document["error"]["type"] == kind
    assert written() == set()


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Lets every command fail with an error."""

    def use(error: BaseException) -> None:
        def job(*arguments: object, **options: object) -> None:
            raise error

        monkeypatch.setattr("fxhead.inspect.run.run_inspect", job)

    return use


def test_a_bug_of_ours_is_exit_code_3_and_asks_to_report(run: Run, failing: Callable[..., None]) -> None:
    failing(ZeroDivisionError("division by zero"))
    done = run("inspect", "nets:build")
    assert done.code == 3
    assert "ZeroDivisionError: division by zero; this is a bug in fxhead" in done.err
    assert "Traceback" not in done.err
    assert run("inspect", "nets:build", "--json").document["error"]["type"] == "InternalError"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_want_of_memory_is_no_bug(run: Run, failing: Callable[..., None], error: Exception) -> None:
    failing(error)
    done = run("inspect", "nets:build")
    assert done.code == 2
    assert "error: there is not enough memory for it; give a smaller model" in done.err


def test_debug_shows_where_it_happened(run: Run, failing: Callable[..., None]) -> None:
    failing(ZeroDivisionError("division by zero"))
    done = run("inspect", "nets:build", "--debug")
    assert done.code == 3
    assert "Traceback" in done.err


def test_an_interrupt_is_exit_code_130(run: Run, failing: Callable[..., None]) -> None:
    failing(KeyboardInterrupt())
    done = run("inspect", "nets:build")
    assert done.code == 130
    assert "interrupted" in done.err
    assert run("inspect", "nets:build", "--json").document["error"]["type"] == "Interrupted"


def test_what_a_model_prints_is_not_the_result(run: Run, folder: Path) -> None:
    done = run("inspect", "nets:Talkative", "--json")
    assert done.document["command"] == "inspect"
    assert "this is not the result" in done.err


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "coloured"),
    [
        (Terminal, {"TERM": "xterm-256color"}, True),
        (Terminal, {"TERM": "xterm-256color", "NO_COLOR": "1"}, False),
        (Terminal, {"TERM": "dumb"}, False),
        (io.StringIO, {"TERM": "xterm-256color"}, False),
        (io.StringIO, {"TERM": "xterm-256color", "FORCE_COLOR": "1"}, False),
    ],
    ids=["terminal", "NO_COLOR", "dumb", "pipe", "pipe-FORCE_COLOR"],
)
def test_colour_is_for_terminals_that_want_it(
    monkeypatch: pytest.MonkeyPatch,
    stream: Callable[[], io.StringIO],
    environment: dict[str, str],
    coloured: bool,
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    target = stream()
    render.console(target).print("[bold red]broken[/]")
    assert ("\x1b" in target.getvalue()) is coloured


def test_a_step_is_a_line_on_stderr_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    progress = render.TerminalProgress()
    with progress.step("loading [x]"):
        pass
    progress.note("mind the gap")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "fxhead: loading [x]\nfxhead: note: mind the gap\n"


def test_what_libraries_log_of_a_file_is_not_shown() -> None:
    code = """
import logging, fxhead.cli
fxhead.cli.main(["--version"])
logging.getLogger("onnx_ir.serde").warning("Input 'x' cannot be found in any scope")
"""
    path = Path(cli.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""


def test_files_in_the_working_directory_are_no_libraries(spawn: Run, folder: Path) -> None:
    for name in ("click", "torch", "fxpasses"):
        (folder / f"{name}.py").write_text("raise SystemExit(9)")
    done = spawn("--version")
    assert (done.code, done.out[:7]) == (0, "fxhead "), done.err


def test_a_reader_that_goes_away_is_no_error(folder: Path) -> None:
    command = [sys.executable, "-m", "fxhead", "inspect", "nets:build", "--json"]
    path = os.pathsep.join(str(Path(cli.__file__).parents[index]) for index in (1, 2))
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait() == 0
    assert "BrokenPipe" not in errors


SLEEPER = """
import signal, sys, time
import fxhead.files.publish, fxhead.cli
from pathlib import Path

def job(*arguments, **options):
    with fxhead.files.publish.staged(Path("out")):
        print("ready", file=sys.__stdout__, flush=True)
        time.sleep(60)

import fxhead.inspect.run
fxhead.inspect.run.run_inspect = job
# a shell that runs the tests in the background has them ignore it
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["fxhead", "inspect", "nets:build"]
fxhead.cli.run()
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_a_signal_leaves_nothing_behind(
    folder: Path, written: Callable[[], set[str]], number: int, code: int
) -> None:
    path = os.pathsep.join(str(Path(cli.__file__).parents[index]) for index in (1, 2))
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    time.sleep(0.1)
    process.send_signal(number)
    assert process.wait(timeout=30) == code
    process.stdout.close()
    assert written() == set()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
def test_a_full_disk_under_stdout_is_an_error(folder: Path, options: tuple[str, ...]) -> None:
    path = os.pathsep.join(str(Path(cli.__file__).parents[index]) for index in (1, 2))
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fxhead", "inspect", "nets:build", *options],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": path},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_json_is_ascii_so_that_no_locale_breaks_it(run: Run) -> None:
    done = run("inspect", "mödel.pt", "--json")
    assert done.out.isascii()
    assert json.loads(done.out)["error"]["where"] == "mödel.pt"


def test_a_stop_that_another_error_hides_is_one_all_the_same() -> None:
    script = """
import os, signal, fxhead.cli

def main():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except SystemExit:
        return 2

fxhead.cli.main = main
fxhead.cli.run()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 143, done.stderr


@pytest.mark.parametrize("code", ["", "0", "3", "'that is all'"])
@pytest.mark.parametrize("where", ["import", "call", "run"])
def test_code_that_ends_the_process_is_no_answer(run: Run, folder: Path, code: str, where: str) -> None:
    """It was exit code 0: a gate would have let through what nobody had checked."""
    ends = f"sys.exit({code})"
    Path("ending.py").write_text(
        "import sys\nimport torch\nfrom torch import nn\n"
        f"{ends if where == 'import' else ''}\n"
        "class Net(nn.Linear):\n    def forward(self, x):\n"
        f"        {ends if where == 'run' else 'return x'}\n"
        f"def build():\n    {ends if where == 'call' else 'return Net(3, 3)'}\n"
    )
    done = run("check", "ending:build", "ending:build", "--input-shape", "1x3", "--json")
    assert (done.code, "ended the process" in done.document["error"]["what"]) == (2, True)
    sys.modules.pop("ending", None)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_fails_because_of_a_stop_is_no_bug(number: int, code: int) -> None:
    """Seen with an import that was stopped half way: torch then recursed without end."""
    script = f"""
import contextlib, os, signal, fxhead.cli

def main(*arguments, **options):
    with contextlib.suppress(BaseException):
        os.kill(os.getpid(), {int(number)})
        for _ in range(1000): pass
    raise RecursionError("half an import")

fxhead.cli.fxhead.main = main
signal.signal(signal.SIGINT, signal.default_int_handler)
fxhead.cli.run()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert "half an import" not in done.stderr


def test_a_command_ends_at_once_after_what_is_to_be_done_at_its_end() -> None:
    script = """
import atexit, os, fxhead.cli

def main():
    atexit.register(print, "done")
    return 2

leave = os._exit
os._exit = lambda code: leave(print("left", flush=True) or code)
fxhead.cli.main = main
fxhead.cli.run()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (2, "done\nleft\n", "")


@pytest.mark.parametrize(("said", "kept"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_leave_their_core_to_others_unless_one_says_otherwise(
    said: str | None, kept: str
) -> None:
    script = """
import os, sys, fxhead.cli

def main():
    print(os.environ["OMP_WAIT_POLICY"], "torch" in sys.modules)
    return 0

fxhead.cli.main = main
fxhead.cli.run()
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if said:
        environment["OMP_WAIT_POLICY"] = said
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, f"{kept} False\n"), done.stderr
