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
    return quantizer if alike and attribute(quantizer, "axis") == attribute(node, "axis") else None


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
    if grid is None or dtype.bits > 16:
        return None
    stem = node.operand(1).name or "scale"
    scale = emitter.buffer(grid.scale, stem)
    zero = emitter.buffer(grid.zero_point, getattr(node.input(2), "name", "") or stem + "_zero_point")
    if grid.axis is None:
        return emitter.call(torch.fake_quantize_per_tensor_affine, x, scale, zero, grid.low, grid.high)
    rank = node.output.rank
    axis = grid.axis % rank if rank else grid.axis
    return emitter.call(torch.fake_quantize_per_channel_affine, x, scale, zero, axis, grid.low, grid.high)


__all__ = ["Grid", "dequantized_weight", "emit_dequantize", "grid_of", "quantizer_of"]
