"""Value types: element types, tensors, and ONNX's sequences, optionals and maps."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from graphopt.ir.dims import Dim, Shape, format_dim, is_static, normalise, product

_TorchDType: TypeAlias = torch.dtype  # inside `DType`, ``torch`` is a property


class DType(enum.IntEnum):
    """Element types, numbered as ONNX's ``TensorProto.DataType``: attributes such as Cast's ``to`` read as one."""

    UNDEFINED = 0
    FLOAT32 = 1
    UINT8 = 2
    INT8 = 3
    UINT16 = 4
    INT16 = 5
    INT32 = 6
    INT64 = 7
    STRING = 8
    BOOL = 9
    FLOAT16 = 10
    FLOAT64 = 11
    UINT32 = 12
    UINT64 = 13
    COMPLEX64 = 14
    COMPLEX128 = 15
    BFLOAT16 = 16
    FLOAT8E4M3FN = 17
    FLOAT8E4M3FNUZ = 18
    FLOAT8E5M2 = 19
    FLOAT8E5M2FNUZ = 20
    UINT4 = 21
    INT4 = 22
    FLOAT4E2M1 = 23
    FLOAT8E8M0 = 24
    UINT2 = 25
    INT2 = 26

    def __str__(self) -> str:
        return self.name.lower()

    @classmethod
    def parse(cls, name: str) -> DType:
        """The element type called `name` (``"float32"``). Raises KeyError for an unknown name."""
        return cls[name.upper()]

    @property
    def torch(self) -> _TorchDType:
        """The torch dtype that carries the elements.

        Types narrower than a byte have no usable torch dtype: their elements are carried unpacked, one to a byte
        (``float4e2m1`` as float32), and the value's type alone says how wide they are. Raises KeyError for strings.
        """
        return _TO_TORCH[self]

    @classmethod
    def of(cls, dtype: _TorchDType) -> DType:
        """The element type of a torch dtype. Raises KeyError for quantized and other exotic dtypes."""
        return _FROM_TORCH[dtype]

    @property
    def bits(self) -> int:
        """Width of an element as stored in a file; 0 for strings."""
        return _BITS[self]

    @property
    def is_float(self) -> bool:
        return self in _FLOATS

    @property
    def is_integer(self) -> bool:
        return self in _INTEGERS


_TO_TORCH: dict[DType, torch.dtype] = {
    DType.FLOAT32: torch.float32,
    DType.UINT8: torch.uint8,
    DType.INT8: torch.int8,
    DType.UINT16: torch.uint16,
    DType.INT16: torch.int16,
    DType.INT32: torch.int32,
    DType.INT64: torch.int64,
    DType.BOOL: torch.bool,
    DType.FLOAT16: torch.float16,
    DType.FLOAT64: torch.float64,
    DType.UINT32: torch.uint32,
    DType.UINT64: torch.uint64,
    DType.COMPLEX64: torch.complex64,
    DType.COMPLEX128: torch.complex128,
    DType.BFLOAT16: torch.bfloat16,
    DType.FLOAT8E4M3FN: torch.float8_e4m3fn,
    DType.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    DType.FLOAT8E5M2: torch.float8_e5m2,
    DType.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
    DType.UINT4: torch.uint8,
    DType.INT4: torch.int8,
    DType.FLOAT4E2M1: torch.float32,
    DType.FLOAT8E8M0: getattr(torch, "float8_e8m0fnu", torch.uint8),  # torch 2.7
    DType.UINT2: torch.uint8,
    DType.INT2: torch.int8,
}
_SUB_BYTE = {DType.UINT4: 4, DType.INT4: 4, DType.FLOAT4E2M1: 4, DType.UINT2: 2, DType.INT2: 2}
# The first type of a carrier is its own; the others borrow it.
_FROM_TORCH = {carrier: dtype for dtype, carrier in reversed(_TO_TORCH.items())}
_BITS = {d: _SUB_BYTE.get(d, 8 * _TO_TORCH[d].itemsize if d in _TO_TORCH else 0) for d in DType}
_INTEGERS = frozenset(d for d in DType if d.name.startswith(("INT", "UINT")))
_FLOATS = frozenset(d for d in DType if d.name.startswith(("FLOAT", "BFLOAT")))


@dataclass(frozen=True)
class TensorType:
    """A tensor: element type and shape.

    Attributes:
        dtype: the element type; UNDEFINED when not known yet.
        shape: a tuple of dimensions, or ``None`` when not even the rank is known.
        sparse: an ONNX sparse tensor.
    """

    dtype: DType = DType.UNDEFINED
    shape: Shape | None = None
    sparse: bool = False

    @classmethod
    def of(cls, tensor: torch.Tensor) -> TensorType:
        """The type of a torch tensor."""
        return cls(DType.of(tensor.dtype), tuple(tensor.shape))

    @classmethod
    def make(cls, dtype: DType, shape: Iterable[Any] | None) -> TensorType:
        """As the constructor, with dimensions given as ints, names, expressions or ``None``."""
        return cls(dtype, None if shape is None else tuple(normalise(d) for d in shape))

    @property
    def rank(self) -> int | None:
        return None if self.shape is None else len(self.shape)

    @property
    def is_static(self) -> bool:
        return is_static(self.shape)

    @property
    def numel(self) -> Dim:
        """Number of elements: an int, an expression, or ``None`` when unknown."""
        return None if self.shape is None else product(self.shape)

    def with_shape(self, shape: Iterable[Dim] | None) -> TensorType:
        return TensorType(self.dtype, None if shape is None else tuple(shape), self.sparse)

    def __str__(self) -> str:
        prefix = "sparse " if self.sparse else ""
        if self.shape is None:
            return f"{prefix}{self.dtype}[*]"
        return f"{prefix}{self.dtype}[{', '.join(map(format_dim, self.shape))}]"


@dataclass(frozen=True)
class SequenceType:
    """An ONNX sequence of values of one type."""

    element: ValueType

    def __str__(self) -> str:
        return f"seq({self.element})"


@dataclass(frozen=True)
class OptionalType:
    """An ONNX optional value."""

    element: ValueType

    def __str__(self) -> str:
        return f"optional({self.element})"


@dataclass(frozen=True)
class MapType:
    """An ONNX map from keys (integers or strings) to values of one type."""

    key: DType
    element: ValueType

    def __str__(self) -> str:
        return f"map({self.key}, {self.element})"


ValueType: TypeAlias = TensorType | SequenceType | OptionalType | MapType

UNKNOWN = TensorType()
