"""What a batch does: one row for each model, from a manifest, a folder or a glob."""

from __future__ import annotations

import csv
import dataclasses
import glob
import io
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fxexport.untrusted.archive import open_regular
from fxexport.untrusted.plain_json import read_plain_json
from fxhead.files.plain_yaml import LONGEST_TEXT, read_plain_yaml
from fxhead.source import Source, SourceKind
from fxpasses.errors import FileError, InputError, suggest, telling
from fxpasses.wall.wall import walled

MODEL_SUFFIXES = (".onnx", ".pt", ".pt2", ".pth", ".safetensors")
MANIFEST_SUFFIXES = (".csv", ".jsonl", ".yaml", ".yml")
LINES, TABLE, PAGE = "batch.jsonl", "batch.csv", "batch.html"
"""What a batch writes of its own, beside the folders of its rows."""
_MOST_BYTES, _MOST_ROWS = 64 * 2**20, 100_000
_LONGEST, _MOST_VALUES = LONGEST_TEXT, 100
_OWN = ("source", "name")
_DOTTED = re.compile(r"[\w.]{1,200}(:[\w.]*)?")
_SHAPE_OF_A_MANIFEST = "give a column or key 'source', and options of fxhead rewrite by their long names"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RowOption:
    """An option of ``fxhead rewrite`` that a row can have: as it is typed, and whether it takes no value."""

    text: str
    is_flag: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One model.

    Attributes:
        name: folder of its outputs below the batch's; no other row has it.
        wanted: the same before a number was put behind it, if one was.
        source: what the user named, as ``fxhead rewrite`` takes it.
        options: further arguments of ``fxhead rewrite``.
    """

    name: str
    source: str
    options: tuple[str, ...]
    wanted: str = ""

    def inputs(self) -> tuple[Path, ...]:
        """Files that the result depends on: the source's own, those that options name, and code of both.

        Raises:
            FileError: the source is no ONNX file, by its name one.
        """
        source = Source.parse(self.source)
        own = [] if source.path is None else [source.path]
        if source.kind in (SourceKind.ONNX, SourceKind.FOLDER):
            from fxhead.check.artefact import companions  # takes two seconds, of which others need none

            own += companions(source)
        named = [Path(text) for text in self.options if not text.startswith("-") and os.path.isfile(text)]
        code = [file for text in (self.source, *self.options) for file in _code(text)]
        return (*own, *named, *code)


def _code(text: str) -> Iterator[Path]:
    """Files of Python in the working folder that a dotted name leads to."""
    if _DOTTED.fullmatch(text):
        parts = text.partition(":")[0].split(".")
        for end in range(1, len(parts) + 1):
            module = Path(*parts[:end])
            yield from (
                file for file in (module.with_suffix(".py"), module / "__init__.py") if file.is_file()
            )


def read_rows(
    sources: Iterable[str],
    common: Mapping[str, Any],
    known: Mapping[str, RowOption],
    *,
    trust: bool = False,
    out: Path | None = None,
) -> tuple[Row, ...]:
    """The rows that ``sources`` (manifests, folders, globs, or anything ``fxhead rewrite`` takes) stand for.

    Args:
        sources: the arguments of the command.
        common: options of every row, by name; a row's own go before them.
        known: every option that a row can have, by name.
        trust: whether a manifest may name code (a callable, or what ``--allow`` and ``--trust`` run), or
            weights to be downloaded.
        out: the folder of all outputs: what lies in it is found in no folder around it.

    Raises:
        FileError: a manifest cannot be read, or names what it may not.
        InputError: a manifest has an unknown option, or there is no row.
    """
    found: list[Row] = []
    taken = dict.fromkeys((LINES, TABLE, PAGE), 1)
    for source in sources:
        for entry in _entries(source, trust=trust, out=out):
            options = {**common, **{key: value for key, value in entry.items() if key not in _OWN}}
            wanted = _plain_name(entry.get("name") or Source.parse(entry["source"]).stem)
            own, name = arguments(options, known, where=source), _free_name(wanted, taken)
            found.append(Row(name=name, source=entry["source"], options=own, wanted=wanted))
    if not found:
        raise InputError("there is no model", where=" ".join(sources), fix="name a manifest, folder or glob")
    return tuple(found)


def arguments(options: Mapping[str, Any], known: Mapping[str, RowOption], *, where: str) -> tuple[str, ...]:
    """Options by name as arguments of ``fxhead rewrite``.

    Raises:
        InputError: the command has no such option.
    """
    found: list[str] = []
    for key, value in options.items():
        option = known.get(key.replace("-", "_"))
        if option is None:
            raise InputError(
                f"fxhead rewrite has no option '{key}'", where=where, fix=suggest(key, [*known, *_OWN])
            )
        if option.is_flag:
            found.extend([option.text] if _is_true(value, key, where) else [])
        elif value not in (None, ""):
            values = value if isinstance(value, list | tuple) else [value]
            found.extend(text for item in values for text in (option.text, str(item)))
    return tuple(found)


def _is_true(value: Any, key: str, where: str) -> bool:
    if value in (None, "") or value is False or str(value).lower() in ("false", "no", "0"):
        return False
    if value is True or str(value).lower() in ("true", "yes", "1"):
        return True
    raise InputError(f"'{key}' is yes or no, not {value!r}", where=where, fix="write true or false")


def _entries(source: str, *, trust: bool, out: Path | None) -> Iterator[dict[str, Any]]:
    path, made = Path(source), None if out is None else out.resolve()
    if path.suffix.lower() in MANIFEST_SUFFIXES:
        for number, entry in enumerate(_manifest(path), start=1):
            wish = None if trust else _wish(entry)
            if wish is not None:
                raise FileError(
                    f"row {number} names {wish}",
                    where=str(path),
                    fix="give --trust if you know where the manifest comes from",
                )
            yield entry
    elif path.is_dir():
        files = (file for file in path.rglob("*") if file.suffix.lower() in MODEL_SUFFIXES)
        # a folder as hubs lay it out is one model
        models = {file.parent if file.with_name("config.json").is_file() else file for file in files}
        is_around = made is not None and path.resolve() in made.parents
        found = (model for model in models if not (is_around and made in model.resolve().parents))
        yield from ({"source": str(model)} for model in sorted(found))
    elif glob.has_magic(source):
        yield from ({"source": file} for file in sorted(glob.glob(source, recursive=True)))
    else:
        yield {"source": source}


def _wish(entry: Mapping[str, Any]) -> str | None:
    """What somebody who wrote a manifest cannot ask for, of a user who only names it."""
    options = {key.replace("-", "_"): value for key, value in entry.items() if value not in (None, "", False)}
    arch = options.get("arch", [])
    built = [entry["source"], *(arch if isinstance(arch, list | tuple) else [arch])]
    is_callable = any(Source.parse(str(text)).kind is SourceKind.CALLABLE for text in built)
    if is_callable or not options.keys().isdisjoint(("trust", "allow")):
        return "code to be run"
    if "weights" in options:
        from fxhead.loading.architectures import is_weight_file  # imports torch, which others do without

        found = options["weights"]
        if not all(is_weight_file(str(text)) for text in (found if isinstance(found, list) else [found])):
            return "weights to be downloaded"
    return None


def _manifest(path: Path) -> Iterator[dict[str, Any]]:
    """Entries of a manifest; paths in it are relative to it."""
    with telling("cannot be read", where=path, fix="check that it is there"), open_regular(path) as file:
        raw = file.read(_MOST_BYTES + 1)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError("is not UTF-8", where=str(path), fix="save it as UTF-8") from error
    if len(raw) > _MOST_BYTES:
        raise FileError(f"has more than {_MOST_BYTES} bytes", where=str(path), fix="split it")
    with walled(str(path)):
        entries = _parsed(path, text)
    if len(entries) > _MOST_ROWS:
        raise FileError(f"has more than {_MOST_ROWS:,} rows", where=str(path), fix="split it")
    for number, entry in enumerate(entries, start=1):
        wrong = _what_is_wrong(entry)
        if wrong is not None:
            raise FileError(f"row {number} {wrong}", where=str(path), fix=_SHAPE_OF_A_MANIFEST)
        beside = os.path.join(path.parent, entry["source"])
        yield {**entry, "source": beside if os.path.exists(beside) else entry["source"]}


def _what_is_wrong(entry: Any) -> str | None:
    """What it lacks to be a row: a source, and options that are texts, numbers, yes or no, or some."""
    if not isinstance(entry, dict) or not isinstance(entry.get("source"), str) or not entry["source"]:
        return "has no source"
    if not isinstance(entry.get("name", ""), str):
        return "has a name that is no text"
    for key, value in entry.items():
        if not isinstance(key, str):
            return "has a value without a name" if key is None else "has an option whose name is no text"
        values = value if isinstance(value, list) else [value]
        if len(values) > _MOST_VALUES or not all(map(_is_plain, values)):
            return f"has an option {key[:80]!r} that is no text, number, yes or no, or short list of these"
    return None


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        is_text = value.isascii() or value == value.encode(errors="replace").decode()  # no half characters
        return is_text and len(value) <= _LONGEST and "\0" not in value
    return value is None or isinstance(value, float) or (isinstance(value, int) and value.bit_length() < 64)


def _parsed(path: Path, text: str) -> list[Any]:
    """The rows, one more than there may be at most."""
    try:
        return [*itertools.islice(_each(path, text), _MOST_ROWS + 1)]
    except (csv.Error, ValueError, RecursionError) as error:
        raise FileError(f"cannot be read ({error})", where=str(path), fix=_SHAPE_OF_A_MANIFEST) from error
    except ImportError as error:
        raise InputError(
            "PyYAML is not installed", where=str(path), fix="run pip install pyyaml, or write CSV or JSONL"
        ) from error


def _each(path: Path, text: str) -> Iterator[Any]:
    suffix = path.suffix.lower()
    if suffix == ".csv":
        rows = csv.DictReader(io.StringIO(text), strict=True)
        if len(rows.fieldnames or ()) > _MOST_VALUES:  # every row gets them all
            raise ValueError(f"it has more than {_MOST_VALUES} columns")
        yield from ({key: value for key, value in row.items() if value} for row in rows)
    elif suffix == ".jsonl":
        yield from (read_plain_json(line) for line in text.splitlines() if line.strip())
    else:
        found = read_plain_yaml(text)
        if not isinstance(found, list):
            raise FileError("is no list of rows", where=str(path), fix=_SHAPE_OF_A_MANIFEST)
        yield from found


def beside(rows: Iterable[Row], found: Mapping[str, str]) -> tuple[Row, ...]:
    """The rows with names that leave alone what earlier batches made of other models.

    Args:
        rows: those of this batch.
        found: the source of each folder that is there, by its name.
    """
    left: dict[str, list[str]] = {}
    for name, source in found.items():
        left.setdefault(source, []).append(name)
    taken = dict.fromkeys((LINES, TABLE, PAGE, *map(str.casefold, found)), 1)
    named = []
    for row in rows:
        plain, own = row.wanted or row.name, left.get(row.source, [])
        numbered = re.compile(re.escape(plain) + r"(\.[0-9]+)?")
        kept = next((name for name in own if numbered.fullmatch(name)), None)
        if kept is not None:
            own.remove(kept)
        named.append(dataclasses.replace(row, name=kept or _free_name(plain, taken)))
    return tuple(named)


def _plain_name(wanted: str) -> str:
    return re.sub(r"[^\w.+-]", "_", wanted).strip(".") or "model"


def _free_name(plain: str, taken: dict[str, int]) -> str:
    """A folder's name that no other row has, on file systems that ignore case too.

    Args:
        plain: the name, if it is free.
        taken: the names that are not, with the last number that was put behind each.
    """
    name = plain
    while name.casefold() in taken:
        taken[plain.casefold()] = number = taken.get(plain.casefold(), 1) + 1
        name = f"{plain}.{number}"
    taken[name.casefold()] = 1
    return name
