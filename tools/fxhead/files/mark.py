"""What says that a folder or a manifest is this user's own work: a code made with a secret of theirs.

The secret lies in the user's state folder, which nobody else reads. A folder that was downloaded, unpacked
or shared can hold whatever it likes: without the secret, nothing in it is taken for what fxhead left there.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

_SECRET_BYTES = 32
_NONE_ELSE = 0o077


def mark(purpose: str, data: bytes) -> str:
    """The code of ``data`` for one purpose: whoever lacks the secret cannot make it."""
    return hmac.new(_secret(_state_folder()), purpose.encode() + b"\0" + data, hashlib.sha256).hexdigest()


def is_marked(purpose: str, data: bytes, code: str) -> bool:
    """Whether ``code`` is the one that ``mark`` gives."""
    return hmac.compare_digest(mark(purpose, data).encode(), code.encode("utf-8", "surrogatepass"))


def _state_folder() -> Path | None:
    """``$XDG_STATE_HOME/fxhead``; None where there is no home to look in."""
    given = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(given):  # others are to be ignored, says the XDG specification
        return Path(given, "fxhead")
    try:
        return Path.home() / ".local" / "state" / "fxhead"
    except RuntimeError:
        return None


@functools.lru_cache(maxsize=8)
def _secret(folder: Path | None) -> bytes:
    """The user's secret, made where there is none; one for this process where it cannot be kept.

    With the latter, what a killed process leaves stays where it is, which is safe.
    """
    if folder is not None:
        with contextlib.suppress(OSError):
            return _read(folder) or _make(folder)
    return secrets.token_bytes(_SECRET_BYTES)


def _read(folder: Path) -> bytes | None:
    """The secret that is kept; None where there is none, or one that others could have read or put there."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(folder / "secret", flags)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        is_own = not hasattr(os, "geteuid") or (
            found.st_uid == os.geteuid() and not found.st_mode & _NONE_ELSE
        )
        if not stat.S_ISREG(found.st_mode) or not is_own or found.st_size != _SECRET_BYTES:
            return None
        return file.read(_SECRET_BYTES)


def _make(folder: Path) -> bytes:
    """A new secret, whole on the disk before it has its name."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret, kept = secrets.token_bytes(_SECRET_BYTES), folder / "secret"
    new = folder / f"secret.{secrets.token_hex(8)}"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret)
            file.flush()
            os.fsync(descriptor)
        kept.unlink(missing_ok=True)
        os.link(new, kept)
    except FileExistsError:  # another process was faster: both take what lies there
        return _read(folder) or secret
    finally:
        new.unlink()
    return secret
