"""Quantization in torch: Q/DQ pairs as trainable fake quantization, quantized weights as float parameters.

torch multiplies by the reciprocal of the scale where ONNX divides by the scale: a number that lies halfway between two
steps, to the last bit, may be rounded to the other one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from graphopt.backends.torch_form import Weight
from graphopt.ir import DType, Node, Value
from graphopt.ops import attribute
from graphopt.ops.quant import spread

if TYPE_CHECKING:
    from graphopt.backends.torch_emit import Emitter


@dataclass(frozen=True)
class Grid:
    """A uniform quantization grid.

    Attributes:
        scale: one number, or one per index of `axis`.
        zero_point: int32, of the same shape.
        axis: the dimension that `scale` runs along; ``None`` for one scale.
        low: smallest integer.
        high: largest integer.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor
    axis: int | None
    low: int
    high: int

    def _along(self, tensor: torch.Tensor, rank: int) -> torch.Tensor:
        if self.axis is None:
            return tensor
        return tensor.reshape([-1 if dim == self.axis % rank else 1 for dim in range(rank)])

    def dequantize(self, q: torch.Tensor) -> torch.Tensor:
        """The float tensor that integers `q` stand for."""
        scale, zero = self._along(self.scale, q.dim()), self._along(self.zero_point, q.dim())
        return (q.to(torch.int64) - zero).to(scale.dtype) * scale

    def quantize(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The nearest integers (ties to even), saturated, as ONNX's QuantizeLinear."""
        scale, zero = self._along(self.scale, x.dim()), self._along(self.zero_point, x.dim())
        return (torch.round(x / scale) + zero).clamp(self.low, self.high).to(dtype)


def _range(dtype: DType) -> tuple[int, int]:
    if dtype.name.startswith("UINT"):
        return 0, (1 << dtype.bits) - 1
    return -(1 << dtype.bits - 1), (1 << dtype.bits - 1) - 1


def grid_of(node: Node, dtype: DType) -> Grid | None:
    """The grid of a QuantizeLinear or DequantizeLinear whose scale and zero point are constants; ``None`` otherwise.

    Args:
        node: the operator.
        dtype: its quantized element type.
    """
    scale, zero = node.operand(1), node.input(2)
    if not dtype.is_integer or not scale.is_constant or scale.data is None or attribute(node, "block_size"):
        return None
    if zero is not None and (not zero.is_constant or zero.data is None):
        return None
    step = scale.data.detach()
    offset = torch.zeros_like(step, dtype=torch.int32) if zero is None or zero.data is None else zero.data
    per_tensor = step.numel() == 1 and step.dim() <= 1
    if not per_tensor and step.dim() != 1:
        return None
    shape: Sequence[int] = () if per_tensor else step.shape
    axis = None if per_tensor else attribute(node, "axis")
    return Grid(step.reshape(shape), offset.to(torch.int32).reshape(shape), axis, *_range(dtype))


def _same_constant(a: Value | None, b: Value | None) -> bool:
    if a is b:
        return True
    if a is None or b is None:
        there = b if a is None else a
        return there is not None and there.is_constant and there.data is not None and not there.data.any()
    if a.data is None or b.data is None or not a.is_constant or not b.is_constant:
        return False
    return a.data.shape == b.data.shape and a.data.dtype == b.data.dtype and torch.equal(a.data, b.data)


def quantizer_of(node: Node) -> Node | None:
    """The QuantizeLinear that DequantizeLinear `node` undoes on the same grid."""
    quantizer = node.operand(0).producer
    if quantizer is None or quantizer.op != "QuantizeLinear" or quantizer.domain:
        return None
    alike = all(_same_constant(quantizer.input(i), node.input(i)) for i in (1, 2))
    along = all(attribute(quantizer, name) == attribute(node, name) for name in ("axis", "block_size"))
    return quantizer if alike and along else None


def dequantized_weight(node: Node) -> Weight | None:
    """A float weight that `node` gets by dequantizing integers in a constant, as a trainable tensor."""
    if node.op != "DequantizeLinear" or node.domain:
        return None
    value = node.operand(0)
    if not value.is_constant or value.data is None or value.graph is not node.graph or len(value.uses) != 1:
        return None
    grid = grid_of(node, value.dtype)
    if grid is None or (value.dtype.bits > 16 and value.dtype is not DType.INT32):
        return None
    dtype = value.data.dtype

    def unpack(q: torch.Tensor) -> Sequence[torch.Tensor]:
        return (grid.dequantize(q),)

    def pack(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        return grid.quantize(tensors[0], dtype)

    return Weight(value, ("weight",), layout="dequantized", unpack=unpack, pack=pack)


def emit_dequantize(emitter: Emitter, node: Node) -> Any:
    """Fake quantization for a Q/DQ pair or a quantized weight; ``None`` leaves the node to its record."""
    key = emitter.plan.dequantized.get(node)
    if key is not None:
        weight = emitter.attribute(key)
        integers = node.operand(0)
        if integers.dtype is DType.INT32:  # a bias: so fine a grid has nothing to teach
            return weight
        return _fake_quantize(emitter, node, weight, integers.dtype)
    quantizer = quantizer_of(node)
    if quantizer is None or quantizer.operand(0).dtype is not DType.FLOAT32:
        return None
    cached = emitter.pairs.get(quantizer)
    if cached is None:
        cached = _fake_quantize(emitter, node, emitter.tensor(quantizer.operand(0)), node.operand(0).dtype)
        if cached is not None:
            emitter.pairs[quantizer] = cached
    return cached


def _fake_quantize(emitter: Emitter, node: Node, x: Any, dtype: DType) -> Any:
    grid = grid_of(node, dtype)
    if grid is None or dtype.bits > 16 or _is_learned(node):
        return _straight_through(emitter, node, x, dtype)
    stem = node.operand(1).name or "scale"
    scale = emitter.buffer(grid.scale, stem)
    zero = emitter.buffer(grid.zero_point, getattr(node.input(2), "name", "") or stem + "_zero_point")
    if grid.axis is None:
        return emitter.call(torch.fake_quantize_per_tensor_affine, x, scale, zero, grid.low, grid.high)
    rank = node.output.rank
    axis = grid.axis % rank if rank else grid.axis
    return emitter.call(torch.fake_quantize_per_channel_affine, x, scale, zero, axis, grid.low, grid.high)


def _is_learned(node: Node) -> bool:
    parameter = node.operand(1).parameter
    return parameter is not None and not parameter.buffer and parameter.requires_grad


def _straight_through(emitter: Emitter, node: Node, x: Any, dtype: DType) -> Any:
    """The pairs that torch has no operator for: blocked ones, those with a learned scale, float8."""
    scale, zero = node.operand(1), node.input(2)
    constant = scale.is_constant and (zero is None or zero.is_constant)
    if not constant or (dtype.bits > 16) or (dtype.is_float and dtype.bits != 8):
        return None
    rank = node.output.rank
    axis = int(attribute(node, "axis")) % rank if rank else 0
    step, block = emitter.tensor(scale), int(attribute(node, "block_size"))
    if dtype.is_float:
        return emitter.call(fake_quantize_float, x, step, axis, block, dtype.torch)
    offset = None if zero is None else emitter.tensor(zero)
    low, high = _range(dtype)
    damping = 1.0
    if _is_learned(node):
        size = node.operand(0).tensor_type.numel
        count = size if isinstance(size, int) else 1
        rows = scale.data.numel() if scale.data is not None else 1
        damping = float(max(count // rows, 1) * high) ** -0.5
    return emitter.call(fake_quantize, x, step, offset, axis, block, low, high, damping)


def fake_quantize(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None, axis: int, block: int, low: int, high: int,
    damping: float = 1.0,
) -> torch.Tensor:  # fmt: skip
    """Quantizes and dequantizes; rounding has the gradient of the identity, and scales that train learn their step.

    The gradient of a scale is that of LSQ (Esser et al. 2020, arXiv:1902.08153, equations 3 to 5): ``round(x/s) - x/s``
    within the range and the bound beyond it, times `damping`.

    Args:
        x: any shape.
        scale: a scalar, a vector along `axis`, or blocked.
        zero_point: of the same shape.
        axis: dimension that the scale runs along.
        block: elements of `axis` that share a scale; 0 where there are no blocks.
        low: smallest integer.
        high: largest integer.
        damping: factor of the scale's gradient; LSQ takes 1 / sqrt(elements per scale * high).
    """
    damped = scale if damping == 1.0 else scale * damping + (scale - scale * damping).detach()
    step = spread(damped.clamp(min=torch.finfo(torch.float32).tiny), x, axis, block)
    ratio = x / step
    whole = ratio + (ratio.round() - ratio).detach()
    if zero_point is None:
        return whole.clamp(low, high) * step
    offset = spread(zero_point, x, axis, block).to(step.dtype)
    return ((whole + offset).clamp(low, high) - offset) * step


def fake_quantize_float(
    x: torch.Tensor, scale: torch.Tensor, axis: int, block: int, dtype: torch.dtype
) -> torch.Tensor:
    """Rounds ``x / scale`` to a float8 type and multiplies again; the gradient is the identity's within the range."""
    step = spread(scale, x, axis, block)
    limit = torch.finfo(dtype).max
    ratio = (x / step).clamp(-limit, limit)
    return (ratio + (ratio.to(dtype).to(x.dtype) - ratio).detach()) * step


__all__ = [
    "Grid", "dequantized_weight", "emit_dequantize", "fake_quantize", "fake_quantize_float", "grid_of", "quantizer_of",
]  # fmt: skip
