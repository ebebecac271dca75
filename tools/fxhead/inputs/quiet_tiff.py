"""libtiff says what it does not like of an image on stderr itself, beside the one error that is ours."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

from fxpasses.wall.wall import lowered

_MAPPED = Path("/proc/self/maps")
_SPEAKERS = ("TIFFSetErrorHandler", "TIFFSetWarningHandler")


@functools.cache
def silence_libtiff() -> None:
    """From now on the libtiff that Pillow has loaded is silent; elsewhere than on Linux nothing changes."""
    try:
        lines = _MAPPED.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return
    for path in {f"/{line.partition('/')[2]}" for line in lines if "libtiff" in line.rpartition("/")[2]}:
        with lowered():
            _silence(path)


def _silence(path: str) -> None:
    try:  # a file of weights may be mapped under such a name: nothing is loaded that is none yet
        library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        return
    for name in _SPEAKERS:
        speak = getattr(library, name, None)
        if speak is not None:
            speak.argtypes, speak.restype = [ctypes.c_void_p], ctypes.c_void_p
            speak(None)
