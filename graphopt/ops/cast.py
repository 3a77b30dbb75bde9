"""Conversions of element types: Cast, CastLike, BitCast, and the narrow floats they need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from graphopt.errors import ShapeError, UnsupportedOperatorError
from graphopt.ir import Dim, DType, Node, TensorType, ValueType
from graphopt.ops import contents as C
from graphopt.ops.broadcast import relate_broadcast
from graphopt.ops.contents import pointwise, strict
from graphopt.ops.infer import input_type
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.relation import Relation

_FLOAT8 = {DType.FLOAT8E4M3FN, DType.FLOAT8E4M3FNUZ, DType.FLOAT8E5M2, DType.FLOAT8E5M2FNUZ}
# Largest magnitude that rounds to the largest finite float8e4m3fn (448); torch versions differ in what lies beyond.
_E4M3FN_LIMIT = 464.0


def convert(x: torch.Tensor, dtype: DType, saturate: bool = True, round_mode: str = "up") -> torch.Tensor:
    """`x` in the carrier of `dtype`, converted by the rules of ONNX Cast.

    Args:
        x: any shape.
        dtype: the element type wanted.
        saturate: limit what is out of range of a float8 type to its largest value, not make it NaN or infinite.
        round_mode: "up", "down" or "nearest", for float8e8m0 only.

    Raises:
        UnsupportedOperatorError: `dtype` is none that a tensor can hold.
    """
    if dtype in (DType.STRING, DType.UNDEFINED):
        raise UnsupportedOperatorError(f"no tensor holds elements of type {dtype}")
    if dtype in _FLOAT8:
        return _to_float8(x, dtype, saturate)
    if dtype is DType.FLOAT8E8M0:
        return _to_e8m0(x.to(torch.float32), saturate, round_mode)
    if dtype is DType.FLOAT4E2M1:
        return to_float4(x.to(torch.float32))
    if dtype.is_integer and dtype.bits < 8:
        return _keep_bits(x.to(torch.int64), dtype)
    return x.to(dtype.torch)


def _to_float8(x: torch.Tensor, dtype: DType, saturate: bool) -> torch.Tensor:
    wide = x.to(torch.float32)
    if saturate:
        largest = torch.finfo(dtype.torch).max
        return wide.clamp(-largest, largest).to(dtype.torch)
    if dtype is DType.FLOAT8E4M3FN:
        wide = torch.where(wide.abs() > _E4M3FN_LIMIT, torch.nan, wide)
    return wide.to(dtype.torch)


def _to_e8m0(x: torch.Tensor, saturate: bool, round_mode: str) -> torch.Tensor:
    """Powers of two, by the bits of float32: the exponent is the result, the mantissa decides on rounding."""
    bits = x.view(torch.int32)
    exponent, mantissa = (bits >> 23) & 0xFF, bits & 0x7FFFFF
    if round_mode == "up":
        rounds_up = mantissa > 0
    elif round_mode == "nearest":
        half = 0x400000
        rounds_up = (mantissa > half) | ((mantissa == half) & (exponent > 0))
    else:
        rounds_up = torch.zeros_like(mantissa, dtype=torch.bool)
    rounded = torch.where(exponent == 0xFF, exponent, exponent + rounds_up.to(torch.int32))
    if saturate:
        rounded = torch.where(exponent == 0xFF, rounded, rounded.clamp(max=0xFE))
    return rounded.to(torch.uint8).view(DType.FLOAT8E8M0.torch)


def to_float4(x: torch.Tensor) -> torch.Tensor:
    """float32 rounded to the nearest float4e2m1 (0, 0.5, 1, 1.5, 2, 3, 4, 6; ties to even, limited to +-6).

    The type has no NaN; as in ml_dtypes, which ONNX takes as its reference, NaN becomes -0.
    """
    x = torch.where(x.isnan(), -0.0, x)
    size = x.abs().clamp(max=6.0)
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    return torch.copysign(torch.round(size / step) * step, x)


def _keep_bits(x: torch.Tensor, dtype: DType) -> torch.Tensor:
    """The low bits of int64 elements, read as `dtype` (two's complement), in its carrier."""
    low = x & ((1 << dtype.bits) - 1)
    if dtype.name.startswith("INT"):
        half = 1 << (dtype.bits - 1)
        low = (low ^ half) - half
    return low.to(dtype.torch)


def cast(
    x: torch.Tensor | np.ndarray, *, to: int, saturate: int = 1, round_mode: str = "up"
) -> torch.Tensor | np.ndarray:
    """ONNX Cast; see `convert`. Strings are object arrays: numbers written out, and read as Python reads them."""
    dtype = DType(to)
    if dtype is DType.STRING:
        return strings_of(x)
    if isinstance(x, np.ndarray):
        return _numbers_of(x, dtype, bool(saturate), round_mode)
    return convert(x, dtype, bool(saturate), round_mode)


def strings_of(x: torch.Tensor | np.ndarray) -> np.ndarray:
    """The elements written out: integers and truth values as C++ does, floats with the digits that tell them apart."""
    if isinstance(x, np.ndarray):
        return x
    if x.dtype is torch.bfloat16 or (x.element_size() == 1 and x.is_floating_point()):
        x = x.float()
    written = np.empty(x.numel(), dtype=object)
    written[:] = [_written(each) for each in x.reshape(-1).cpu().numpy()]
    return written.reshape(tuple(x.shape))


def _written(number: Any) -> str:
    if isinstance(number, np.bool_):
        return str(int(number))
    if isinstance(number, np.integer):
        return str(number)
    return {"nan": "NaN", "inf": "INF", "-inf": "-INF"}.get(text := str(number), text)


def _numbers_of(x: np.ndarray, dtype: DType, saturate: bool, round_mode: str) -> torch.Tensor:
    words = [text.decode() if isinstance(text, bytes) else text for text in x.reshape(-1)]
    read = int if dtype.is_integer and dtype.bits == 64 else float
    kind = torch.int64 if read is int else torch.float64
    if dtype is DType.UINT64:
        flat = torch.from_numpy(np.array([int(word) for word in words], dtype=np.uint64))
    else:
        flat = convert(torch.tensor([read(word) for word in words], dtype=kind), dtype, saturate, round_mode)
    return flat.reshape(x.shape)


def cast_like(
    x: torch.Tensor | np.ndarray,
    target: torch.Tensor | np.ndarray,
    *,
    saturate: int = 1,
    round_mode: str = "up",
    input_types: Sequence[int] = (),
) -> torch.Tensor | np.ndarray:
    """ONNX CastLike: x in the element type of `target` (in `input_types`, which may be narrower than its carrier)."""
    if isinstance(target, np.ndarray):
        return strings_of(x)
    dtype = carried(target, input_types[1] if len(input_types) > 1 else 0)
    return cast(x, to=dtype, saturate=saturate, round_mode=round_mode)


def carried(tensor: torch.Tensor, stated: int) -> DType:
    """The element type of a tensor: the one `stated`, where `tensor` can be its carrier, else the tensor's own."""
    dtype = DType(stated)
    fits = dtype not in (DType.UNDEFINED, DType.STRING) and dtype.torch is tensor.dtype
    return dtype if fits else DType.of(tensor.dtype)


def bit_cast(x: torch.Tensor, *, to: int) -> torch.Tensor:
    """ONNX BitCast: the same bits read as another element type of the same width.

    Raises:
        UnsupportedOperatorError: from or to float4e2m1, whose carrier does not have its bits.
    """
    dtype = DType(to)
    if dtype is DType.FLOAT4E2M1 or (dtype.bits < 8 and x.is_floating_point()):
        raise UnsupportedOperatorError("BitCast of float4e2m1 cannot be executed with torch")
    if dtype.bits < 8:
        return _keep_bits(x.to(torch.int64), dtype)
    return x.view(dtype.torch)


def infer_cast(node: Node) -> list[ValueType]:
    """Type rule of Cast."""
    return [TensorType(DType(attribute(node, "to")), input_type(node, 0).shape)]


def infer_cast_like(node: Node) -> list[ValueType]:
    """Type rule of CastLike."""
    return [TensorType(input_type(node, 1).dtype, input_type(node, 0).shape)]


def infer_bit_cast(node: Node) -> list[ValueType]:
    """Type rule of BitCast. Raises ShapeError when the types differ in width."""
    x, dtype = input_type(node, 0), DType(attribute(node, "to"))
    if x.dtype is not DType.UNDEFINED and x.dtype.bits != dtype.bits:
        raise ShapeError(f"{x.dtype} and {dtype} differ in width", where=node.describe(), hint="use Cast")
    return [TensorType(dtype, x.shape)]


def relate_cast_like(node: Node) -> Relation | None:
    """The first input goes with the output. Of the second only the element type is read: any of its indices may go."""
    x, target, y = node.operand(0), node.operand(1), node.output
    if x.shape is None or y.shape is None:
        return None
    relation = Relation()
    for dim, size in enumerate(x.shape):
        relation.tie(f"d{dim}", size, (x, dim), (y, dim))
    if target is not x:
        for dim, size in enumerate(target.shape or ()):
            relation.tie(f"t{dim}", size, (target, dim))
    return relation


def evaluate_cast(node: Node) -> Sequence[np.ndarray | None]:
    """Contents of a conversion, where the target type holds them exactly."""
    dtype = DType(attribute(node, "to"))

    def converted(element: Dim) -> Dim:
        if dtype is DType.BOOL:
            return C.truth(element)
        return C.truncate(element) if dtype.is_integer else element

    return pointwise(strict(converted), dtype)(node)


register(
    Operator(
        "Cast", infer_cast, cast, relate_broadcast, evaluate=evaluate_cast, inline=True, elementwise=True, moves=True
    ),
    Operator("CastLike", infer_cast_like, cast_like, relate_cast_like, elementwise=True),
    Operator("BitCast", infer_bit_cast, bit_cast, relate_broadcast, elementwise=True),
)

__all__ = ["bit_cast", "carried", "cast", "cast_like", "convert", "strings_of", "to_float4"]
