"""Spoils a file: bytes anywhere, or where its format has parts, one part with the rest kept whole.

A checksum or a length that no longer fits is found at once; what is behind it is reached only if the file is
put together again as it should be. So zip archives keep their checksums, JSON stays JSON and ONNX protobuf.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

_NUMBERS = (
    0, 1, -1, 2, 127, 255, 2**15, 2**31 - 1, -(2**31), 2**31, 2**62, 2**63 - 1, -(2**63), 2**64, 10**30,
)  # fmt: skip
_TEXTS = (
    "", "\0", "a" * 5000, "..", "/", "../../x", "é\u202e\x1b[31m", "\udcff", 'x"); import os\r#', "__class__",
    "Eq(s0, 1)", "s0 ** 2 ** 30", "os.system", "self.training", "NaN", "1e999", "%s%n", "torch.save",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, [], {}, [[]], {"": 0}, 0.5, -0.0, 1e308, float("inf"), float("nan"), *_NUMBERS, *_TEXTS,
)  # fmt: skip
_DEEP = 400

Spoil = Callable[[bytes, random.Random], bytes]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is done to a file, so that it can be done again.

    Attributes:
        seed: of what is chosen at random.
        times: how often something is spoilt.
    """

    seed: int
    times: int


def spoilt(content: bytes, spoil: Spoil, choice: Choice) -> bytes:
    """The content with ``choice.times`` things changed."""
    chance = random.Random(choice.seed)
    for _ in range(choice.times):
        content = spoil(content, chance)
    return content


def spoil_bytes(content: bytes, chance: random.Random) -> bytes:
    """Anything at any place."""
    data = bytearray(content)
    at = chance.randrange(len(data) + 1)
    length = min(chance.choice((1, 1, 2, 4, 8, 64, 1024)), len(data))
    kind = chance.randrange(7)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << chance.randrange(8)
    elif kind == 1:
        data[at : at + length] = chance.randbytes(length)
    elif kind == 2:
        del data[at : at + length]
    elif kind == 3:
        data[at:at] = data[at : at + length] * chance.choice((1, 2, 100))
    elif kind == 4:
        start = chance.randrange(len(data) + 1)
        data[at : at + length] = data[start : start + length]
    elif kind == 5:
        number = chance.choice(_NUMBERS) % 2**64
        form = chance.choice("<B <H <I <Q >H >I >Q".split())
        packed = struct.pack(form, number % 2 ** (8 * struct.calcsize(form)))
        data[at : at + len(packed)] = packed
    else:
        del data[at:]
    return bytes(data)


def spoil_text(content: bytes, chance: random.Random) -> bytes:
    """A line or a word of a text, or any byte of it."""
    if chance.random() < 0.3:
        return spoil_bytes(content, chance)
    parts = content.split(chance.choice((b"\n", b" ", b"(", b", ")))
    at = chance.randrange(len(parts))
    kind = chance.randrange(4)
    if kind == 0:
        parts[at] = chance.choice(_TEXTS).encode("utf-8", "surrogatepass")
    elif kind == 1:
        parts.insert(at, chance.choice(parts))
    elif kind == 2:
        del parts[at]
    else:
        parts[at] = str(chance.choice(_NUMBERS)).encode()
    return b" ".join(parts) if b"\n" not in content else b"\n".join(parts)


def spoil_json(content: bytes, chance: random.Random) -> bytes:
    """A value, a key or an entry of a document, at any depth."""
    if chance.random() < 0.1:
        return spoil_bytes(content, chance)
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        return spoil_bytes(content, chance)
    places = [*_places(whole)]
    if not places:
        return json.dumps(chance.choice(_VALUES)).encode()
    holder, key = chance.choice(places)
    kind = chance.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        other, name = chance.choice(places)
        holder[key] = other[name]
    elif kind == 2:
        holder[key] = [holder[key]] * chance.choice((1, 2, 50))
    elif kind == 3 and isinstance(holder, dict):
        holder[chance.choice(_TEXTS)] = holder[key]
    elif kind == 4:
        text = json.dumps(whole)
        return text.replace("null", "[" * _DEEP + "]" * _DEEP, 1).encode()
    else:
        holder[key] = chance.choice(_VALUES)
    try:
        return json.dumps(whole).encode()
    except (ValueError, RecursionError):  # it holds itself by now
        return content


def _places(value: Any, depth: int = 0) -> Any:
    """Every place in a document: what holds it, and its key there."""
    if depth < 60:
        keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        for key in keys:
            yield value, key
            yield from _places(value[key], depth + 1)


def in_archive(inner: Callable[[str], Spoil]) -> Spoil:
    """Spoils one member of a zip archive, by what ``inner`` has for its name; or its name, or the archive."""

    def spoil(content: bytes, chance: random.Random) -> bytes:
        if chance.random() < 0.1:
            return spoil_bytes(content, chance)
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                members = [(name, archive.read(name)) for name in archive.namelist()]
        except Exception:  # noqa: BLE001 - it is no archive any more, which is no fault of ours
            return spoil_bytes(content, chance)
        if not members:
            return content
        at = chance.randrange(len(members))
        name, data = members[at]
        kind = chance.randrange(20)
        if kind == 0:
            del members[at]
        elif kind == 1:
            members[at] = (name + chance.choice(("x", "/", "é", ".pkl")), data)
        elif kind == 2:
            members.append((name.replace(".", chance.choice(("_", "..", "."))), data))
        else:
            members[at] = (name, inner(name)(data, chance))
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            for new, own in dict(members).items():
                archive.writestr(zipfile.ZipInfo(new), own)
        return made.getvalue()

    return spoil


def after_header(content: bytes, chance: random.Random) -> bytes:
    """The JSON behind a length of eight bytes, as safetensors has it; the length is kept right."""
    (length,) = struct.unpack("<Q", content[:8]) if len(content) >= 8 else (0,)
    if length > len(content) or chance.random() < 0.1:
        return spoil_bytes(content, chance)
    header = spoil_json(content[8 : 8 + length].rstrip(b" "), chance)
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def spoil_onnx(content: bytes, chance: random.Random) -> bytes:
    """A field of a message in an ONNX file, at any depth."""
    import onnx

    if chance.random() < 0.15:
        return spoil_bytes(content, chance)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except Exception:  # noqa: BLE001 - it is no protobuf any more, which is no fault of ours
        return spoil_bytes(content, chance)
    messages = [*_messages(model)]
    message = chance.choice(messages)
    fields = [field for field, _ in message.ListFields()]
    if not fields:
        return content
    field = chance.choice(fields)
    with contextlib.suppress(ValueError, TypeError):  # an enumeration has fewer values
        _spoil_field(message, field, chance)
    return bytes(model.SerializeToString())


def _messages(message: Any, depth: int = 0) -> Any:
    yield message
    for field, value in message.ListFields() if depth < 12 else ():
        if field.message_type is not None:
            for one in value if hasattr(value, "append") else [value]:
                yield from _messages(one, depth + 1)


def _spoil_field(message: Any, field: Any, chance: random.Random) -> None:
    value = getattr(message, field.name)
    kind = chance.randrange(3)
    if kind == 0 or field.message_type is not None:
        if hasattr(value, "append") and len(value):
            at = chance.randrange(len(value))
            if chance.random() < 0.5:
                del value[at]
            else:
                value.append(value[at])
        else:
            message.ClearField(field.name)
        return
    if hasattr(value, "append"):
        if len(value):
            value[chance.randrange(len(value))] = _fitting(value[0], chance)
        return
    setattr(message, field.name, _fitting(value, chance))


def _fitting(value: Any, chance: random.Random) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool | int):
        return chance.choice([number for number in _NUMBERS if abs(number) < 2**31])
    if isinstance(value, float):
        return chance.choice((0.0, -1.0, 1e38, float("nan"), float("inf")))
    if isinstance(value, bytes):
        return spoil_bytes(value, chance)
    return chance.choice([text for text in _TEXTS if text.isprintable()])
