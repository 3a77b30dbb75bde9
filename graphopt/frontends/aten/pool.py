"""Pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphopt.frontends.aten.builder import Builder, numbers, require, shape_of, static
from graphopt.frontends.aten.registry import converts
from graphopt.ir import DType, Value


def _unbatched(c: Builder, results: Sequence[Value], unbatched: bool) -> list[Value]:
    return [c.squeeze(y, 0) for y in results] if unbatched else list(results)


def _max_pool(
    c: Builder,
    x: Value,
    outputs: int,
    rank: int,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil: bool,
) -> list[Value]:
    kernel = numbers(kernel_size, rank)
    x, unbatched = c.batched(x, rank + 2)
    results = c.emit_many(
        "MaxPool", [x], outputs,
        ceil_mode=int(ceil), dilations=numbers(dilation, rank), kernel_shape=kernel, pads=numbers(padding, rank) * 2,
        strides=numbers(stride or kernel, rank),
    )  # fmt: skip
    if outputs == 2:
        # ONNX counts through the whole tensor, torch through one channel's plane.
        plane = c.multiply(c.size(x, i) for i in range(2, rank + 2))
        results[1] = c.emit("Mod", results[1], c.operand(plane, DType.INT64))
    return _unbatched(c, results, unbatched)


def _register_max_pool(rank: int) -> None:
    @converts(f"aten.max_pool{rank}d.default")
    def max_pool(
        c: Builder, self: Value, kernel_size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> Value:  # fmt: skip
        return _max_pool(c, self, 1, rank, kernel_size, stride, padding, dilation, ceil_mode)[0]

    @converts(f"aten.max_pool{rank}d_with_indices.default")
    def max_pool_with_indices(
        c: Builder, self: Value, kernel_size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> tuple[Value, ...]:  # fmt: skip
        return tuple(_max_pool(c, self, 2, rank, kernel_size, stride, padding, dilation, ceil_mode))

    @converts(f"aten.avg_pool{rank}d.default")
    def avg_pool(
        c: Builder, self: Value, kernel_size: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: int | None = None,
    ) -> Value:  # fmt: skip
        kernel = numbers(kernel_size, rank)
        require(divisor_override is None, "a pool with a divisor of its own")
        x, unbatched = c.batched(self, rank + 2)
        y = c.emit(
            "AveragePool", x,
            ceil_mode=int(ceil_mode), count_include_pad=int(count_include_pad), kernel_shape=kernel,
            pads=numbers(padding, rank) * 2, strides=numbers(stride or kernel, rank),
        )  # fmt: skip
        return _unbatched(c, [y], unbatched)[0]

    @converts(f"aten.adaptive_avg_pool{rank}d.default", f"aten._adaptive_avg_pool{rank}d.default")
    def adaptive_avg_pool(c: Builder, self: Value, output_size: Any) -> Value:
        x, unbatched = c.batched(self, rank + 2)
        return _unbatched(c, [_adaptive_average(c, x, rank, output_size)], unbatched)[0]

    @converts(f"aten.adaptive_max_pool{rank}d.default")
    def adaptive_max_pool(c: Builder, self: Value, output_size: Any) -> tuple[Value, ...]:
        extents, sizes = shape_of(self)[-rank:], numbers(output_size, rank)
        kernel = [static(extent) // size for extent, size in zip(extents, sizes, strict=True)]
        divides = all(k * size == extent for k, size, extent in zip(kernel, sizes, extents, strict=True))
        require(divides, "the windows of the pool differ in size")
        return tuple(_max_pool(c, self, 2, rank, kernel, kernel, 0, 1, False))


for _rank in (1, 2, 3):
    _register_max_pool(_rank)


def _adaptive_average(c: Builder, x: Value, rank: int, output_size: Any) -> Value:
    extents = shape_of(x)[2:]
    items = [output_size] * rank if isinstance(output_size, int) else list(output_size)
    sizes = [extent if size is None else size for extent, size in zip(extents, items, strict=True)]
    if all(isinstance(size, int) and size == 1 for size in sizes):
        return c.emit("GlobalAveragePool", x)
    fixed = [(static(extent), static(size)) for extent, size in zip(extents, sizes, strict=True)]
    if all(extent % size == 0 for extent, size in fixed):
        kernel = [extent // size for extent, size in fixed]
        return x if kernel == [1] * rank else c.emit("AveragePool", x, kernel_shape=kernel, strides=kernel)
    for position, (extent, size) in enumerate(fixed):
        if extent != size:
            x = _average_along(c, x, position + 2, rank + 2, extent, size)
    return x


def _average_along(c: Builder, x: Value, axis: int, rank: int, extent: int, size: int) -> Value:
    """Windows of different sizes, as a product with a matrix; window i covers floor(i*e/s) to ceil((i+1)*e/s)."""
    weights = torch.zeros(extent, size, dtype=c.result.dtype.torch)
    for i in range(size):
        begin, end = i * extent // size, -(-(i + 1) * extent // size)
        weights[begin:end, i] = 1 / (end - begin)
    perm = list(range(rank))
    perm[axis], perm[-1] = rank - 1, axis
    return c.transpose(c.emit("MatMul", c.transpose(x, perm), c.constant(weights)), perm)
