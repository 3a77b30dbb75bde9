"""Conversion between numbers and quantized numbers: QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphopt.errors import ShapeError
from graphopt.ir import DType, Node, Shape, TensorType, Value, ValueType
from graphopt.ir import dims as D
from graphopt.ops.cast import carried, convert
from graphopt.ops.infer import input_type, normalise_axis
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.relation import Axis, DimRef, Relation


def integer_range(dtype: DType) -> tuple[int, int]:
    """The least and the greatest number that an integer type holds."""
    if dtype.name.startswith("UINT"):
        return 0, (1 << dtype.bits) - 1
    return -(1 << dtype.bits - 1), (1 << dtype.bits - 1) - 1


def spread(parameter: torch.Tensor, x: torch.Tensor, axis: int, block_size: int) -> torch.Tensor:
    """A scale or zero point in a shape that broadcasts to that of `x`.

    Args:
        parameter: a scalar; a vector along `axis`; or, blocked, of the rank of `x` with one entry per block of `axis`.
        x: what is quantized or dequantized.
        axis: dimension of `x`; plays no part where `x` is a vector.
        block_size: elements per block; 0 where there are no blocks.
    """
    if block_size:
        return parameter.repeat_interleave(block_size, axis).narrow(axis, 0, x.shape[axis])
    if parameter.numel() == 1:
        return parameter.reshape(())
    shape = [1] * x.dim()
    shape[axis if x.dim() > 1 else 0] = parameter.numel()
    return parameter.reshape(shape)


def quantize(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
    input_types: Sequence[int] = (),
) -> torch.Tensor:
    """ONNX QuantizeLinear: ``saturate(round(x / scale) + zero_point)``; see `spread` for the shapes."""
    if output_dtype:
        dtype = DType(output_dtype)
    elif zero_point is None:
        dtype = DType.UINT8
    else:
        dtype = carried(zero_point, input_types[2] if len(input_types) > 2 else 0)
    divided_as = DType(precision).torch if precision else scale.dtype
    ratio = x.to(divided_as) / spread(scale, x, axis, block_size).to(divided_as)
    if not dtype.is_integer:
        return convert(ratio, dtype, bool(saturate))
    # float16 cannot hold a 16-bit zero point; float32 holds every sum that is in range.
    rounded = torch.round(ratio)
    rounded = rounded if rounded.dtype is torch.float64 else rounded.to(torch.float32)
    if zero_point is not None:
        rounded = rounded + spread(zero_point, x, axis, block_size).to(rounded.dtype)
    return rounded.clamp(*integer_range(dtype)).to(torch.int32).to(dtype.torch)


def dequantize(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> torch.Tensor:
    """ONNX DequantizeLinear: ``(x - zero_point) * scale``; see `spread` for the shapes."""
    dtype = DType(output_dtype).torch if output_dtype else scale.dtype
    exact = torch.float32 if x.is_floating_point() else torch.int32
    shifted = x.to(exact)
    if zero_point is not None:
        shifted = shifted - spread(zero_point.to(exact), x, axis, block_size)
    return shifted.to(dtype) * spread(scale, x, axis, block_size).to(dtype)


def dynamic_quantize(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ONNX DynamicQuantizeLinear: x as uint8 over its own range (which includes 0), the scale and the zero point."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    # The definition divides by zero for a tensor of zeros; ONNX Runtime takes 1 there.
    scale = torch.where(high == low, torch.ones_like(high), (high - low) / 255)
    zero_point = torch.round((-low / scale).clamp(0, 255))
    y = (torch.round(x / scale) + zero_point).clamp(0, 255)
    return y.to(torch.uint8), scale, zero_point.to(torch.uint8)


def _axis(node: Node, rank: int) -> int:
    return 0 if rank == 1 else normalise_axis(attribute(node, "axis"), rank, node)


def check_parameter(node: Node, x: Shape | None, value: Value | None) -> None:
    """Raises ShapeError when the shape of a scale or zero point fits none of the granularities of ONNX."""
    shape = None if value is None else value.shape
    if x is None or shape is None or D.product(shape) == 1:
        return
    block = attribute(node, "block_size")
    axis = _axis(node, len(x))
    extent = x[axis]
    want: Shape = (*x[:axis], D.ceil_div(extent, block), *x[axis + 1 :]) if block else (extent,)
    clash = len(shape) != len(want) or any(
        isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(shape, want, strict=True)
    )
    if clash:
        raise ShapeError(
            f"scale or zero point has shape {list(shape)}, expected a scalar or {list(want)}",
            where=node.describe(),
            hint="check axis and block_size",
        )


def infer_quantize(node: Node) -> list[ValueType]:
    """Type rule of QuantizeLinear."""
    x, zero_point, stated = input_type(node, 0), input_type(node, 2).dtype, DType(attribute(node, "output_dtype"))
    for index in (1, 2):
        check_parameter(node, x.shape, node.input(index))
    if stated is not DType.UNDEFINED:
        if zero_point not in (stated, DType.UNDEFINED):
            raise ShapeError(f"output_dtype is {stated}, but the zero point is {zero_point}", where=node.describe())
        return [TensorType(stated, x.shape)]
    if node.input(2) is None:
        return [TensorType(DType.UINT8, x.shape)]
    return [TensorType(zero_point, x.shape)]


def infer_dequantize(node: Node) -> list[ValueType]:
    """Type rule of DequantizeLinear."""
    x, stated = input_type(node, 0), DType(attribute(node, "output_dtype"))
    for index in (1, 2):
        check_parameter(node, x.shape, node.input(index))
    return [TensorType(stated or input_type(node, 1).dtype, x.shape)]


def infer_dynamic_quantize(node: Node) -> list[ValueType]:
    """Type rule of DynamicQuantizeLinear."""
    return [TensorType(DType.UINT8, input_type(node, 0).shape), TensorType(DType.FLOAT32, ()),
            TensorType(DType.UINT8, ())]  # fmt: skip


def relate_quantize(node: Node) -> Relation | None:
    """Input and output go together, a scale per channel with the channels, a block's scale with the whole block."""
    x, y = node.operand(0), node.output
    parameters = [v for v in (node.operand(1), node.input(2)) if v is not None]
    if x.shape is None or y.shape is None or any(v.shape is None for v in parameters):
        return None
    relation = Relation()
    rank, block = len(x.shape), attribute(node, "block_size")
    axis = _axis(node, rank) if rank else 0
    for dim, size in enumerate(x.shape):
        refs: list[DimRef] = [(x, dim), (y, dim)]
        if block:
            refs += [(v, dim) for v in parameters if dim != axis]
        elif dim == axis:
            refs += [(v, 0) for v in parameters if v.shape and v.shape[0] == size]
        if not block or dim != axis:
            relation.tie(f"d{dim}", size, *refs)
        elif isinstance(size, int) and size % block == 0:
            blocks, inner = Axis("blocks", size // block), Axis("inner", block)
            relation.axes |= dict.fromkeys(refs, (blocks, inner))
            relation.axes |= {(v, axis): (blocks,) for v in parameters}
            relation.attributes["block_size"] = "inner"
    for value in parameters:
        if value.shape == (1,) and not block:
            relation.axes[value, 0] = ()
    return relation


def relate_dynamic_quantize(node: Node) -> Relation | None:
    """Input and output go together. The range includes 0, so leaving out indices is the same as zeroing them."""
    x, y = node.operand(0), node.output
    if x.shape is None:
        return None
    relation = Relation()
    for dim, size in enumerate(x.shape):
        relation.tie(f"d{dim}", size, (x, dim), (y, dim))
    return relation


def all_dims(node: Node) -> tuple[int, ...]:
    """All dimensions of input 0, whose range decides how it is quantized."""
    return tuple(range(node.operand(0).rank or 0))


register(
    Operator("QuantizeLinear", infer_quantize, quantize, relate_quantize),
    Operator("DequantizeLinear", infer_dequantize, dequantize, relate_quantize),
    Operator(
        "DynamicQuantizeLinear",
        infer_dynamic_quantize,
        dynamic_quantize,
        relate_dynamic_quantize,
        normalises=all_dims,
    ),
)

__all__ = ["all_dims", "dequantize", "dynamic_quantize", "integer_range", "quantize", "spread"]
