"""Weights that are mostly zeros, as ONNX's sparse tensors where these are smaller."""

from __future__ import annotations

import torch

from graphopt.ir import DType
from graphopt.ir.literals import SparseTensor

#: Metadata key of a Constant node that holds a weight in sparse form: loaded, it is a dense constant again.
SPARSE = "graphopt.sparse"

#: Bytes of one index: ONNX allows int64 alone.
_INDEX = 8
#: Bytes that the second tensor and the node around it take, about.
_AROUND = 128
_TYPES = frozenset({DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32, DType.FLOAT64, DType.INT8, DType.UINT8})


def sparse_form(data: torch.Tensor, dtype: DType) -> SparseTensor | None:
    """A weight in sparse form with linear indices; ``None`` where that takes as many bytes as the dense one, or more.

    An element that is not zero takes its own bytes and 8 for its index: float32 weights are smaller with less than a
    third of them left. A negative zero counts as zero.

    Args:
        data: the dense weight.
        dtype: its element type.
    """
    if dtype not in _TYPES:
        return None
    size = dtype.bits // 8
    flat = data.detach().reshape(-1)
    count = int(torch.count_nonzero(flat))
    if count * (size + _INDEX) + _AROUND >= flat.numel() * size:
        return None
    indices = torch.nonzero(flat)[:, 0]
    return SparseTensor(flat[indices], indices, tuple(data.shape), dtype)
