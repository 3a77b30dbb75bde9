"""Damaging ONNX files, the same way on every run."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import onnx
from google.protobuf.message import Message

#: Numbers that a dimension, a count or an enumeration should not be.
_NUMBERS = [-1, 0, 1, 2, 7, 16, -(1 << 31), (1 << 31) - 1, 1 << 40, (1 << 63) - 1, -(1 << 63)]
_FLOATS = [float("nan"), float("inf"), -1.0, 0.0, 1e38]
_TEXTS = ["", "x" * 5000, "../../etc/passwd", "2**99999999", "9**9**9**9", "n//0", "a b\0"]


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    """The file with bits flipped, bytes overwritten, lost or doubled, or cut off; weights are spared as a rule."""
    damaged = bytearray(data)
    at = _somewhere(len(data), rng)
    match rng.choice(["flip", "flip", "set", "set", "cut", "lose", "double"]):
        case "flip":
            for _ in range(rng.choice([1, 1, 3])):
                damaged[_somewhere(len(data), rng)] ^= 1 << rng.randrange(8)
        case "set":
            damaged[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        case "cut":
            del damaged[at:]
        case "lose":
            del damaged[at : at + rng.choice([1, 2, 8])]
        case "double":
            damaged[at:at] = damaged[at : at + rng.choice([1, 4, 30])]
    return bytes(damaged)


def _somewhere(size: int, rng: random.Random) -> int:
    """A position; in a large file mostly near its ends, where the structure lies."""
    end = rng.random()
    if size < 60_000 or end < 0.2:
        return rng.randrange(size)
    return rng.randrange(40_000) if end < 0.8 else size - 1 - rng.randrange(2_000)


def damaged_fields(data: bytes, rng: random.Random) -> bytes:
    """The file, well-formed as a message, with one to three fields that are wrong, lost or doubled."""
    model = onnx.ModelProto.FromString(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        places = list(_places(model))
        texts = [getattr(m, f.name) for m, f, i in places if i is None and f.name in ("name", "op_type")]
        message, field, index = rng.choice(places)
        try:
            _damage(message, field, index, rng, texts)
        except (ValueError, TypeError):  # protobuf refuses the value
            continue
    damaged: bytes = model.SerializeToString()
    return damaged


def _places(message: Message) -> Iterator[tuple[Any, Any, int | None]]:
    """Message, field and index of whatever is set; -1 for a list as a whole."""
    for field, value in message.ListFields():
        if field.name == "raw_data":
            continue
        many = not isinstance(value, (int, float, str, bytes, Message))
        if many:
            yield message, field, -1
        if isinstance(value, Message) or (many and len(value) and isinstance(value[0], Message)):
            for each in value if many else [value]:
                yield from _places(each)
        elif many:
            yield from ((message, field, index) for index in range(min(len(value), 4)))
        else:
            yield message, field, None


def _damage(message: Any, field: Any, index: int | None, rng: random.Random, texts: list[str]) -> None:
    held = getattr(message, field.name)
    if index == -1:
        if rng.random() < 0.3:
            message.ClearField(field.name)
        elif rng.random() < 0.5:
            del held[rng.randrange(len(held))]
        else:
            held.append(held[rng.randrange(len(held))])
        return
    old = held if index is None else held[index]
    match old:
        case int():
            new: Any = rng.choice([*_NUMBERS, old + 1, old - 1])
        case float():
            new = rng.choice(_FLOATS)
        case bytes():
            new = rng.choice([b"", b"\xff", old + b"x"])
        case _:
            new = rng.choice([*_TEXTS, *rng.choices(texts, k=8)])
    if index is None:
        setattr(message, field.name, new)
    else:
        held[index] = new
