"""How a file can be taken back to the one that it was made from: kept in it, as an entry of its metadata.

The entry holds the pieces of the old file that are not in the new one, and where the others lie. It speaks of
the file without the entry, and is believed only where that file is still as it was left, its weights aside:
those may have been trained or replaced meanwhile. Numbers that the old file held elsewhere have to be as they
were left.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from typing import Any

import onnx

from fxexport.onnx_dialect.content import METADATA, Content, values_in
from fxexport.onnx_dialect.pieces import (
    Piece,
    around,
    between,
    framed,
    from_data,
    inverse,
    merged,
    to_data,
    written,
)
from fxexport.untrusted.plain_json import read_plain_json
from fxpasses.report import Form, Scope

KEY = "fxhead.before"
_VERSION = 2
Shapes = Sequence[Sequence[int]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WayBack:
    """The way back.

    Attributes:
        input_shapes: the shapes that it was told.
        before: the old file.
    """

    to: Form
    scope: Scope
    input_shapes: Shapes
    before: Content


def with_record(
    content: Content, pieces: Sequence[Piece], to: Form, scope: Scope, input_shapes: Shapes
) -> list[Piece]:
    """The new file together with the way back to the old one."""
    values, pieces = [*values_in(pieces)], merged(pieces)
    data = {
        "version": _VERSION,
        "to": str(to),
        "scope": str(scope),
        "input_shapes": [[*shape] for shape in input_shapes],
        "digest": content.digest(pieces),
        "values": to_data(values),
        "pieces": to_data(inverse(pieces, content.view)),
    }
    entry = onnx.StringStringEntryProto(key=KEY, value=json.dumps(data, separators=(",", ":")))
    return [*pieces, *framed(METADATA, [bytes(entry.SerializeToString())])]


def record_of(content: Content) -> WayBack | None:
    """The way back that a file holds, or None where it holds none or is not as it was left."""
    field = content.metadata(KEY)
    if field is None:
        return None
    entry = onnx.StringStringEntryProto.FromString(content.data[field.content : field.end])
    size = len(content.data) - (field.end - field.start)

    def here(pieces: Sequence[Any]) -> list[Piece]:
        return [*around(from_data(pieces, size), field.start, field.end)]

    try:
        data = read_plain_json(entry.value)
        values = [piece for piece in here(data["values"]) if not isinstance(piece, bytes)]
        rest = around([between(0, size)], field.start, field.end)
        if data["version"] != _VERSION or data["digest"] != content.digest(rest, values):
            return None
        before = io.BytesIO()  # joined at once, it would be in memory twice
        before.writelines(written(here(data["pieces"]), content.view))
        return WayBack(
            to=Form(data["to"]),
            scope=Scope(data["scope"]),
            input_shapes=[[int(extent) for extent in shape] for shape in data["input_shapes"]],
            before=Content(before.getvalue(), content.name, content.folder),
        )
    except (ValueError, KeyError, TypeError, OverflowError):  # of another version, or by nobody we know
        return None
