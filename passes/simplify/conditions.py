"""Conditions that several rules ask for."""

from __future__ import annotations

import torch

from graphopt.ir import DType, Value
from graphopt.ir import dims as D
from graphopt.rewrite import Failure, Match


def same_shape(a: Value, b: Value) -> bool:
    """True when two values are known to have the same shape, symbolic dimensions included."""
    return (
        a.shape is not None
        and b.shape is not None
        and len(a.shape) == len(b.shape)
        and all(map(D.same, a.shape, b.shape))
    )


def stretches(constant: Value, x: Value) -> bool:
    """True unless it is certain that broadcasting `x` against `constant` leaves the shape of `x` as it is."""
    if constant.shape == ():
        return False
    if constant.shape is None or x.shape is None or len(constant.shape) > len(x.shape):
        return True
    aligned = x.shape[len(x.shape) - len(constant.shape) :]
    return any(extent != 1 and not D.same(extent, dim) for extent, dim in zip(constant.shape, aligned, strict=True))


def stand_in(m: Match, x: Value, index: int = 0) -> Value | Failure:
    """`x` as the replacement of output `index` of the root, unless a graph would then return its own input."""
    old = m.root.outputs[index]
    if old.is_output and (x.producer is None or x.graph is not m.graph):
        return m.fail("it hands an input or a constant on as an output")
    return x


def fits(made: torch.Tensor, exact: torch.Tensor) -> bool:
    """True when the floats `made` are what `exact` is, rounded: none overflows, none falls below the normal numbers."""
    smallest = torch.finfo(made.dtype).tiny
    return bool((torch.isfinite(made) & ((exact == 0) | (made.abs() >= smallest))).all())


_MANTISSA = {DType.FLOAT64: 53, DType.FLOAT32: 24, DType.FLOAT16: 11, DType.BFLOAT16: 8}
_EXPONENT = {DType.FLOAT64: 11, DType.FLOAT32: 8, DType.FLOAT16: 5, DType.BFLOAT16: 8}


def holds(wide: DType, narrow: DType) -> bool:
    """True when every value of type `narrow` is exactly a value of type `wide`."""
    if wide is narrow or narrow is DType.BOOL:
        return wide is narrow or wide.is_integer or wide in _MANTISSA
    if narrow in _MANTISSA:
        return wide in _MANTISSA and (_MANTISSA[wide] >= _MANTISSA[narrow] and _EXPONENT[wide] >= _EXPONENT[narrow])
    if not narrow.is_integer:
        return False
    signed, magnitude = not narrow.name.startswith("UINT"), narrow.bits - (not narrow.name.startswith("UINT"))
    if wide in _MANTISSA:
        return magnitude <= _MANTISSA[wide] and magnitude < 2 ** (_EXPONENT[wide] - 1)
    if not wide.is_integer:
        return False
    wide_signed = not wide.name.startswith("UINT")
    return wide.bits - wide_signed >= magnitude and (wide_signed or not signed)
