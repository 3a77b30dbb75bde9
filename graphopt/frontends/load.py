"""ONNX in: files, bytes and the models of other libraries become graphs."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import onnx
from google.protobuf.message import DecodeError
from onnx import inliner

from graphopt.errors import LoadError
from graphopt.frontends.onnx_embedded import TAKEN_APART, EmbeddedData
from graphopt.frontends.onnx_external import ExternalData
from graphopt.frontends.onnx_read import read_model
from graphopt.ir import Graph
from graphopt.ir.expect import expect_path, kind_of
from graphopt.ops.collector import paused_gc
from graphopt.ops.protos import ReadExternal
from graphopt.ops.wire import fields

if TYPE_CHECKING:
    import onnx_graphsurgeon
    import onnx_ir

Source: TypeAlias = Union[str, os.PathLike[str], bytes, onnx.ModelProto, "onnx_graphsurgeon.Graph", "onnx_ir.Model"]

#: The first opset whose definitions are known here; onnx's own converter brings older models up to it.
OLDEST_OPSET = 7

_ConvertError = onnx.version_converter.ConvertError
_NOT_ONNX = "give a file that an exporter wrote, such as torch.onnx.export"


def load(source: Source, *, folder: str | os.PathLike[str] | None = None, inline: bool = False) -> Graph:
    """Reads an ONNX model into a graph of the canonical opset.

    Weights are shared with the source where they can be. Those in external files, and in files beyond 256 MB where they
    are aligned to their elements, are memory-mapped: such files must not be overwritten in place while the graph is in
    use (`save` never does that).

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


def _model(source: Any, folder: str | os.PathLike[str] | None) -> tuple[onnx.ModelProto, ReadExternal | None]:
    external = None if folder is None else ExternalData(expect_path(folder, "load(folder)", LoadError))
    if isinstance(source, onnx.ModelProto):
        return source, external
    if isinstance(source, (str, os.PathLike)):
        path = expect_path(source, "load", LoadError)
        return _from_file(path, external or ExternalData(path.parent, path))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_bytes(bytes(source), external)
    package = type(source).__module__.partition(".")[0]
    if package == "onnx_graphsurgeon":
        import onnx_graphsurgeon

        return onnx_graphsurgeon.export_onnx(source), external
    if package == "onnx_ir":
        import onnx_ir

        return onnx_ir.serde.serialize_model(source), external or _beside(source)
    raise LoadError(
        f"cannot load {kind_of(source)}",
        hint="give a path, bytes, a ModelProto, an onnx_graphsurgeon.Graph or an onnx_ir.Model",
    )


def _beside(model: onnx_ir.Model) -> ExternalData | None:
    """Reads external data from the folder that the model's tensors say it is in."""
    tensors: list[Any] = [value.const_value for value in model.graph.initializers.values()]
    folders = {os.fspath(tensor.base_dir) for tensor in tensors if hasattr(tensor, "base_dir")}
    return ExternalData(folders.pop() or ".") if len(folders) == 1 else None


def _from_file(path: Path, external: ReadExternal | None) -> tuple[onnx.ModelProto, ReadExternal | None]:
    try:
        found = path.stat()
        if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):  # /dev/zero never ends; a pipe does
            raise LoadError(f"{path} is a device, not a file", hint=_NOT_ONNX)
        if found.st_size > TAKEN_APART:
            return _taken_apart(path, str(path), external)
        data = path.read_bytes()
    except FileNotFoundError:
        raise LoadError(f"no such file: {path}") from None
    except OSError as error:
        raise LoadError(f"cannot read {path}: {error.strerror or error}") from None
    return _parse(data, str(path)), external


def _from_bytes(data: bytes, external: ReadExternal | None) -> tuple[onnx.ModelProto, ReadExternal | None]:
    label = "the data given"
    return _taken_apart(data, label, external) if len(data) > TAKEN_APART else (_parse(data, label), external)


def _taken_apart(
    source: Path | bytes, label: str, external: ReadExternal | None
) -> tuple[onnx.ModelProto, ReadExternal | None]:
    """A large model, parsed without its weights."""
    embedded = EmbeddedData(source, external)
    try:
        model = _parse(embedded.model(), label)
    except ValueError:
        return _parse(embedded.data.tobytes(), label), external  # which says what is wrong
    if 0 < _opset(model) < OLDEST_OPSET:  # onnx's converter knows nothing of weights elsewhere
        return _parse(embedded.data.tobytes(), label), external
    return model, embedded


def _parse(data: bytes, label: str) -> onnx.ModelProto:
    if not data:
        raise LoadError(f"{label} is empty", hint="export it again")
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except DecodeError:
        missing = _missing_bytes(data)
        if missing:
            raise LoadError(f"{label} is cut off: {missing} bytes are missing", hint="fetch it again") from None
        raise LoadError(f"{label} is not an ONNX model", hint=_NOT_ONNX) from None
    if not model.HasField("graph"):
        raise LoadError(f"{label} is not an ONNX model", hint=_NOT_ONNX)
    return model


def _missing_bytes(data: bytes) -> int:
    """How many bytes a file whose outermost fields look like a model's falls short; 0 when it does not look so."""
    known = onnx.ModelProto.DESCRIPTOR.fields_by_number
    end = 0
    try:
        for field in fields(data, 0, sys.maxsize):
            end = field.end
            if field.number not in known:
                return 0
            if end > len(data):
                break
    except ValueError:
        return 0
    return max(end - len(data), 0)


def _opset(model: onnx.ModelProto) -> int:
    """The version of the standard operators; 0 when the model uses none. Raises LoadError for one from the future."""
    newest = onnx.defs.onnx_opset_version()
    opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
    if opset > newest:
        raise LoadError(f"the model is of opset {opset}, the installed onnx knows up to {newest}", hint="upgrade onnx")
    if opset < 0:
        raise LoadError(f"the model is of opset {opset}, the first is 1", hint=_NOT_ONNX)
    return opset if model.opset_import else 1


def _modern(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The model at `OLDEST_OPSET` or newer."""
    if not 0 < opset < OLDEST_OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, OLDEST_OPSET)
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError, _ConvertError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise LoadError(
            f"the model is of opset {opset}, and onnx cannot convert it: {reason}",
            hint=f"export it at opset {OLDEST_OPSET} or newer",
        ) from None


__all__ = ["OLDEST_OPSET", "Source", "load"]
