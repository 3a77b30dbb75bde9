"""Pools over windows, and over everything."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from graphopt.errors import ShapeError
from graphopt.ir import DType, Node, TensorType, ValueType
from graphopt.ir import dims as D
from graphopt.ops.infer import input_type, integers
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.relation import Relation, Shrinkage, labels
from graphopt.ops.windows import Windows, spatial_rank, window, window_extents


def infer_pool(node: Node) -> Sequence[ValueType]:
    """Type rule of the window pools: [N, C, extents...]; MaxPool's indices are int64."""
    x = input_type(node, 0)
    shape = None
    if x.shape is not None:
        kernel = attribute(node, "kernel_shape")
        if len(x.shape) != len(kernel) + 2:
            raise ShapeError(
                f"kernel_shape {list(kernel)} does not fit an input of rank {len(x.shape)}", where=node.describe()
            )
        ceil = bool(attribute(node, "ceil_mode"))
        shape = (*x.shape[:2], *window_extents(node, x.shape[2:], kernel, ceil))
    return [TensorType(x.dtype, shape), TensorType(DType.INT64, shape)][: max(len(node.outputs), 1)]


def relate_pool(node: Node) -> Relation:
    """Batch and channels go through; spatial dimensions are frozen.

    The indices of MaxPool count through channels: only a MaxUnpool, which counts alike, may read them when channels go.
    """
    relation = labels(node, "n c * -> n c *, n c *")
    readers = node.outputs[1] if len(node.outputs) > 1 else None
    if readers is not None and any(getattr(use.user, "op", "") != "MaxUnpool" for use in readers.uses):
        reason = "the indices of MaxPool are used by more than MaxUnpool"
        relation.frozen.update({"n": reason, "c": reason})
    return relation


# -- MaxPool


def _plane_offsets(x: torch.Tensor) -> torch.Tensor:
    """Where each [n, c] plane of `x` begins in the flattened tensor, shaped to broadcast over planes."""
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device) * math.prod(x.shape[2:])
    return planes.reshape(*x.shape[:2], *[1] * (x.dim() - 2))


def _coordinates(index: torch.Tensor, extents: Sequence[int]) -> list[torch.Tensor]:
    """Row-major positions in a plane, as one coordinate for each dimension."""
    found = []
    for extent in reversed(extents):
        found.append(index % extent)
        index = index // extent
    return found[::-1]


def _onnx_indices(
    index: torch.Tensor, padded: Sequence[int], begins: Sequence[int], x: torch.Tensor, order: int
) -> torch.Tensor:
    """Turns torch's positions in the padded plane into ONNX's in the whole unpadded tensor."""
    extents = list(x.shape[2:])
    if order == 0 and not any(begins) and list(padded) == extents:
        return index + _plane_offsets(x)
    at = [c - b for c, b in zip(_coordinates(index, padded), begins, strict=True)]
    strides = [math.prod(extents[i + 1 :]) for i in range(len(extents))]
    if order:
        strides = [math.prod(extents[:i]) for i in range(len(extents))]
    return sum((c * s for c, s in zip(at, strides, strict=True)), _plane_offsets(x))


def max_pool(
    x: torch.Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] = (),
    kernel_shape: Sequence[int],
    pads: Sequence[int] = (),
    storage_order: int = 0,
    strides: Sequence[int] = (),
    outputs: int = 2,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """ONNX MaxPool: x [N, C, ...]; the second output holds positions in the flattened x."""
    rank = spatial_rank(x, "MaxPool")
    w = Windows.resolve(x, kernel_shape, strides, dilations, pads, auto_pad, bool(ceil_mode))
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
    data, pads, begins, ceil = x, w.begins, [0] * rank, w.ceil
    if x.dtype in (torch.int8, torch.uint8):  # torch pools no bytes
        data = x.float()
    if not w.is_plain:
        lowest = -math.inf if data.is_floating_point() else torch.iinfo(data.dtype).min
        data, pads, begins, ceil = w.pad(data, lowest), [0] * rank, w.begins, False
    if outputs == 1:
        return function(data, w.kernel, w.strides, pads, w.dilations, ceil).to(x.dtype)
    y, index = function(data, w.kernel, w.strides, pads, w.dilations, ceil, return_indices=True)
    return y.to(x.dtype), _onnx_indices(index, list(data.shape[2:]), begins, x, storage_order)


# -- AveragePool and LpPool


def _window_sum(x: torch.Tensor, w: Windows) -> torch.Tensor:
    """Sums of `x` [N, C, padded...] over the windows, by a convolution with ones."""
    rank = len(w.kernel)
    function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    channels = x.shape[1]
    return function(x, x.new_ones(channels, 1, *w.kernel), None, w.strides, 0, w.dilations, channels)


def average_pool(
    x: torch.Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] = (),
    kernel_shape: Sequence[int],
    pads: Sequence[int] = (),
    strides: Sequence[int] = (),
) -> torch.Tensor:
    """ONNX AveragePool: x [N, C, ...]. What a window reaches beyond the stated pads never counts."""
    rank = spatial_rank(x, "AveragePool")
    w = Windows.resolve(x, kernel_shape, strides, dilations, pads, auto_pad, bool(ceil_mode))
    # torch's avg_pool3d alone wants an image as large as the window, without its pads.
    is_small = rank == 3 and any(w.begins) and any(d < k for d, k in zip(x.shape[2:], w.kernel, strict=True))
    if w.is_plain and not is_small and all(d == 1 for d in w.dilations):
        function = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
        return function(x, w.kernel, w.strides, w.begins, w.ceil, bool(count_include_pad))
    counted = w.pad(x.new_ones(1, 1, *x.shape[2:]), 0, inner=1 if count_include_pad else None)
    return _window_sum(w.pad(x, 0), w) / _window_sum(counted, w)


def lp_pool(
    x: torch.Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] = (),
    kernel_shape: Sequence[int],
    p: int = 2,
    pads: Sequence[int] = (),
    strides: Sequence[int] = (),
) -> torch.Tensor:
    """ONNX LpPool: the p-norm over each window of x [N, C, ...]; pads count as zeros."""
    spatial_rank(x, "LpPool")
    w = Windows.resolve(x, kernel_shape, strides, dilations, pads, auto_pad, bool(ceil_mode))
    return _window_sum(w.pad(x.abs() ** p, 0), w) ** (1 / p)


# -- global pools


def infer_global(node: Node) -> list[ValueType]:
    """Type rule of the global pools: [N, C, 1, ...]."""
    x = input_type(node, 0)
    if x.shape is None:
        return [TensorType(x.dtype)]
    if len(x.shape) < 2:
        raise ShapeError(f"input has rank {len(x.shape)}, at least 2 is needed", where=node.describe())
    return [TensorType(x.dtype, (*x.shape[:2], *[1] * (len(x.shape) - 2)))]


def relate_global(node: Node) -> Relation:
    """Batch and channels go through."""
    rank = node.output.rank or 2
    return labels(node, "n c * -> n c" + " _" * (rank - 2))


def global_average_pool(x: torch.Tensor) -> torch.Tensor:
    """ONNX GlobalAveragePool: the mean over all but the first two dimensions."""
    return x.mean(dim=list(range(2, x.dim())), keepdim=True) if x.dim() > 2 else x


def global_max_pool(x: torch.Tensor) -> torch.Tensor:
    """ONNX GlobalMaxPool: the maximum over all but the first two dimensions."""
    return x.amax(dim=list(range(2, x.dim())), keepdim=True) if x.dim() > 2 else x


def global_lp_pool(x: torch.Tensor, *, p: int = 2) -> torch.Tensor:
    """ONNX GlobalLpPool: the p-norm over all but the first two dimensions."""
    return torch.linalg.vector_norm(x, p, dim=list(range(2, x.dim())), keepdim=True) if x.dim() > 2 else x.abs()


# -- MaxUnpool


def infer_max_unpool(node: Node) -> list[ValueType]:
    """Type rule of MaxUnpool: the stated output_shape, or what the windows of the pool covered."""
    x = input_type(node, 0)
    if node.input(2) is not None:
        stated = integers(node.input(2))
        shape = tuple(stated) if stated is not None else None if x.shape is None else (None,) * len(x.shape)
        return [TensorType(x.dtype, shape)]
    if x.shape is None:
        return [TensorType(x.dtype)]
    kernel = attribute(node, "kernel_shape")
    strides, _, pads, _ = window(node, len(kernel))
    half = len(kernel)
    extents = [
        D.add(D.mul(D.add(size, -1), s), k - b - e)
        for size, s, k, b, e in zip(x.shape[2:], strides, kernel, pads[:half], pads[half:], strict=True)
    ]
    return [TensorType(x.dtype, (*x.shape[:2], *extents))]


def max_unpool(
    x: torch.Tensor,
    index: torch.Tensor,
    output_shape: torch.Tensor | None = None,
    *,
    kernel_shape: Sequence[int],
    pads: Sequence[int] = (),
    strides: Sequence[int] = (),
) -> torch.Tensor:
    """ONNX MaxUnpool: puts the elements of x where MaxPool's indices say, zeros elsewhere.

    Indices count in a tensor of the output's shape, also where `output_shape` states it (as in ONNX Runtime and torch;
    onnx.reference counts in the default shape: https://github.com/onnx/onnx/issues/2398).
    """
    rank = len(kernel_shape)
    strides, pads = list(strides) or [1] * rank, list(pads) or [0] * 2 * rank
    if output_shape is not None:
        shape = [int(d) for d in output_shape.tolist()]
    else:
        shape = list(x.shape[:2]) + [
            (x.shape[2 + i] - 1) * strides[i] + kernel_shape[i] - pads[i] - pads[rank + i] for i in range(rank)
        ]
    flat = x.new_zeros(math.prod(shape))
    return flat.scatter(0, index.reshape(-1), x.reshape(-1)).reshape(shape)


def relate_max_unpool(node: Node) -> Relation:
    """Batch and channels go through."""
    return labels(node, "n c *, n c * -> n c *")


def shrink_max_unpool(node: Node, shrinkage: Shrinkage) -> None:
    """Keeps a constant output_shape in step."""
    stated, x = node.input(2), node.operand(0)
    if stated is None or not stated.is_constant or stated.data is None:
        return
    data = stated.data.clone()
    for dim in (0, 1):
        kept = shrinkage.kept(x, dim)
        if kept is not None:
            data[dim] = len(kept)
    shrinkage.set_constant(node, 2, data)


register(
    Operator("MaxPool", infer_pool, max_pool, relate_pool, homogeneous=True),
    Operator("AveragePool", infer_pool, average_pool, relate_pool, homogeneous=True),
    Operator("LpPool", infer_pool, lp_pool, relate_pool, homogeneous=True),
    Operator("GlobalAveragePool", infer_global, global_average_pool, relate_global, homogeneous=True),
    Operator("GlobalMaxPool", infer_global, global_max_pool, relate_global, homogeneous=True),
    Operator("GlobalLpPool", infer_global, global_lp_pool, relate_global, homogeneous=True),
    Operator("MaxUnpool", infer_max_unpool, max_unpool, relate_max_unpool, shrink=shrink_max_unpool),
)

__all__ = ["infer_pool", "relate_pool"]
