"""Comparisons, truth values, bits and selection."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

from graphopt.ir import Dim, DType
from graphopt.ops import contents as C
from graphopt.ops.broadcast import infer_broadcast, relate_broadcast
from graphopt.ops.contents import pointwise, strict
from graphopt.ops.infer import same_as
from graphopt.ops.record import Operator, register


def is_inf(x: torch.Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> torch.Tensor:
    """ONNX IsInf: where x is infinite, of the signs asked for."""
    if detect_negative and detect_positive:
        return torch.isinf(x)
    if detect_positive:
        return torch.isposinf(x)
    return torch.isneginf(x) if detect_negative else torch.zeros_like(x, dtype=torch.bool)


def not_equal(a: Dim, b: Dim) -> Dim:
    """Logical exclusive or of two truth values."""
    return C.negation(C.equal(a, b))


def _less_or_equal(a: Dim, b: Dim) -> Dim:
    return C.negation(C.less(b, a))


def _comparison(name: str, compute: Callable[..., Any], rule: Callable[[Dim, Dim], Dim]) -> Operator:
    return Operator(
        name,
        infer_broadcast(DType.BOOL),
        compute,
        relate_broadcast,
        evaluate=pointwise(strict(rule), DType.BOOL),
        inline=True,
        elementwise=True,
        commutative=name == "Equal",
    )


def _truth(name: str, compute: Callable[..., Any], rule: Callable[[Dim, Dim], Dim]) -> Operator:
    return Operator(
        name,
        infer_broadcast(DType.BOOL),
        compute,
        relate_broadcast,
        evaluate=pointwise(rule, DType.BOOL),
        inline=True,
        elementwise=True,
        commutative=True,
    )


def _bits(name: str, compute: Callable[..., Any]) -> Operator:
    return Operator(name, infer_broadcast(), compute, relate_broadcast, inline=True, elementwise=True, commutative=True)


register(
    _comparison("Equal", operator.eq, C.equal),
    _comparison("Less", operator.lt, C.less),
    _comparison("LessOrEqual", operator.le, _less_or_equal),
    _comparison("Greater", operator.gt, lambda a, b: C.less(b, a)),
    _comparison("GreaterOrEqual", operator.ge, lambda a, b: _less_or_equal(b, a)),
    _truth("And", torch.logical_and, C.conjunction),
    _truth("Or", torch.logical_or, C.disjunction),
    _truth("Xor", torch.logical_xor, strict(not_equal)),
    Operator(
        "Not",
        same_as(0),
        torch.logical_not,
        relate_broadcast,
        evaluate=pointwise(C.negation),
        inline=True,
        elementwise=True,
    ),
    _bits("BitwiseAnd", torch.bitwise_and),
    _bits("BitwiseOr", torch.bitwise_or),
    _bits("BitwiseXor", torch.bitwise_xor),
    Operator("BitwiseNot", same_as(0), torch.bitwise_not, relate_broadcast, inline=True, elementwise=True),
    Operator("IsNaN", infer_broadcast(DType.BOOL), torch.isnan, relate_broadcast, inline=True, elementwise=True),
    Operator("IsInf", infer_broadcast(DType.BOOL), is_inf, relate_broadcast, inline=True, elementwise=True),
    Operator(
        "Where",
        infer_broadcast(alike=(1, 2)),
        torch.where,
        relate_broadcast,
        evaluate=pointwise(C.choose, source=1),
        inline=True,
        elementwise=True,
    ),
)

__all__ = ["is_inf"]
