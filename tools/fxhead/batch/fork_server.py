"""Commands from a process that has imported everything: torch takes seconds of each new one, a fork none.

The server imports and computes nothing, since a fork of a process whose libraries are at work may hang. For
each command it forks a keeper, which forks the command into a session of its own and waits until that ends,
and tells it over a socket, or until nobody holds the other end of that (who asked may be killed, too). Then
it ends whatever the command has started. A keeper that is killed takes its command with it.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO

from fxhead.processes import end_with

_IMPORTED = (
    "torchvision",
    "torch.export._trace",
    "torch.onnx._internal.exporter._compat",
    "fxhead.rewriting.run",
    "fxhead.rewriting.run_onnx",
    "fxhead.rewriting.derive",
    "fxhead.check.proof",
    "fxhead.check.beside",
    # not onnxruntime, which starts threads
)
_MOST_FILES = 8
_IMPORTING_S = 0.5
_NUMBERS = struct.Struct("iq")  # process and 0, then exit code and peak of resident bytes


class Forked:
    """A command that was forked, with what ``subprocess.Popen`` has of these names."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self.pid, _ = self._told()
        self.returncode: int | None = None
        self.peak_bytes: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code when it has ended; as if SIGKILL had ended it where its keeper was killed.

        Raises:
            subprocess.TimeoutExpired: it has not ended by then.
        """
        if self.returncode is None:
            self._channel.settimeout(timeout)
            try:
                self.returncode, self.peak_bytes = self._told()
            except TimeoutError:
                raise subprocess.TimeoutExpired("fxhead", timeout or 0) from None
            self._channel.close()
        return self.returncode

    def kill(self) -> None:
        """Ends it and what it started; it cannot refuse."""
        with contextlib.suppress(OSError):  # it has ended
            self._channel.shutdown(socket.SHUT_WR)

    def _told(self) -> tuple[int, int | None]:
        numbers = self._channel.recv(_NUMBERS.size)
        return _NUMBERS.unpack(numbers) if numbers else (-signal.SIGKILL, None)


class ForkServer:
    """Starts a server when it is first asked, and another one where that has ended.

    Args:
        environment: of the server: of its variables libraries read some when they are imported.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        atexit.register(self.close)

    def start(
        self,
        arguments: Sequence[str],
        files: Sequence[IO[bytes]],
        environment: Mapping[str, str],
        folder: str,
        locks: Sequence[int] = (),
    ) -> Forked:
        """``fxhead`` with these arguments.

        Args:
            arguments: of the command line.
            files: its stdout and stderr.
            environment: all of its variables.
            folder: its working folder.
            locks: descriptors that stay open as long as it runs.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with os.fdopen(os.memfd_create("fxhead"), "w+b") as request, theirs:
            request.write(json.dumps([*arguments]).encode())
            request.write(b"\n" + json.dumps([folder, dict(environment)]).encode())
            request.seek(0)
            sent = [theirs.fileno(), request.fileno(), *(file.fileno() for file in files), *locks]
            with (
                self._lock,
                contextlib.suppress(ConnectionError),
            ):  # it ended just now, and so has this
                socket.send_fds(self._running(), [b"."], sent)
        return Forked(ours)

    def close(self) -> None:
        """Ends the server; commands that run go on."""
        with self._lock:
            if self._process is not None and self._control is not None:
                self._control.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_IMPORTING_S)
                self._process.kill()
                self._process.wait()
                self._process = None

    def _running(self) -> socket.socket:
        if self._control is None or self._process is None or self._process.poll() is not None:
            if self._control is not None:
                self._control.close()
            self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                # -P: a file in the working folder that is called like a library is not one
                command = [sys.executable, "-P", "-m", "fxhead.batch.fork_server"]
                self._process = subprocess.Popen(
                    command,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=self._environment,
                    start_new_session=True,
                )
        return self._control


def _asked(control: socket.socket) -> list[int]:
    """Returns in a child, with the files of a request; the server goes on, and exits when nobody is left."""
    while True:
        _, files, *_ = socket.recv_fds(control, 1, _MOST_FILES, socket.MSG_CMSG_CLOEXEC)
        if files and os.fork() == 0:
            control.close()
            return list(files)
        for file in files:
            os.close(file)
        with contextlib.suppress(ChildProcessError):  # waited for, so that their time is part of the server's
            while os.waitpid(-1, os.WNOHANG if files else 0)[0]:
                pass
        if not files:
            sys.exit()


def _kept(channel: socket.socket) -> None:
    """Returns in a child, the command itself; the keeper tells of its end, or brings that about."""
    keeper, command = os.getpid(), os.fork()
    if command == 0:
        channel.close()
        os.setsid()
        if not end_with(keeper):
            os._exit(1)
        return
    with contextlib.suppress(OSError):
        channel.send(_NUMBERS.pack(command, 0))
    select.select([channel.fileno(), os.pidfd_open(command)], [], [])
    try:
        os.killpg(command, signal.SIGKILL)
    except ProcessLookupError:  # it has no group yet
        os.kill(command, signal.SIGKILL)
    _, status, used = os.wait4(command, 0)
    with contextlib.suppress(OSError):
        channel.send(_NUMBERS.pack(os.waitstatus_to_exitcode(status), used.ru_maxrss * 1024))
    os._exit(0)


def _become(request: int, stdout: int, stderr: int, *locks: int) -> None:
    """Makes this process as one that was started anew; the locks stay open, and close with it."""
    with open(request, "rb") as file:
        sys.argv = ["fxhead", *json.loads(file.readline())]
        folder, environment = json.loads(file.read())
    for descriptor, number in ((stdout, 1), (stderr, 2)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path.insert(0, folder)  # as python -m has it, and fxhead takes it away
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # Python seeds its own anew


def main() -> None:
    """Serves whoever holds the other end of stdin."""
    code = [1]

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code[0])  # to take all modules apart takes as long as many a command

    atexit.register(leave)  # the first one: it is called last
    for name in _IMPORTED:
        with contextlib.suppress(Exception):  # a command that needs it will say so
            importlib.import_module(name)
    gc.freeze()  # or the first collection writes to every page that is shared
    control = socket.socket(fileno=os.dup(0))
    with open(os.devnull) as null:
        os.dup2(null.fileno(), 0)  # no child may hold the socket, once the server is gone
    channel, *files = _asked(control)
    _kept(socket.socket(fileno=channel))
    _become(*files)
    try:
        runpy.run_module("fxhead", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code[0] = int(ended.code or 0)
        raise


if __name__ == "__main__":
    main()
