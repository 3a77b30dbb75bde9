"""ONNX files, written as a stream and put in place at once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import onnx

from graphopt.backends.onnx_model import PROTOBUF_LIMIT, checked_draft, draft_size, weight_size
from graphopt.backends.onnx_write import Draft, Weight
from graphopt.errors import SaveError
from graphopt.ir import Graph
from graphopt.ir.expect import expect_path
from graphopt.ops.collector import paused_gc
from graphopt.ops.protos import pack
from graphopt.ops.wire import field_head

# Large weights begin at a memory page, so that they can be mapped; small ones at a cache line.
_PAGE, _LINE = 4096, 64
_OTHERS = {
    ".pt2": "a file that torch.export.save(torch.export.export(go.to_torch(graph), args), path) writes",
    ".pt": "a file that torch.save(go.to_torch(graph), path) writes",
    ".pth": "a file that torch.save(go.to_torch(graph), path) writes",
    ".txt": "a graph in text form, which graphopt.ir.write_text(graph, path) writes",
}
_GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_RAW_DATA = onnx.TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number


def save(
    graph: Graph, path: str | os.PathLike[str], opset: int | None = None, *, external: bool | None = None,
    sparse: bool = False,
) -> None:  # fmt: skip
    """Writes a graph as a checked ONNX file.

    The file appears whole or not at all. Weights go from their tensors to the file without a copy.

    Args:
        graph: is not changed.
        path: of the file; its folder must exist.
        opset: of the standard operators, from 13 on; operators that it lacks are written out in older ones. By
            default the lowest, from 18 on, that can express the graph as it is.
        external: whether weights go into a file ``<path>.data`` beside it; by default when they take more than 2 GB.
        sparse: write weights as sparse tensors where that takes fewer bytes: float32 weights with less than a third of
            them left. Constant nodes hold them, which ONNX Runtime makes dense as it loads the file.

    Raises:
        UnsupportedOperatorError: ONNX lacks an operator, or the opset asked for does; names all such operators.
        SaveError: ONNX's checker refuses the model, the file cannot be written, or its name is that of a torch or text
            file.
        OptionError: the opset cannot be written.
    """
    path = expect_path(path, "save", SaveError)
    if path.suffix in _OTHERS:  # which would be read as something else
        raise SaveError(f"'{path}' is the name of {_OTHERS[path.suffix]}", hint="end it in .onnx")
    with paused_gc():
        draft = checked_draft(graph, opset, sparse)
        if external is None:
            external = draft_size(draft) > PROTOBUF_LIMIT
        with _replacing(path) as model_file:
            if not external:
                _write_model(draft, model_file)
                return
            data_path = path.with_name(path.name + ".data")
            with _replacing(data_path) as data_file:
                _write_weights(draft, data_file, data_path.name)
                _write_model(draft, model_file)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path` that takes its place when the block ends well, and vanishes when it does not."""
    folder = path.parent
    if not folder.is_dir():
        raise SaveError(f"folder '{folder}' does not exist", hint="create it first")
    try:
        if path.is_dir():
            raise SaveError(f"'{path}' is a folder", hint="name a file in it")
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=folder)
    except OSError as error:
        raise SaveError(f"cannot write to folder '{folder}': {error.strerror or error}") from None
    try:
        with open(handle, "wb") as file:
            yield file
        os.chmod(temporary, _mode(path))
        os.replace(temporary, path)
    except OSError as error:
        raise SaveError(f"cannot write '{path}': {error.strerror or error}") from None
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _mode(path: Path) -> int:
    """The permissions of the file that is replaced, or those that a new file gets."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _write_model(draft: Draft, file: BinaryIO) -> None:
    """Writes the model with the graph as its last field and the weights as the last of the graph."""
    head = onnx.ModelProto()
    head.CopyFrom(draft.model)
    head.ClearField("graph")
    body = draft.model.graph.SerializeToString()
    weights = [(w, w.proto.SerializeToString(), _data_head(w)) for w in draft.weights]
    lengths = [len(message) + len(data) + (weight_size(w) if data else 0) for w, message, data in weights]
    heads = [field_head(_INITIALIZER, length) for length in lengths]
    file.write(head.SerializeToString())
    file.write(field_head(_GRAPH, len(body) + sum(lengths) + sum(map(len, heads))))
    file.write(body)
    for start, (weight, message, data) in zip(heads, weights, strict=True):
        file.write(start + message + data)
        if weight.data is not None and data:
            file.write(pack(weight.data, weight.dtype).data)


def _data_head(weight: Weight) -> bytes:
    if weight.data is None or weight.proto.data_location == onnx.TensorProto.EXTERNAL:
        return b""
    return field_head(_RAW_DATA, weight_size(weight))


def _write_weights(draft: Draft, file: BinaryIO, name: str) -> None:
    """Writes the large weights' data one after the other and notes in the messages where they lie."""
    position = 0
    for weight in draft.weights:
        if weight.data is None:
            continue
        size = weight_size(weight)
        padding = -position % (_PAGE if size >= _PAGE else _LINE)
        file.write(b"\0" * padding)
        file.write(pack(weight.data, weight.dtype).data)
        entries = {"location": name, "offset": str(position + padding), "length": str(size)}
        weight.proto.data_location = onnx.TensorProto.EXTERNAL
        for key, text in entries.items():
            weight.proto.external_data.add(key=key, value=text)
        position += padding + size


__all__ = ["save"]
