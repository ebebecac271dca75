"""What a batch has done, in ``batch.jsonl``: a line a row, so that a killed batch goes on from there."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fxhead
from fxexport.untrusted.archive import open_regular
from fxhead.batch.held import held
from fxhead.batch.process import Done, State
from fxhead.batch.rows import LINES, PAGE, TABLE, Row
from fxhead.extras import version_of
from fxhead.files.digests import digest_file
from fxhead.files.mark import is_marked, mark
from fxhead.files.put import put
from fxhead.outcome import SCHEMA_VERSION
from fxhead.page.cells import Cell, number, prose, text, word
from fxhead.page.templates import page
from fxpasses.errors import telling
from fxpasses.wall.wall import walled

_LONGEST = 2**26
_VERSIONS = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A spreadsheet runs a cell of a table that begins with one of these."""
_COLUMNS = ("name", "source", "state", "verdict", "reason", "seconds", "peak_bytes", "exit_code", "files")


Stamps = tuple[tuple[str, tuple[int, int, int] | None], ...]
"""Files with inode, size and time of change: what tells, without reading them, whether they are the same."""


def stamps_of(paths: Iterable[Path | str]) -> Stamps:
    """How the files are now; None for one that is not there."""
    found: list[tuple[str, tuple[int, int, int] | None]] = []
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            found.append((str(path), None))
        else:
            found.append((str(path), (status.st_ino, status.st_size, status.st_mtime_ns)))
    return tuple(found)


def key_of(row: Row) -> tuple[str, Stamps]:
    """What a row's result depends on: its arguments, the bytes of its files, and the versions at work.

    Raises:
        FileError: a file cannot be read.
    """
    with walled(row.source):
        paths = row.inputs()
        stamps = stamps_of(paths)
        files = [digest_file(path) for path in paths]
    whole = {
        "fxhead": fxhead.__version__,
        "versions": {name: version_of(name) for name in _VERSIONS},
        "row": [row.source, *row.options],
        "files": files,
    }
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest(), stamps


def _unmarked(done: Done) -> bytes:
    return json.dumps(dataclasses.asdict(dataclasses.replace(done, mark="")), sort_keys=True).encode()


@contextlib.contextmanager
def opened_store(folder: Path) -> Iterator[Store]:
    """The store of a folder, which is made where it is missing, and no other process's meanwhile.

    Raises:
        FileError: it cannot be written to.
        InputError: another batch is at work there.
    """
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with held(folder):
        yield Store(folder)


class Store:
    """The rows of a batch's folder.

    Attributes:
        skipped: how many rows it was asked for and had.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.skipped = 0
        self._found = {done.name: done for done in self._read()}

    def sources(self) -> dict[str, str]:
        """The source of each folder that is there, by its name."""
        return {
            name: done.source for name, done in self._found.items() if done.files and self._has_files(done)
        }

    def kept(self, row: Row, key: str) -> Done | None:
        """What an earlier run of the same made, if its files are as it left them; None for what failed.

        A row with the answer no is kept: the same again has the same answer.
        """
        done = self._found.get(row.name)
        if done is None or done.key != key or done.state not in (State.DONE, State.NO):
            return None
        if not self._has_files(done) or _digests(done) != done.digests:
            return None
        self.skipped += 1
        return done

    def add(self, done: Done) -> Done:
        """Keeps a row, on the disk when this returns."""
        done = dataclasses.replace(done, mark=mark("batch", _unmarked(done)))
        line = json.dumps({"schema_version": SCHEMA_VERSION, **dataclasses.asdict(done)})
        path = self.folder / LINES
        with _writing(path), open(path, "ab", opener=_no_link) as file:
            if file.tell() and not _ends_a_line(path):
                file.write(b"\n")  # a process was killed while it wrote
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return done

    def finish(self, rows: Iterable[Done]) -> tuple[Path, ...]:
        """Writes lines, table and page, each whole or not at all.

        Rows of earlier batches in the folder come after those of this one, as long as their files are there.
        """
        own = {done.name: done for done in rows}
        rows = (
            *own.values(),
            *(row for row in self._found.values() if row.name not in own and self._has_files(row)),
        )
        lines = (json.dumps({"schema_version": SCHEMA_VERSION, **dataclasses.asdict(done)}) for done in rows)
        written = {
            LINES: "".join(f"{line}\n" for line in lines),
            TABLE: _table(rows),
            PAGE: _page(rows, self.folder),
        }
        for name, content in written.items():
            with _writing(self.folder):
                put(self.folder / name, content.encode(errors="backslashreplace"))
        return tuple(self.folder / name for name in written)

    def _read(self) -> list[Done]:
        path = self.folder / LINES
        found: list[Done] = []
        with walled(str(path)), contextlib.suppress(FileNotFoundError), open_regular(path) as file:
            while line := file.readline(_LONGEST):
                # else it is cut off, or not ours: that row is done again
                with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
                    data = json.loads(line)
                    data.pop("schema_version")
                    done = Done(**{**data, "state": State(data["state"])})
                    # in a folder that somebody else made or changed, nothing has this user's mark
                    found += [done] if is_marked("batch", _unmarked(done), done.mark) else []
        return found

    def _has_files(self, done: Done) -> bool:
        home = os.path.abspath(self.folder / done.name)  # a copy of the lines alone has no files
        paths = [Path(file["path"]) for file in done.files]
        return all(os.path.dirname(os.path.abspath(path)) == home and path.is_file() for path in paths)


def _digests(done: Done) -> dict[str, str]:
    return {path.name: digest_file(path) for path in (Path(file["path"]) for file in done.files)}


def _writing(path: Path) -> contextlib.AbstractContextManager[None]:
    return telling("cannot be written to", where=path, fix="name another folder")


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _cells(done: Done) -> dict[str, Any]:
    row = {name: getattr(done, name) for name in _COLUMNS}
    return row | {"files": " ".join(Path(file["path"]).name for file in done.files)}


def _table(rows: Iterable[Done]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _inert(value) for name, value in _cells(done).items()} for done in rows)
    return text.getvalue()


def _inert(value: Any) -> Any:
    """A cell that is text to a spreadsheet too; batch.jsonl has it as it is."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _page(rows: tuple[Done, ...], folder: Path) -> str:
    counts = {str(state): sum(done.state is state for done in rows) for state in State}
    return page(
        "batch.html.jinja",
        columns=_COLUMNS,
        rows=[[*_page_cells(done, folder)] for done in rows],
        counts={state: count for state, count in counts.items() if count},
    )


def _page_cells(done: Done, folder: Path) -> Iterator[Cell]:
    row = _cells(done)
    pages = (file["path"] for file in done.files if file["path"].endswith(".html"))
    link = next((quote(os.fsencode(Path(os.path.relpath(path, folder)).as_posix())) for path in pages), None)
    yield dataclasses.replace(text(row["name"]), link=link)
    yield text(row["source"])
    yield word(row["state"])
    yield word(row["verdict"] or "")
    yield prose(row["reason"] or "")
    yield number(row["seconds"], f"{row['seconds']:.1f}")
    peak = row["peak_bytes"]
    yield number(peak, None if peak is None else f"{peak / 2**20:,.0f} MiB")
    yield number(row["exit_code"], str(row["exit_code"]))
    yield number(len(done.files), str(len(done.files)))
