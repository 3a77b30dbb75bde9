"""ONNX in: files, bytes and the models of other libraries become graphs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import onnx
from google.protobuf.message import DecodeError
from onnx import inliner

from graphopt.errors import LoadError
from graphopt.frontends.onnx_external import ExternalData
from graphopt.frontends.onnx_read import read_model
from graphopt.ir import Graph
from graphopt.ops.collector import paused_gc

if TYPE_CHECKING:
    import onnx_graphsurgeon
    import onnx_ir

Source: TypeAlias = Union[str, os.PathLike[str], bytes, onnx.ModelProto, "onnx_graphsurgeon.Graph", "onnx_ir.Model"]

#: The first opset whose definitions are known here; onnx's own converter brings older models up to it.
OLDEST_OPSET = 7


def load(source: Source, *, folder: str | os.PathLike[str] | None = None, inline: bool = False) -> Graph:
    """Reads an ONNX model into a graph of the canonical opset.

    Weights are shared with the source where they can be; those in external files are memory-mapped.

    Args:
        source: path of an ONNX file, its bytes, a ``ModelProto``, an ``onnx_graphsurgeon.Graph`` or an
            ``onnx_ir.Model``. A message is not changed, and must not be changed afterwards.
        folder: where external data lies; by default beside the file.
        inline: replace calls of the model's local functions by their bodies.

    Raises:
        LoadError: the source cannot be read, is no ONNX model, or is malformed; says what and where.
    """
    with paused_gc():
        model, external = _model(source, folder)
        if inline and model.functions:
            model = inliner.inline_local_functions(model, convert_version=True)
        opset = _opset(model)
        return read_model(_modern(model, opset), external, opset)


def _model(source: Any, folder: str | os.PathLike[str] | None) -> tuple[onnx.ModelProto, ExternalData | None]:
    external = None if folder is None else ExternalData(folder)
    if isinstance(source, onnx.ModelProto):
        return source, external
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        return _parse(_read(path), str(path)), external or ExternalData(path.parent, path)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _parse(bytes(source), "the bytes given"), external
    package = type(source).__module__.partition(".")[0]
    if package == "onnx_graphsurgeon":
        import onnx_graphsurgeon

        return onnx_graphsurgeon.export_onnx(source), external
    if package == "onnx_ir":
        import onnx_ir

        return onnx_ir.serde.serialize_model(source), external
    raise LoadError(
        f"cannot load a {type(source).__name__}",
        hint="give a path, bytes, a ModelProto, an onnx_graphsurgeon.Graph or an onnx_ir.Model",
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise LoadError(f"no such file: {path}") from None
    except OSError as error:
        raise LoadError(f"cannot read {path}: {error.strerror or error}") from None


def _parse(data: bytes, label: str) -> onnx.ModelProto:
    if not data:
        raise LoadError(f"{label} is empty")
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except DecodeError:
        missing = _missing_bytes(data)
        if missing:
            raise LoadError(f"{label} is cut off: {missing} bytes are missing", hint="fetch it again") from None
        raise LoadError(f"{label} is not an ONNX model") from None
    if not model.HasField("graph"):
        raise LoadError(f"{label} is not an ONNX model")
    return model


def _missing_bytes(data: bytes) -> int:
    """How many bytes a file whose outermost fields look like a model's falls short; 0 when it does not look so."""
    position = 0
    fields = onnx.ModelProto.DESCRIPTOR.fields_by_number
    while position < len(data):
        tag, position = _varint(data, position)
        if tag >> 3 not in fields or tag & 7 not in (0, 2):
            return 0
        length, position = _varint(data, position)
        if tag & 7 == 2:
            position += length
    return position - len(data)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data) and shift < 64:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return value, position


def _opset(model: onnx.ModelProto) -> int:
    """The version of the standard operators; 0 when the model uses none. Raises LoadError for one from the future."""
    newest = onnx.defs.onnx_opset_version()
    opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
    if opset > newest:
        raise LoadError(f"the model is of opset {opset}, the installed onnx knows up to {newest}", hint="upgrade onnx")
    return opset if model.opset_import else 1


def _modern(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The model at `OLDEST_OPSET` or newer."""
    if not 0 < opset < OLDEST_OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, OLDEST_OPSET)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise LoadError(
            f"the model is of opset {opset}, and onnx cannot convert it: {reason}",
            hint=f"export it at opset {OLDEST_OPSET} or newer",
        ) from None


__all__ = ["OLDEST_OPSET", "Source", "load"]
