"""Arithmetic of uint16, uint32 and uint64, of which torch has next to none: by way of int64.

Numbers of 16 and 32 bits fit. Those of 64 bits have the same bits in int64, so sums, products and whatever moves
elements need nothing more; what orders them does so after the top bit is turned over; division is numpy's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import onnx
import torch

from graphopt.errors import UnsupportedOperatorError
from graphopt.ops.record import find

_Kind = TypeVar("_Kind")

WIDE = frozenset({torch.uint16, torch.uint32, torch.uint64})
#: What torch does with these types itself, or the record does for it.
NATIVE = frozenset(
    {"BitCast", "BitShift", "Cast", "CastLike", "Constant", "ConstantOfShape", "DequantizeLinear", "Expand", "Flatten",
     "Identity", "QuantizeLinear", "Reshape", "Shape", "Size", "Squeeze", "Transpose", "Unsqueeze"}
)  # fmt: skip
_ORDER = frozenset(
    {"ArgMax", "ArgMin", "Clip", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "MaxPool", "Min",
     "ReduceMax", "ReduceMin", "TopK", "Unique"}
)  # fmt: skip
_DIVISION: dict[str, Callable[..., np.ndarray]] = {"Div": np.floor_divide, "Mod": np.remainder, "Pow": np.power}
#: What works on the numbers, not the bits, and has no rule of its own for the upper half of uint64.
_NUMERIC = frozenset(
    {"GlobalMaxPool", "Mean", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "Resize"}
)  # fmt: skip


def any_wide(inputs: Sequence[Any]) -> bool:
    """Whether there is a tensor of uint16, uint32 or uint64 among `inputs`."""
    return any(isinstance(x, torch.Tensor) and x.dtype in WIDE for x in inputs)


def widened(op: str, *inputs: Any, **attributes: Any) -> Any:
    """Computes a standard operator, wide unsigned inputs as int64; outputs of their type come back in it.

    Raises:
        UnsupportedOperatorError: numbers of 2**63 and more, for an operator that is not exact on them.
    """
    kinds = [x.dtype if isinstance(x, torch.Tensor) and x.dtype in WIDE else None for x in inputs]
    if op in _DIVISION and kinds[0] is torch.uint64 and kinds[1] is torch.uint64:
        return _divide(op, *inputs)
    record = find(op)
    assert record is not None and record.compute is not None
    results = record.compute(*[_to_int64(op, x) for x in inputs], **attributes)
    many = isinstance(results, tuple)
    back = [
        _from_int64(op, result, kind)
        for result, kind in zip(results if many else (results,), of_outputs(op, kinds), strict=False)
    ]
    return tuple(back) if many else back[0]


def _divide(op: str, x: torch.Tensor, y: torch.Tensor, **_: Any) -> torch.Tensor:
    with np.errstate(all="ignore"):
        result = np.asarray(_DIVISION[op](x.cpu().numpy(), y.cpu().numpy()))
    return torch.from_numpy(result).to(x.device)


_TOP = -(2**63)
# More outputs than any node has.
_MANY = 4096


def _to_int64(op: str, x: Any) -> Any:
    if not isinstance(x, torch.Tensor) or x.dtype not in WIDE:
        return x
    wide = x.to(torch.int64)
    if x.dtype is not torch.uint64:
        return wide
    if op in _NUMERIC and bool((wide < 0).any()):
        raise UnsupportedOperatorError(f"{op} of uint64 numbers beyond 2**63 cannot be executed with torch")
    return wide ^ _TOP if op in _ORDER else wide


def _from_int64(op: str, result: Any, kind: torch.dtype | None) -> Any:
    if kind is None or not isinstance(result, torch.Tensor) or result.dtype is not torch.int64:
        return result
    if kind is torch.uint64 and op in _ORDER:
        result = result ^ _TOP
    return result.to(kind)


@functools.cache
def schema_of(op: str) -> onnx.defs.OpSchema | None:
    """The newest definition of a standard operator, if there is one."""
    try:
        return onnx.defs.get_schema(op)
    except onnx.defs.SchemaError:
        return None


def of_outputs(op: str, kinds: Sequence[_Kind]) -> list[_Kind | None]:
    """For each output of a standard operator what `kinds` has for an input of the same type constraint."""
    schema = schema_of(op)
    assert schema is not None
    formal = list(schema.inputs)
    found: dict[str, _Kind] = {}
    for index, kind in enumerate(kinds):
        found.setdefault(formal[min(index, len(formal) - 1)].type_str, kind)
    each = [found.get(output.type_str) for output in schema.outputs]
    variadic = schema.outputs and schema.outputs[-1].option is onnx.defs.OpSchema.FormalParameterOption.Variadic
    return each + each[-1:] * _MANY if variadic else each


__all__ = ["NATIVE", "WIDE", "any_wide", "of_outputs", "schema_of", "widened"]
