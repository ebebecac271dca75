"""A certificate file, read with care: anybody may have written it."""

from __future__ import annotations

import math
from pathlib import Path

from fxexport.providers import require_known
from fxexport.results import Verdict
from fxexport.subjects.samples import InputSpec
from fxhead.check.artefact import KIND, SCHEMA_VERSION, Artefact, FileRecord, ModelRecord, Recipe
from fxhead.files.strict_json import Field, read_json
from fxhead.inputs.images import LARGEST, Preparation
from fxhead.inputs.samples import MOST_SAMPLES, DataRecord
from fxhead.loading.load import FileOptions
from fxhead.source import Source, SourceKind
from fxpasses.errors import FileError, ProviderError

_FIX = "give a file that rewrite or check -o wrote as *.certificate.json"
_OLDEST = 1
_FORMER = {name: str(Verdict.AGREES) for name in ("within rounding", "within TF32 rounding")}
_MOST_MODELS, _MOST_INPUTS, _MOST_AXES, _MOST_FILES, _MOST_CHECKS = 16, 64, 8, 4096, 64
_LARGEST_EXTENT, _MOST_BYTES = 2**31, 2**62
_DIGEST_LENGTH = 64


def read_artefact(path: Path) -> Artefact:
    """The certificate in a file.

    Raises:
        FileError: it cannot be read, is no certificate, or is one of a newer fxhead.
    """
    whole = read_json(path, _FIX)
    if not isinstance(whole.value, dict) or whole.value.get("kind") != KIND:
        whole.refuse("is no certificate of fxhead")
    version = whole["schema_version"].integer(0, _MOST_BYTES)
    if version > SCHEMA_VERSION:
        raise FileError(
            f"was written by a newer fxhead (schema version {version}, this one reads {SCHEMA_VERSION})",
            where=str(path),
            fix="upgrade fxhead",
        )
    if version < _OLDEST:
        whole["schema_version"].refuse(f"is {version}, this fxhead reads {_OLDEST} to {SCHEMA_VERSION}")
    environment = whole["environment"]
    if not isinstance(environment.value, dict):
        environment.refuse("is no object")
    checks = whole["checks"].items(_MOST_CHECKS)
    for check in checks:
        check.value["verdict"] = _verdict(check["verdict"], version)
    if not checks:
        whole["checks"].refuse("is empty: nothing was compared")
    return Artefact(
        path=path,
        verdict=_verdict(whole["verdict"], version),
        environment={str(name): environment[name].text() for name in environment.value},
        recipe=_recipe(whole["recipe"]),
        checks=tuple(check.value for check in checks),
        schema_version=version,
    )


def _verdict(field: Field, version: int) -> str:
    """The verdict as it is called today."""
    if version >= SCHEMA_VERSION:
        return field.text(*Verdict)
    return _FORMER.get(text := field.text(*Verdict, *_FORMER), text)


def _recipe(field: Field) -> Recipe:
    models = tuple(_model(item) for item in field["models"].items(_MOST_MODELS))
    pairs = []
    for pair in field["pairs"].items(_MOST_CHECKS):
        ends = tuple(end.integer(0, len(models) - 1) for end in pair.items(2))
        if len(ends) != 2:
            pair.refuse("is no pair")
        pairs.append((ends[0], ends[1]))
    if not pairs:
        field["pairs"].refuse("is empty")
    return Recipe(
        models=models,
        pairs=tuple(pairs),
        providers=tuple(_provider(item["name"]) for item in field["providers"].items(_MOST_MODELS)),
        plan=field["plan"].optional(_file),
        seed=field["seed"].integer(-(2**63), 2**64 - 1),
        loading=_loading(field["loading"]),
        data=_data(field["data"]),
    )


def _loading(field: Field) -> FileOptions:
    return FileOptions(
        arch=field["arch"].optional(Field.text),
        ema=field["ema"].flag(),
        prefix=field["prefix"].optional(Field.text),
        allow=tuple(item.text() for item in field["allow"].items(_MOST_FILES)),
        trust=field["trust"].flag(),
    )


def _provider(field: Field) -> str:
    try:
        require_known([field.text()])
    except ProviderError as error:
        field.refuse(f"is no provider ({error.fix})")
    return field.text()


def _model(field: Field) -> ModelRecord:
    kind = SourceKind(field["kind"].text(*SourceKind))
    source, file = field["source"].optional(Field.text), field["file"].optional(_file)
    is_read = kind in (SourceKind.FILE, SourceKind.FOLDER, SourceKind.ONNX)
    if is_read != (file is not None and source is None):
        field.refuse(f"is of kind {kind}, which goes with another source")
    if file is None and (source is None or Source.parse(source).kind is not kind):
        field["source"].refuse(f"names no {kind}")
    return ModelRecord(
        name=field["name"].text(),
        kind=kind,
        source=source,
        file=file,
        data=tuple(_file(item) for item in field["data"].items(_MOST_FILES)),
        weights=field["weights"].optional(_weights_name),
        weights_file=field["weights_file"].optional(_file),
        state_sha256=field["state_sha256"].optional(_digest),
    )


def _weights_name(field: Field) -> str:
    name = field.text()
    if not name.isascii() or not name.isidentifier():  # a file has a record of its own, with its digest
        field.refuse("is no name of weights")
    return name


def _file(field: Field) -> FileRecord:
    return FileRecord(
        path=field["path"].text(),
        sha256=_digest(field["sha256"]),
        size_bytes=field["size_bytes"].integer(0, _MOST_BYTES),
    )


def _digest(field: Field) -> str:
    text = field.text()
    if len(text) != _DIGEST_LENGTH or not {*text} <= {*"0123456789abcdef"}:
        field.refuse("is no SHA-256")
    return text


def _shape(field: Field) -> tuple[int, ...]:
    shape = tuple(item.integer(1, _LARGEST_EXTENT) for item in field.items(_MOST_AXES))
    if math.prod(shape) > _LARGEST_EXTENT:
        field.refuse("is larger than any sample that is checked")
    return shape


def _data(field: Field) -> DataRecord:
    kind = field["kind"].text("random", "arrays", "images")
    path = field["path"].optional(Field.text)
    if (kind == "random") != (path is None):
        field.refuse(f"is of kind {kind}, which goes with another path")
    return DataRecord(
        kind=kind,
        samples=field["samples"].integer(1, MOST_SAMPLES if kind == "random" else _MOST_BYTES),
        inputs=tuple(_input(item) for item in field["inputs"].items(_MOST_INPUTS)),
        path=None if path is None else Path(path),
        sha256=field["sha256"].optional(_digest),
        left_out=field["left_out"].integer(0, _MOST_BYTES),
        preparation=field["preparation"].optional(_preparation),
    )


def _input(field: Field) -> InputSpec:
    return InputSpec(
        name=field["name"].text(),
        shape=_shape(field["shape"]),
        dtype=field["dtype"].text(),
        limit=field["limit"].optional(lambda limit: limit.integer(1, _LARGEST_EXTENT)),
    )


def _preparation(field: Field) -> Preparation:
    return Preparation(
        resize=_sides(field["resize"], 0),
        crop=_sides(field["crop"], 1),
        mean=tuple(item.number() for item in field["mean"].items(3)),
        std=tuple(item.number() for item in field["std"].items(3)),
        **{name: field[name].flag() for name in ("is_bgr", "is_truncated") if name in field.value},
    )


def _sides(field: Field, least: int) -> int | tuple[int, int]:
    if not isinstance(field.value, list):
        return field.integer(least, LARGEST)
    sides = [item.integer(1, LARGEST) for item in field.items(2)]
    return (sides[0], sides[1]) if len(sides) == 2 else field.refuse("is no height and width")
