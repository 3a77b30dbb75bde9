"""Making tensors, and changing their element type."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from graphopt.frontends.aten.builder import Builder, Operand, Size, plain
from graphopt.frontends.aten.registry import converts
from graphopt.ir import DType, Value

# Larger ones are made when the graph runs, so that a file does not carry megabytes of zeros.
_MOST_CONSTANT = 4096


def filled(c: Builder, sizes: Sequence[Size], number: Operand) -> Value:
    """A tensor of the result's element type with one number everywhere."""
    dtype = c.result.dtype
    fixed = [size for size in sizes if not isinstance(size, Value)]
    if len(fixed) == len(sizes) and math.prod(fixed) <= _MOST_CONSTANT and not isinstance(number, Value):
        return c.constant(torch.full(fixed, number, dtype=dtype.torch))
    return c.emit("Expand", c.operand(number, dtype), c.vector(sizes))


@converts("aten.full.default")
def full(c: Builder, size: Sequence[Size], fill_value: Operand, **options: Any) -> Value:
    return filled(c, size, fill_value)


@converts("aten.zeros.default", "aten.empty.memory_format")
def zeros(c: Builder, size: Sequence[Size], **options: Any) -> Value:
    """Empty memory is made of zeros, which no program may tell from other contents."""
    return filled(c, size, 0)


@converts("aten.ones.default")
def ones(c: Builder, size: Sequence[Size], **options: Any) -> Value:
    return filled(c, size, 1)


@converts("aten.new_full.default")
def new_full(c: Builder, self: Value, size: Sequence[Size], fill_value: Operand, **options: Any) -> Value:
    return filled(c, size, fill_value)


@converts("aten.new_zeros.default", "aten.new_empty.default")
def new_zeros(c: Builder, self: Value, size: Sequence[Size], **options: Any) -> Value:
    return filled(c, size, 0)


@converts("aten.new_ones.default")
def new_ones(c: Builder, self: Value, size: Sequence[Size], **options: Any) -> Value:
    return filled(c, size, 1)


@converts("aten.full_like.default", "aten.fill.Scalar", "aten.fill.Tensor")
def full_like(c: Builder, self: Value, fill_value: Operand, **options: Any) -> Value:
    return filled(c, [c.size(self, i) for i in range(len(c.result_shape))], fill_value)


@converts("aten.zeros_like.default", "aten.empty_like.default", "aten.zero.default")
def zeros_like(c: Builder, self: Value, **options: Any) -> Value:
    return full_like(c, self, 0)


@converts("aten.ones_like.default")
def ones_like(c: Builder, self: Value, **options: Any) -> Value:
    return full_like(c, self, 1)


@converts("aten.scalar_tensor.default")
def scalar_tensor(c: Builder, s: Operand, **options: Any) -> Value:
    return c.operand(s, c.result.dtype)


@converts("aten.arange.default", "aten.arange.start", "aten.arange.start_step")
def arange(c: Builder, *bounds: Operand, **options: Any) -> Value:
    start, end, step = (0, bounds[0], 1) if len(bounds) == 1 else (*bounds, 1)[:3]
    dtype = c.result.dtype
    if any(isinstance(bound, Value) for bound in (start, end, step)):
        return c.emit("Range", c.operand(start, dtype), c.operand(end, dtype), c.operand(step, dtype))
    return c.constant(torch.arange(plain(start), plain(end), plain(step), dtype=dtype.torch))


@converts("aten.linspace.default")
def linspace(c: Builder, start: Operand, end: Operand, steps: Size, **options: Any) -> Value:
    return c.constant(torch.linspace(plain(start), plain(end), int(plain(steps)), dtype=c.result.dtype.torch))


@converts("aten.eye.default", "aten.eye.m")
def eye(c: Builder, n: Size, m: Size | None = None, **options: Any) -> Value:
    return c.constant(torch.eye(int(plain(n)), int(plain(n if m is None else m)), dtype=c.result.dtype.torch))


@converts("aten.to.dtype", "aten.to.dtype_layout", "aten.to.device", "aten.to.other", "aten._to_copy.default",
          "aten.type_as.default", "aten.to.prim_Device", "aten.to.prim_dtype")  # fmt: skip
def to(c: Builder, self: Value, *options: Any, **named: Any) -> Value:
    return c.cast(self, c.result.dtype)


@converts("prims.convert_element_type.default")
def convert_element_type(c: Builder, a: Value, dtype: torch.dtype) -> Value:
    return c.cast(a, DType.of(dtype))
