"""An archive is refused unless every reader of it sees the same members, and no more bytes than it has."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable

import pytest

from fxexport.untrusted import archive
from fxexport.untrusted.archive import open_archive
from fxpasses.errors import FileError

LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"


def zipped(*names: str, content: bytes = b"x" * 100, method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as written:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.filename = name  # as it is, a backslash and all
            info.compress_type = method
            written.writestr(info, content)
    return buffer.getvalue()


def patched(data: bytes, mark: bytes, offset: int, layout: str, value: int) -> bytes:
    """The archive with another number in the last header of that kind."""
    at = data.rindex(mark) + offset
    return data[:at] + struct.pack(layout, value) + data[at + struct.calcsize(layout) :]


def test_an_archive_is_read() -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        found = open_archive(zipped("m/a", "m/b", method=method), "m.pt")
        found.require_whole()
        assert (found.prefix, found.names(), found.read("b")) == ("m/", ["a", "b"], b"x" * 100)


NAMES = ["m\\a", "/a", "C:/a", "../a", "m/../a", "m/..", "c:a"]


@pytest.mark.parametrize("name", NAMES)
def test_no_member_lies_elsewhere(name: str) -> None:
    with pytest.raises(FileError, match="has a member called"):
        open_archive(zipped(name), "evil.pt")


TRICKS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (zipped, "is empty"),
    "two of a name": (lambda: zipped("m/a", "m/A"), "has 'm/A' twice"),
    "a null byte": (lambda: zipped("m/a_b").replace(b"a_b", b"a\0b"), "has a member called"),
    "encrypted": (lambda: patched(zipped("a"), CENTRAL, 8, "<H", 1), "is encrypted or packed"),
    "another method": (lambda: zipped("a", method=zipfile.ZIP_BZIP2), "is compressed in a way"),
    "two sizes": (lambda: patched(zipped("a"), CENTRAL, 24, "<I", 99), "has two sizes"),
    "a bomb": (
        lambda: patched(zipped("a", method=zipfile.ZIP_DEFLATED), CENTRAL, 24, "<I", 1 << 20),
        "unpacks from",
    ),
    "another member": (lambda: zipped("m/a").replace(b"m/a", b"m/b", 1), "by its own header"),
    "another method there": (lambda: patched(zipped("a"), LOCAL, 8, "<H", 8), "by its own header"),
    "no header": (lambda: zipped("a").replace(LOCAL, b"PK\x03\x05"), "by its own header"),
    "cut": (lambda: patched(zipped("a"), LOCAL, 28, "<H", 60_000), "is cut short"),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_no_two_readers_see_two_archives(trick: str) -> None:
    make, says = TRICKS[trick]
    with pytest.raises(FileError, match=says):
        open_archive(make(), "evil.pt")


def test_no_member_lies_in_another() -> None:
    """A quine: the second member begins in the content of the first."""
    inner = zipped("b")
    whole = zipped("a", content=inner)
    at = whole.index(inner)
    data = zipped("a", "b", content=inner)
    moved = patched(data, CENTRAL, 42, "<I", at)  # where the second one's header is said to be
    moved = patched(patched(moved, CENTRAL, 20, "<I", 100), CENTRAL, 24, "<I", 100)
    with pytest.raises(FileError, match="overlaps another member"):
        open_archive(moved, "evil.pt")


def test_members_and_what_they_unpack_to_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 3)
    with pytest.raises(FileError, match="more than the limit of 3"):
        open_archive(zipped(*"abcd"), "evil.pt")
    monkeypatch.setattr(archive, "MAX_INFLATED_BYTES", 250)
    with pytest.raises(FileError, match="unpacks to 300 bytes, more than the limit of 250"):
        open_archive(zipped(*"abc", method=zipfile.ZIP_DEFLATED), "evil.pt")
    monkeypatch.setattr(archive, "MAX_DIRECTORY_BYTES", 100)
    with pytest.raises(FileError, match="its directory has more than the limit of 100 bytes"):
        open_archive(zipped(*"abc"), "evil.pt")


@pytest.mark.parametrize("names", [("m/a", "n/b"), ("m/a", "b")])
def test_members_in_no_one_folder_keep_their_names(names: tuple[str, ...]) -> None:
    found = open_archive(zipped(*names), "m.pt")
    assert (found.prefix, found.names()) == ("", [*names])


def test_a_member_that_unpacks_to_less_than_it_says_is_cut_short() -> None:
    data = patched(zipped("m/a", method=zipfile.ZIP_DEFLATED), CENTRAL, 24, "<I", 101)
    with pytest.raises(FileError, match="'m/a' is cut short"):
        open_archive(data, "evil.pt").require_whole()


def test_a_member_s_content_is_what_the_checksum_says() -> None:
    data = zipped("m/a").replace(b"x" * 100, b"x" * 99 + b"y")
    with pytest.raises(FileError, match="the checksum of 'm/a' is wrong"):
        open_archive(data, "evil.pt").require_whole()
    with pytest.raises(FileError, match="has no 'b'"):
        open_archive(zipped("m/a"), "m.pt").read("b")
