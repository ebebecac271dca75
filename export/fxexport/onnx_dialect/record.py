"""How a file can be taken back to the one that it was made from: kept in it, as an entry of its metadata.

The entry holds the pieces of the old file that are not in the new one, and where the others lie. It speaks of
the file without the entry, and is believed only where that file is still as it was left, its weights aside:
those may have been trained or replaced meanwhile.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

import onnx

from fxexport.onnx_dialect.content import METADATA, Content
from fxexport.onnx_dialect.pieces import Copy, Piece, framed, from_data, inverse, to_data
from fxexport.onnx_graph.wire import Field
from fxpasses.plan import WeightPlan
from fxpasses.report import Form, Rewrite, Scope, Site

KEY = "fxhead.before"
_VERSION = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The way back.

    Attributes:
        to: the form that the rewrite made.
        scope: the sites that it was asked for.
        rewrites: what it did.
        plan: how weights moved.
        pieces: the old file, as pieces of the one that holds the record.
    """

    to: Form
    scope: Scope
    rewrites: tuple[Rewrite, ...]
    plan: WeightPlan
    pieces: list[Piece]


def with_record(
    content: Content,
    pieces: Sequence[Piece],
    to: Form,
    scope: Scope,
    rewrites: Sequence[Rewrite],
    plan: WeightPlan,
) -> list[Piece]:
    """The new file together with the way back to the old one."""
    held = _field_of(content)
    if held is not None:
        pieces = _without(pieces, held)
    data = {
        "version": _VERSION,
        "to": str(to),
        "scope": str(scope),
        "digest": content.digest_of(pieces),
        "rewrites": [dataclasses.asdict(entry) for entry in rewrites],
        "plan": plan.to_dict(),
        "pieces": to_data(inverse(pieces, memoryview(content.data))),
    }
    entry = onnx.StringStringEntryProto(key=KEY, value=json.dumps(data, separators=(",", ":")))
    return [*pieces, *framed(METADATA, [bytes(entry.SerializeToString())])]


def record_of(content: Content) -> Record | None:
    """The way back that a file holds, or None where it holds none or is not as it was left."""
    field = _field_of(content)
    if field is None:
        return None
    entry = onnx.StringStringEntryProto()
    entry.ParseFromString(content.data[field.content : field.end])
    size = len(content.data) - (field.end - field.start)
    try:
        data = json.loads(entry.value)
        if data["version"] != _VERSION or data["digest"] != content.digest(hidden=field):
            return None
        return Record(
            to=Form(data["to"]),
            scope=Scope(data["scope"]),
            rewrites=tuple(_rewrite(item) for item in data["rewrites"]),
            plan=WeightPlan.from_dict(data["plan"]),
            pieces=[*_around(from_data(data["pieces"], size), field)],
        )
    except (
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
    ):  # of another version, or written by nobody we know
        return None


def _field_of(content: Content) -> Field | None:
    """Where the file's metadata holds the record."""
    entries = [field for field in content.model_fields if field.number == METADATA]
    found = [
        field for field, entry in zip(entries, content.proto.metadata_props, strict=True) if entry.key == KEY
    ]
    return found[0] if len(found) == 1 else None


def _without(pieces: Sequence[Piece], field: Field) -> list[Piece]:
    """The pieces of a file without one field of it, which one of them copies."""
    out: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, Copy) and piece.start <= field.start and field.end <= piece.end:
            out += [Copy(piece.start, field.start), Copy(field.end, piece.end)]
        else:
            out.append(piece)
    return [piece for piece in out if not isinstance(piece, Copy) or piece.size]


def _around(pieces: Sequence[Piece], field: Field) -> Iterator[Piece]:
    """Pieces of a file without a field, as pieces of the file with it."""
    hidden = field.end - field.start
    for piece in pieces:
        if isinstance(piece, bytes):
            yield piece
        elif piece.start >= field.start:
            moved = piece.start + hidden
            yield (
                Copy(moved, moved + piece.size)
                if isinstance(piece, Copy)
                else dataclasses.replace(piece, start=moved)
            )
        elif isinstance(piece, Copy) and piece.end > field.start:
            yield Copy(piece.start, field.start)
            yield Copy(field.end, piece.end + hidden)
        else:
            yield piece


def _rewrite(data: dict[str, Any]) -> Rewrite:
    site = data["site"]
    return Rewrite(
        site=Site(
            **site
            | {
                "form": Form(site["form"]),
                "scope": Scope(site["scope"]),
                "kernel_size": tuple(site["kernel_size"]),
            }
        ),
        to=Form(data["to"]),
        weight_shape_before=tuple(data["weight_shape_before"]),
        weight_shape_after=tuple(data["weight_shape_after"]),
        copied_bytes=int(data["copied_bytes"]),
    )
