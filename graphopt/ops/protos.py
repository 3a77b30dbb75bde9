"""Tensors and types as ONNX protobuf messages, both ways, without copying data that need not be copied."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import torch

from graphopt.errors import LoadError, SaveError
from graphopt.ir import UNKNOWN, DType, MapType, OptionalType, SequenceType, TensorType, ValueType
from graphopt.ir.dense import flat as elements_of
from graphopt.ir.dims import format_dim, is_unnamed, normalise, parse_dim
from graphopt.ir.literals import SparseTensor, TypedTensor

#: Metadata key of an Identity node that only gives a value a second name at the border of a graph.
BORDER = "graphopt.border"
#: Metadata key under which a node keeps its ``device_configurations`` (a serialized NodeProto, in base 64).
DEVICES = "graphopt.device_configurations"
#: Prefix of the metadata keys under which a value keeps its ``quantization_annotation``.
QUANTIZATION = "graphopt.quantization."

#: Reads the bytes of a tensor that are kept in another file: the proto and the expected size -> a byte array.
ReadExternal = Callable[[onnx.TensorProto, int], np.ndarray]

# Magnitudes of the eight codes of float4e2m1 (OCP Microscaling Formats, table 5); the top bit is the sign.
_FLOAT4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float32)
_FLOAT4_ALL = np.concatenate([_FLOAT4, -_FLOAT4])
_SIGNED = frozenset({DType.INT4, DType.INT2})
# What int32_data holds for narrower types: the value, or (for floats) its bits.
_NARROW = {8: np.uint8, 16: np.uint16, 32: np.uint32}


def borrow(buffer: bytes) -> np.ndarray:
    """The bytes as a uint8 array that numpy believes writable, so that torch shares it in silence; nobody writes."""
    return np.asarray(_Borrowed(buffer))


class _Borrowed:
    def __init__(self, buffer: bytes) -> None:
        self.buffer = buffer
        address = np.frombuffer(buffer, np.uint8).__array_interface__["data"][0]
        self.__array_interface__ = {
            "data": (address, False), "shape": (len(buffer),), "typestr": "|u1", "version": 3,
        }  # fmt: skip


def element_type(number: int, what: str) -> DType:
    """The element type numbered `number` in a file. Raises LoadError for one that does not exist."""
    try:
        return DType(number)
    except ValueError:
        raise LoadError(f"{what} has element type {number}, which is none of ONNX's") from None


def read_tensor(
    proto: onnx.TensorProto, external: ReadExternal | None = None
) -> tuple[torch.Tensor | np.ndarray, DType]:
    """The elements of a tensor (an object array for strings) and its element type.

    Args:
        proto: the message. Data in ``raw_data`` is shared, not copied, where its alignment allows.
        external: reads data kept in other files.

    Raises:
        LoadError: the data is missing or has the wrong size.
    """
    label = f"tensor '{proto.name}'"
    dtype = element_type(proto.data_type, label)
    shape = tuple(proto.dims)
    if dtype is DType.UNDEFINED:
        raise LoadError(f"{label} has no element type")
    if any(d < 0 for d in shape):
        raise LoadError(f"{label} has a negative dimension: {list(shape)}")
    count = math.prod(shape)
    if dtype is DType.STRING:
        return _read_strings(proto, shape, count, label), dtype
    size = -(-count * dtype.bits // 8)
    if proto.data_location == onnx.TensorProto.EXTERNAL:
        if external is None:
            raise LoadError(f"{label} is kept in another file", hint="load by path, or say folder=")
        return unpack(external(proto, size), dtype, shape), dtype
    raw = proto.raw_data
    data = borrow(raw) if raw else _typed_bytes(proto, dtype, count, label)
    if data.size != size:
        have = f"{data.size} bytes of data" if data.size else "no data"
        raise LoadError(f"{label} has {have}, {dtype}{list(shape)} takes {size}")
    return unpack(data, dtype, shape), dtype


def _read_strings(proto: onnx.TensorProto, shape: Sequence[int], count: int, label: str) -> np.ndarray:
    items = proto.string_data
    if len(items) != count:
        raise LoadError(f"{label} has {len(items)} strings, string{list(shape)} takes {count}")
    array = np.empty(count, dtype=object)
    array[:] = [text(item) for item in items]
    return array.reshape(shape)


def text(raw: bytes) -> str | bytes:
    """A string of a file; bytes that are not UTF-8 stay bytes."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw


def _typed_bytes(proto: onnx.TensorProto, dtype: DType, count: int, label: str) -> np.ndarray:
    """The data that an old file keeps in one of the typed lists, as the bytes that ``raw_data`` would hold."""
    array: np.ndarray
    if dtype in (DType.FLOAT32, DType.COMPLEX64):
        array = np.array(proto.float_data, dtype=np.float32)
    elif dtype in (DType.FLOAT64, DType.COMPLEX128):
        array = np.array(proto.double_data, dtype=np.float64)
    elif dtype is DType.INT64:
        array = np.array(proto.int64_data, dtype=np.int64)
    elif dtype in (DType.UINT32, DType.UINT64):
        array = np.array(proto.uint64_data, dtype=np.uint64).astype(f"u{dtype.bits // 8}")
    else:
        array = np.array(proto.int32_data, dtype=np.int32).astype(_NARROW[max(dtype.bits, 8)])
    if not array.size and count:
        raise LoadError(f"{label} has no data", hint="the file is incomplete")
    return array.view(np.uint8)


def unpack(data: np.ndarray, dtype: DType, shape: Sequence[int]) -> torch.Tensor:
    """A tensor over little-endian bytes, sub-byte elements unpacked into their carrier.

    Args:
        data: uint8 [size]; shared where it is aligned to the elements.
        dtype: element type; no strings.
        shape: of the tensor.
    """
    carrier = dtype.torch
    if not math.prod(shape):
        return torch.empty(tuple(shape), dtype=carrier)
    if dtype.bits < 8:
        return _unpack_narrow(data, dtype, math.prod(shape)).reshape(tuple(shape))
    if dtype is DType.BOOL:
        return torch.from_numpy(data != 0).reshape(tuple(shape))
    if data.__array_interface__["data"][0] % carrier.itemsize:
        data = data.copy()
    return torch.from_numpy(data).view(carrier).reshape(tuple(shape))


def _unpack_narrow(data: np.ndarray, dtype: DType, count: int) -> torch.Tensor:
    bits = dtype.bits
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = ((data[:, None] >> shifts) & ((1 << bits) - 1)).reshape(-1)[:count]
    if dtype is DType.FLOAT4E2M1:
        return torch.from_numpy(_FLOAT4_ALL[codes])
    if dtype in _SIGNED:
        half = 1 << (bits - 1)
        return torch.from_numpy((codes ^ half).astype(np.int8) - np.int8(half))
    return torch.from_numpy(codes)


def pack(tensor: torch.Tensor, dtype: DType) -> np.ndarray:
    """The bytes that a file holds for a tensor: uint8 [size], shared with contiguous CPU tensors.

    Raises SaveError for a tensor without data.
    """
    if tensor.is_meta:
        raise SaveError("a constant has no data: it lies on torch's 'meta' device")
    flat = elements_of(tensor)
    if dtype.bits >= 8:
        if dtype.torch is not flat.dtype:
            flat = flat.to(dtype.torch)
        array: np.ndarray = flat.view(torch.uint8).numpy()
        return array
    if dtype is DType.FLOAT4E2M1:
        magnitudes = flat.abs().to(torch.float32).numpy()
        codes = np.abs(magnitudes[:, None] - _FLOAT4).argmin(axis=1).astype(np.uint8)
        codes |= np.signbit(flat.to(torch.float32).numpy()).astype(np.uint8) << 3
    else:
        codes = flat.numpy().astype(np.uint8) & ((1 << dtype.bits) - 1)
    per_byte = 8 // dtype.bits
    padded = np.zeros(-(-codes.size // per_byte) * per_byte, dtype=np.uint8)
    padded[: codes.size] = codes
    shifted = padded.reshape(-1, per_byte) << np.arange(0, 8, dtype.bits, dtype=np.uint8)
    packed: np.ndarray = np.bitwise_or.reduce(shifted, axis=1).astype(np.uint8)
    return packed


def tensor_header(shape: Sequence[int], dtype: DType, name: str = "") -> onnx.TensorProto:
    """A tensor message without its data."""
    return onnx.TensorProto(dims=[int(d) for d in shape], data_type=int(dtype), name=name or None)


def write_tensor(
    data: torch.Tensor | np.ndarray | TypedTensor, name: str = "", dtype: DType | None = None
) -> onnx.TensorProto:
    """A tensor message with its data inside."""
    if isinstance(data, TypedTensor):
        return write_tensor(data.data, name, data.dtype)
    if isinstance(data, np.ndarray):
        if data.dtype.kind == "O" or data.dtype.kind in "US":
            proto = tensor_header(data.shape, DType.STRING, name)
            proto.string_data.extend(s if isinstance(s, bytes) else str(s).encode() for s in data.reshape(-1))
            return proto
        data = torch.from_numpy(np.ascontiguousarray(data)).reshape(data.shape)
    kind = dtype or DType.of(data.dtype)
    proto = tensor_header(data.shape, kind, name)
    proto.raw_data = pack(data, kind).tobytes()
    return proto


def read_sparse(proto: onnx.SparseTensorProto, external: ReadExternal | None) -> SparseTensor:
    """A sparse tensor. Raises LoadError as `read_tensor` does, and for indices that do not fit the values."""
    values, dtype = read_tensor(proto.values, external)
    indices, _ = read_tensor(proto.indices, external)
    shape = tuple(proto.dims)
    count = values.shape[0] if values.ndim == 1 else -1
    if not isinstance(indices, torch.Tensor) or tuple(indices.shape) not in ((count,), (count, len(shape))):
        raise LoadError(
            f"sparse tensor '{proto.values.name}' has {count} values and indices of shape {list(indices.shape)}"
        )
    return SparseTensor(values, indices, shape, dtype)


def write_sparse(sparse: SparseTensor) -> onnx.SparseTensorProto:
    """A sparse tensor message."""
    return onnx.SparseTensorProto(
        values=write_tensor(sparse.values, dtype=sparse.dtype),
        indices=write_tensor(sparse.indices),
        dims=sparse.shape,
    )


def read_type(proto: onnx.TypeProto) -> ValueType:
    """The type that a message describes. Equal messages give the same object."""
    return _read_type(proto.SerializeToString())


@lru_cache(maxsize=4096)
def _read_type(serialized: bytes) -> ValueType:
    proto = onnx.TypeProto.FromString(serialized)
    kind = proto.WhichOneof("value")
    match kind:
        case "tensor_type" | "sparse_tensor_type":
            tensor: Any = getattr(proto, kind)
            shape = tuple(map(_read_dim, tensor.shape.dim)) if tensor.HasField("shape") else None
            return TensorType(element_type(tensor.elem_type, "a value"), shape, kind == "sparse_tensor_type")
        case "sequence_type":
            return SequenceType(read_type(proto.sequence_type.elem_type))
        case "optional_type":
            return OptionalType(read_type(proto.optional_type.elem_type))
        case "map_type":
            key = element_type(proto.map_type.key_type, "a map")
            return MapType(key, read_type(proto.map_type.value_type))
    return UNKNOWN


def _read_dim(proto: onnx.TensorShapeProto.Dimension) -> Any:
    # Exporters write -1 for a size that they do not know.
    if proto.HasField("dim_value"):
        return proto.dim_value if proto.dim_value >= 0 else None
    name = proto.dim_param
    if not isinstance(name, str):
        raise LoadError(f"a dimension is called {bytes(name)!r}, which is no text", hint="the file is malformed")
    return normalise(name) if name else None


def write_type(kind: ValueType) -> onnx.TypeProto:
    """The message that describes a type. The result is shared: copy it, do not change it."""
    return _write_type(kind)


@lru_cache(maxsize=4096)
def _write_type(kind: ValueType) -> onnx.TypeProto:
    proto = onnx.TypeProto()
    if kind == UNKNOWN:
        return proto
    match kind:
        case TensorType():
            tensor: Any = proto.sparse_tensor_type if kind.sparse else proto.tensor_type
            tensor.elem_type = int(kind.dtype)
            if kind.shape is not None:
                tensor.shape.SetInParent()
                for dim in kind.shape:
                    _write_dim(tensor.shape.dim.add(), dim)
        case SequenceType():
            proto.sequence_type.elem_type.CopyFrom(_write_type(kind.element))
        case OptionalType():
            proto.optional_type.elem_type.CopyFrom(_write_type(kind.element))
        case MapType():
            proto.map_type.key_type = int(kind.key)
            proto.map_type.value_type.CopyFrom(_write_type(kind.element))
    return proto


def _write_dim(proto: onnx.TensorShapeProto.Dimension, dim: Any) -> None:
    if isinstance(dim, int):
        proto.dim_value = dim
    elif dim is not None and not is_unnamed(dim):
        # A name alone stands as it stood in the file, blanks and dots and all, unless it would be read as arithmetic.
        proto.dim_param = str(dim) if dim.is_Symbol and parse_dim(str(dim)) == dim else format_dim(dim)
