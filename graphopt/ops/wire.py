"""The protobuf wire format, as far as large files need it: https://protobuf.dev/programming-guides/encoding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import onnx

#: Raw data beyond this many bytes is left where it is.
LARGE = 4096
#: Stands for the model's own file among the locations of external data; no path can hold it.
IN_FILE = "\0"

_MODEL_GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_RAW_DATA = onnx.TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number
_FIXED = {1: 8, 5: 4}


class Field(NamedTuple):
    """Where a field of a message lies: from its key at `start`, its contents from `body`, up to `end`."""

    number: int
    start: int
    body: int
    end: int


def read_varint(data: memoryview | bytes, position: int) -> tuple[int, int]:
    """The number at `position` and the position behind it. Raises ValueError where the data ends or it has none."""
    value = shift = 0
    while position < len(data) and shift < 64:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("no number here")


def write_varint(value: int) -> bytes:
    """A number as the wire has it."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def field_head(number: int, length: int) -> bytes:
    """The start of a field of `length` bytes: its key and length."""
    return write_varint(number << 3 | 2) + write_varint(length)


def fields(data: memoryview | bytes, start: int, end: int) -> Iterator[Field]:
    """The fields of the message in ``data[start:end]``. Raises ValueError where it is malformed."""
    while start < end:
        key, body = read_varint(data, start)
        wire = key & 7
        if wire == 2:
            length, body = read_varint(data, body)
            stop = body + length
        elif wire == 0:
            stop = read_varint(data, body)[1]
        elif wire in _FIXED:
            stop = body + _FIXED[wire]
        else:
            raise ValueError(f"wire type {wire}")
        if stop > end:
            raise ValueError("the message is cut off")
        yield Field(key >> 3, start, body, stop)
        start = stop


def without_weights(data: memoryview) -> bytes:
    """A serialized model whose large initializers have their ``raw_data`` left behind.

    They are marked as external data at `IN_FILE`, with offset and length in `data`. Touches the rest of `data` only.

    Raises:
        ValueError: the message is malformed.
    """
    parts: list[memoryview | bytes] = []
    for field in fields(data, 0, len(data)):
        if field.number != _MODEL_GRAPH:
            parts.append(data[field.start : field.end])
            continue
        graph = b"".join(_graph(data, field))
        parts += [field_head(_MODEL_GRAPH, len(graph)), graph]
    return b"".join(parts)


def _graph(data: memoryview, graph: Field) -> Iterator[memoryview | bytes]:
    kept = graph.body
    for field in fields(data, graph.body, graph.end):
        if field.number == _INITIALIZER and field.end - field.body > LARGE:
            tensor = b"".join(_tensor(data, field))
            yield data[kept : field.start]
            yield field_head(_INITIALIZER, len(tensor))
            yield tensor
            kept = field.end
    yield data[kept : graph.end]


def _tensor(data: memoryview, tensor: Field) -> Iterator[memoryview | bytes]:
    kept = tensor.body
    for field in fields(data, tensor.body, tensor.end):
        if field.number == _RAW_DATA and field.end - field.body > LARGE:
            yield data[kept : field.start]
            mark = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
            entries = {"location": IN_FILE, "offset": str(field.body), "length": str(field.end - field.body)}
            for key, text in entries.items():
                mark.external_data.add(key=key, value=text)
            yield mark.SerializeToString()
            kept = field.end
    yield data[kept : tensor.end]
