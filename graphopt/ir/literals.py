"""What an attribute may hold besides numbers, strings, plain tensors and graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from graphopt.ir.types import DType


@dataclass(frozen=True, eq=False)
class TypedTensor:
    """A tensor whose element type its torch dtype does not tell (int4 carried as int8, ...).

    Attributes:
        data: the elements, in the carrier `DType.torch`.
        dtype: the element type.
    """

    data: torch.Tensor
    dtype: DType


@dataclass(frozen=True, eq=False)
class SparseTensor:
    """An ONNX sparse tensor in COO form.

    Attributes:
        values: the elements that are stored, of shape [nnz]; an object array for strings.
        indices: int64; their positions, of shape [nnz, rank], or [nnz] when linearised.
        shape: of the dense tensor.
        dtype: the element type.
    """

    values: torch.Tensor | np.ndarray
    indices: torch.Tensor
    shape: tuple[int, ...]
    dtype: DType

    def dense(self) -> torch.Tensor:
        """The tensor with its zeros. Raises TypeError for strings."""
        if not isinstance(self.values, torch.Tensor):
            raise TypeError("strings have no zeros")
        dense = torch.zeros(self.shape, dtype=self.values.dtype)
        flat = self.indices
        if flat.dim() == 2:
            steps = torch.tensor(dense.stride(), dtype=torch.int64)
            flat = (flat * steps).sum(1)
        dense.view(-1)[flat] = self.values
        return dense


class EmptyList(tuple[Any, ...]):
    """An empty list attribute that remembers what it would hold; equal to ``()``.

    Attributes:
        kind: name of the ``AttributeProto`` type (``"FLOATS"``), for operators without a schema that could tell.
    """

    kind: str

    def __new__(cls, kind: str) -> EmptyList:
        """An empty list of elements of `kind`."""
        empty = super().__new__(cls)
        empty.kind = kind
        return empty

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (self.kind,)


__all__ = ["EmptyList", "SparseTensor", "TypedTensor"]
