"""A certificate file, read with care: anybody may have written it."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any, NotRequired

from fxexport.providers import require_known
from fxexport.results import Verdict
from fxexport.untrusted.archive import may_be_a_name
from fxhead.check.artefact import KIND, SCHEMA_VERSION, Artefact, ModelRecord, Recipe
from fxhead.files.strict_json import Field, read_json
from fxhead.files.typed_json import read_as
from fxhead.inputs.images import LARGEST, Preparation
from fxhead.inputs.samples import MOST_SAMPLES, DataRecord
from fxhead.source import Source, SourceKind
from fxpasses.errors import FileError, ProviderError

_FIX = "give a file that rewrite or check -o wrote as *.certificate.json"
_OLDEST = 1
_FORMER = {name: str(Verdict.AGREES) for name in ("within rounding", "within TF32 rounding")}
_MOST_MODELS, _MOST_INPUTS, _MOST_AXES, _MOST_CHECKS = 16, 64, 8, 64
_LARGEST_EXTENT, _MOST_BYTES = 2**31, 2**62
_MOST_VERSIONS, _LONGEST_VERSION = 100, 1_000
_DIGEST = re.compile("[0-9a-f]{64}")
_WRITTEN: dict[Any, Any] = {
    Preparation: dict.fromkeys(("is_bgr", "is_truncated"), NotRequired[bool]),  # older ones have neither
}


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
    if not isinstance(environment.value, dict) or len(environment.value) > _MOST_VERSIONS:
        environment.refuse(f"is no object of at most {_MOST_VERSIONS} names")
    checks = whole["checks"].items(_MOST_CHECKS)
    for check in checks:
        check.value["verdict"] = _verdict(check["verdict"], version)
    if not checks:
        whole["checks"].refuse("is empty: nothing was compared")
    return Artefact(
        path=path,
        verdict=_verdict(whole["verdict"], version),
        environment={str(name): _version(environment[name]) for name in environment.value},
        recipe=_recipe(whole["recipe"], path.parent),
        checks=tuple(check.value for check in checks),
        schema_version=version,
    )


def _version(field: Field) -> str:
    if len(text := field.text()) > _LONGEST_VERSION:
        field.refuse(f"has more than {_LONGEST_VERSION:,} characters")
    return text


def _verdict(field: Field, version: int) -> str:
    """The verdict as it is called today."""
    if version >= SCHEMA_VERSION:
        return field.text(*Verdict)
    return _FORMER.get(text := field.text(*Verdict, *_FORMER), text)


def _recipe(field: Field, folder: Path) -> Recipe:
    field.value["providers"] = [_provider(item["name"]) for item in field["providers"].items(_MOST_MODELS)]
    recipe: Recipe = read_as(Recipe, field, _WRITTEN)
    for record, model in zip(recipe.models, field["models"].items(_MOST_MODELS), strict=True):
        _require_sound(record, model)
    for pair in field["pairs"].items(_MOST_CHECKS):
        for end in pair.items(2):
            end.integer(0, len(recipe.models) - 1)
    if not recipe.pairs:
        field["pairs"].refuse("is empty")
    names = [file.path for file in recipe.files()]
    for name in names if recipe.data.path is None else [*names, str(recipe.data.path)]:
        if not may_be_a_name(os.path.join(folder, name)):
            field.refuse(f"has {name[:80]!r}, which is no name of a file")
    digests = (recipe.data.sha256, *(file.sha256 for file in recipe.files()))
    for digest in (*digests, *(model.state_sha256 for model in recipe.models)):
        if digest is not None and not _DIGEST.fullmatch(digest):
            field.refuse(f"has {digest[:80]!r}, which is no SHA-256")
    _require_sound_data(recipe.data, field["data"])
    return recipe


def _provider(field: Field) -> str:
    try:
        require_known([field.text()])
    except ProviderError as error:
        field.refuse(f"is no provider ({error.fix})")
    return field.text()


def _require_sound(record: ModelRecord, field: Field) -> None:
    is_read = record.kind in (SourceKind.FILE, SourceKind.FOLDER, SourceKind.ONNX)
    if is_read != (record.file is not None and record.source is None):
        field.refuse(f"is of kind {record.kind}, which goes with another source")
    if not is_read and (record.source is None or Source.parse(record.source).kind is not record.kind):
        field["source"].refuse(f"names no {record.kind}")
    # a file has a record of its own, with its digest
    if record.weights is not None and not (record.weights.isascii() and record.weights.isidentifier()):
        field["weights"].refuse("is no name of weights")


def _require_sound_data(record: DataRecord, field: Field) -> None:
    is_random = field["kind"].text("random", "arrays", "images") == "random"
    if is_random != (record.path is None):
        field.refuse(f"is of kind {record.kind}, which goes with another path")
    field["samples"].integer(1, MOST_SAMPLES if is_random else _MOST_BYTES)
    for item in field["inputs"].items(_MOST_INPUTS):
        shape = item["shape"].items(_MOST_AXES)
        if math.prod(extent.integer(1, _LARGEST_EXTENT) for extent in shape) > _LARGEST_EXTENT:
            item["shape"].refuse("is larger than any sample that is checked")
    for name in () if record.preparation is None else ("resize", "crop"):
        sides = field["preparation"][name]
        if isinstance(sides.value, list):
            for side in sides.items(2):
                side.integer(1, LARGEST)
        else:
            sides.integer(int(name == "crop"), LARGEST)
