"""Records as JSON: what their types say of a document, as a JSON Schema and to a reader."""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import inspect
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fxhead.files.strict_json import Field

Spelling = Mapping[Any, Any]
"""Of classes whose JSON has other keys than the class has fields: the type of each such key, None where a
field is not written; or the class as which it is written."""

_SCALARS = {str: "string", Path: "string", bool: "boolean", int: "integer", types.NoneType: "null"}
_NO_NUMBERS = ("nan", "inf", "-inf")
"""How floats are written for which JSON has no number."""
_MOST = 1_000_000
_ENTRY = re.compile(r"^    (\w+): (.*(?:\n      .*)*)", re.MULTILINE)


def schema_of(
    kind: Any, spelling: Spelling, names: Mapping[str, Any], *, name: str, title: str
) -> dict[str, Any]:
    """The JSON Schema of documents of a type: closed, so that it names whatever there is.

    Args:
        kind: a dataclass, a ``TypedDict``, or what annotations make of these.
        spelling: where classes are written with other keys.
        names: what annotations name that their files do not import when they run.
        name: the last part of its ``$id``.
        title: what such a document is.
    """
    schemas = _Schemas(spelling, names)
    whole = schemas.of(kind)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:fxhead:schema:{name}",
        "title": title,
        **whole,
        "$defs": dict(sorted(schemas.defined.items())),
    }


def read_as(kind: Any, field: Field, spelling: Spelling) -> Any:
    """What the type's ``to_dict`` wrote, as the record that it was; fields that are not written are left out.

    Raises:
        FileError: the document is no such record.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.NotRequired:
        return read_as(arguments[0], field, spelling)
    if origin in (typing.Union, types.UnionType):
        if field.value is None and types.NoneType in arguments:
            return None
        is_list = isinstance(field.value, list)
        known = [argument for argument in arguments if argument is not types.NoneType]
        # of two, one is a list
        inner = next((one for one in known if (typing.get_origin(one) is tuple) == is_list), known[0])
        return read_as(inner, field, spelling)
    if origin is tuple:
        items = field.items(_MOST)
        own = [arguments[0]] * len(items) if arguments[1:] == (...,) else [*arguments]
        if len(own) != len(items):
            field.refuse(f"is no list of {len(own)}")
        return tuple(read_as(inner, item, spelling) for inner, item in zip(own, items, strict=True))
    if kind is float:
        return float(field.text(*_NO_NUMBERS)) if isinstance(field.value, str) else field.number()
    if kind is int:
        return field.integer(-(2**63), 2**64 - 1)
    if kind is bool:
        return field.flag()
    if kind in (str, Path):
        return kind(field.text())
    if issubclass(kind, enum.Enum):
        return kind(field.text(*kind))
    own_fields = {own.name for own in dataclasses.fields(kind)}
    named = {name: inner for name, inner in _members(kind, spelling, {}).items() if name in own_fields}
    return kind(
        **{
            name: read_as(inner, field[name], spelling)
            for name, inner in named.items()
            if typing.get_origin(inner) is not typing.NotRequired or name in field.value
        }
    )


class _Schemas:
    def __init__(self, spelling: Spelling, names: Mapping[str, Any]) -> None:
        self.spelling, self.names = spelling, names
        self.defined: dict[str, Any] = {}

    def of(self, kind: Any) -> dict[str, Any]:
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin in (typing.Union, types.UnionType):
            return {"anyOf": [self.of(argument) for argument in arguments]}
        if origin is typing.Literal:
            return {"const": arguments[0]}
        if origin is tuple:
            return self._array(arguments)
        if origin in (dict, collections.abc.Mapping):
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if kind in _SCALARS:
            return {"type": _SCALARS[kind]}
        if kind is float:
            return {"anyOf": [{"type": "number"}, {"enum": [*_NO_NUMBERS]}]}
        if kind is Any:
            return {}
        if isinstance(self.spelling.get(kind), type):
            return self.of(self.spelling[kind])
        if kind.__name__ not in self.defined:
            self.defined[kind.__name__] = {}  # a record may hold others of its kind
            self.defined[kind.__name__] = self._named(kind)
        return {"$ref": f"#/$defs/{kind.__name__}"}

    def _array(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        if arguments[1:] == (...,):
            return {"type": "array", "items": self.of(arguments[0])}
        own = [self.of(argument) for argument in arguments]
        return {"type": "array", "prefixItems": own, "items": False, "minItems": len(own)}

    def _named(self, kind: Any) -> dict[str, Any]:
        doc = inspect.cleandoc(kind.__doc__ or "")
        about = {"description": doc.partition("\n\n")[0].replace("\n", " ")} if doc else {}
        if issubclass(kind, enum.Enum):
            return about | {"enum": [member.value for member in kind]}
        told = dict(_ENTRY.findall(doc.partition("Attributes:\n")[2]))
        members = _members(kind, self.spelling, self.names)
        optional = {name for name, inner in members.items() if typing.get_origin(inner) is typing.NotRequired}
        properties = {}
        for name, inner in members.items():
            properties[name] = self.of(typing.get_args(inner)[0] if name in optional else inner)
            if name in told:
                properties[name] = {"description": " ".join(told[name].split())} | properties[name]
        return about | {
            "type": "object",
            "properties": properties,
            "required": [name for name in members if name not in optional],
            "additionalProperties": False,
        }


def _members(kind: Any, spelling: Spelling, names: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a record's JSON, with their types."""
    hints = typing.get_type_hints(kind, localns=dict(names), include_extras=True)
    own = [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else [*hints]
    members = {name: hints[name] for name in own} | dict(spelling.get(kind, {}))
    return {name: inner for name, inner in members.items() if inner is not None}
