"""Convolutions and matrix products on quantized numbers.

They are computed in float64, where every sum of products of bytes is exact, and brought back to int32.
"""

from __future__ import annotations

from typing import Any

import torch

from graphopt.ir import Dim, DType, Node, Shape, TensorType, Value, ValueType
from graphopt.ir import dims as D
from graphopt.ops.conv import check_bias, check_weight, conv, window_extents
from graphopt.ops.infer import input_type
from graphopt.ops.matmul import matmul_shape
from graphopt.ops.quant import integer_range
from graphopt.ops.record import Operator, attribute, hands_on, register
from graphopt.ops.relation import Relation, labels


def _centred(x: torch.Tensor, zero_point: torch.Tensor | None, rank: int = 0) -> torch.Tensor:
    """``x - zero_point`` in float64; a zero point with several elements gets `rank` more dimensions behind."""
    if zero_point is None:
        return x.double()
    shift = zero_point.double()
    if shift.numel() == 1:
        return x.double() - shift.reshape(())
    return x.double() - shift.reshape(*shift.shape, *[1] * rank)


def _to_int32(x: torch.Tensor) -> torch.Tensor:
    """Whole float64 numbers as int32, wrapped around where they overflow."""
    return x.to(torch.int64).to(torch.int32)


def _requantize(total: torch.Tensor, factor: torch.Tensor, zero_point: torch.Tensor) -> torch.Tensor:
    """``saturate(round(total * factor) + zero_point)`` in the element type of the zero point."""
    scaled = torch.round(total.to(factor.dtype) * factor) + zero_point.to(factor.dtype)
    return scaled.clamp(*integer_range(DType.of(zero_point.dtype))).to(zero_point.dtype)


# -- convolutions


@hands_on(conv)
def conv_integer(
    x: torch.Tensor,
    w: torch.Tensor,
    x_zero_point: torch.Tensor | None = None,
    w_zero_point: torch.Tensor | None = None,
    **attributes: Any,
) -> torch.Tensor:
    """ONNX ConvInteger: int32 convolution of ``x - x_zero_point`` with ``w - w_zero_point`` (scalar or per channel)."""
    return _to_int32(conv(_centred(x, x_zero_point), _centred(w, w_zero_point, w.dim() - 1), **attributes))


@hands_on(conv)
def qlinear_conv(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    x_zero_point: torch.Tensor,
    w: torch.Tensor,
    w_scale: torch.Tensor,
    w_zero_point: torch.Tensor,
    y_scale: torch.Tensor,
    y_zero_point: torch.Tensor,
    bias: torch.Tensor | None = None,
    **attributes: Any,
) -> torch.Tensor:
    """ONNX QLinearConv: a quantized convolution of quantized x and w; int32 bias [M] of scale ``x_scale * w_scale``."""
    total = conv_integer(x, w, x_zero_point, w_zero_point, **attributes)
    per_channel = (-1, *[1] * (x.dim() - 2))
    if bias is not None:
        total = total + bias.reshape(per_channel)
    factor = x_scale.reshape(()) * w_scale / y_scale.reshape(())
    factor = factor.reshape(per_channel) if factor.numel() > 1 else factor.reshape(())
    return _requantize(total, factor, y_zero_point.reshape(()))


def _conv_shape(node: Node, weight: int) -> Shape | None:
    x, w = input_type(node, 0).shape, input_type(node, weight).shape
    if x is None or w is None:
        return None
    check_weight(node, x, w)
    return (x[0], w[0], *window_extents(node, x[2:], w[2:]))


def infer_conv_integer(node: Node) -> list[ValueType]:
    """Type rule of ConvInteger: int32 [N, M, extents...]."""
    return [TensorType(DType.INT32, _conv_shape(node, 1))]


def infer_qlinear_conv(node: Node) -> list[ValueType]:
    """Type rule of QLinearConv: [N, M, extents...] in the element type of the output's zero point."""
    shape = _conv_shape(node, 3)
    if shape is not None:
        check_bias(node, shape[1], 8)
    return [TensorType(input_type(node, 7).dtype, shape)]


def _per_channel(value: Value | None, label: str) -> str:
    """Notation of a scale or zero point that is a scalar or has one element per `label`."""
    if value is None or value.shape is None or value.rank == 0:
        return ""
    return "_" if value.shape == (1,) else label


def relate_conv_integer(node: Node) -> Relation:
    """As Conv's, with a zero point per output channel."""
    zero = _per_channel(node.input(3), "(g o)")
    notation = f"n (g i) *, (g o) i *, {_per_channel(node.input(2), '*')}, {zero} -> n (g o) *"
    return labels(node, notation, {"g": attribute(node, "group")}, attributes={"group": "g"})


def relate_qlinear_conv(node: Node) -> Relation:
    """As Conv's, with a weight scale and zero point per output channel."""
    scalars = [_per_channel(node.input(i), "*") for i in (1, 2, 6, 7)]
    scale, zero = (_per_channel(node.input(i), "(g o)") for i in (4, 5))
    left = ["n (g i) *", *scalars[:2], "(g o) i *", scale, zero, *scalars[2:], "(g o)"]
    notation = f"{', '.join(left)} -> n (g o) *"
    return labels(node, notation, {"g": attribute(node, "group")}, attributes={"group": "g"})


def _conv_macs(node: Node, weight: int) -> Dim:
    w, y = node.operand(weight).shape, node.output.shape
    return None if w is None or y is None else D.mul(D.product(w[1:]), D.product(y))


# -- matrix products


def _rowwise(parameter: torch.Tensor) -> torch.Tensor:
    """A scale or zero point of `a`: scalar, [M], or already of the rank of `a`."""
    if parameter.numel() == 1:
        return parameter.reshape(())
    return parameter[:, None] if parameter.dim() == 1 else parameter


def matmul_integer(
    a: torch.Tensor,
    b: torch.Tensor,
    a_zero_point: torch.Tensor | None = None,
    b_zero_point: torch.Tensor | None = None,
) -> torch.Tensor:
    """ONNX MatMulInteger: int32 product of ``a - a_zero_point`` (per row) with ``b - b_zero_point`` (per column)."""
    left = _centred(a, None if a_zero_point is None else _rowwise(a_zero_point))
    return _to_int32(torch.matmul(left, _centred(b, b_zero_point)))


def qlinear_matmul(
    a: torch.Tensor,
    a_scale: torch.Tensor,
    a_zero_point: torch.Tensor,
    b: torch.Tensor,
    b_scale: torch.Tensor,
    b_zero_point: torch.Tensor,
    y_scale: torch.Tensor,
    y_zero_point: torch.Tensor,
) -> torch.Tensor:
    """ONNX QLinearMatMul: a quantized product of quantized a and b; parameters per row of a, per column of b."""
    total = matmul_integer(a, b, a_zero_point, b_zero_point)
    columns = b_scale.reshape(()) if b_scale.numel() == 1 else b_scale
    factor = _rowwise(a_scale) * columns / _rowwise(y_scale)
    return _requantize(total, factor, _rowwise(y_zero_point))


def infer_matmul_integer(node: Node) -> list[ValueType]:
    """Type rule of MatMulInteger."""
    return [TensorType(DType.INT32, matmul_shape(node, input_type(node, 0).shape, input_type(node, 1).shape))]


def infer_qlinear_matmul(node: Node) -> list[ValueType]:
    """Type rule of QLinearMatMul."""
    shape = matmul_shape(node, input_type(node, 0).shape, input_type(node, 3).shape)
    return [TensorType(input_type(node, 7).dtype, shape)]


def _relate_product(node: Node, a: int, b: int, rows: tuple[int, ...], columns: tuple[int, ...]) -> Relation:
    """The relation of a matrix product; `rows` and `columns` are inputs with elements per row of a or column of b."""
    left = "k" if node.operand(a).rank == 1 else "... m k"
    right = "k" if node.operand(b).rank == 1 else "... k n"
    result = "..." + (" m" if "m" in left else "") + (" n" if "n" in right else "")
    specs = [""] * len(node.inputs)
    specs[a], specs[b] = left, right
    for indices, vector, matrix in ((rows, "m", ("m", "_")), (columns, "n", ("_", "n"))):
        for index in (i for i in indices if i < len(specs)):
            specs[index] = _parameter_spec(node.input(index), vector, matrix)
    return labels(node, f"{', '.join(specs)} -> {result}")


def _parameter_spec(value: Value | None, vector: str, matrix: tuple[str, str]) -> str:
    if value is None or value.shape is None or value.rank == 0:
        return ""
    names = (vector,) if value.rank == 1 else matrix
    tail = ["_" if extent == 1 else name for extent, name in zip(value.shape[-len(names) :], names, strict=True)]
    return " ".join(tail if value.rank == 1 else ["...", *tail])


def relate_matmul_integer(node: Node) -> Relation:
    """As MatMul's, with zero points per row of a and per column of b."""
    return _relate_product(node, 0, 1, (2,), (3,))


def relate_qlinear_matmul(node: Node) -> Relation:
    """As MatMul's, with scales and zero points per row of a and of y, and per column of b."""
    return _relate_product(node, 0, 3, (1, 2, 6, 7), (4, 5))


def _product_macs(node: Node) -> Dim:
    a, y = node.operand(0).shape, node.output.shape
    return None if a is None or y is None else D.mul(D.product(y), a[-1])


_INTEGERS = {0: (None, 2), 1: (None, 3)}
_QLINEAR = {0: (1, 2), 3: (4, 5)}

register(
    Operator(
        "ConvInteger", infer_conv_integer, conv_integer, relate_conv_integer, lambda n: _conv_macs(n, 1),
        codes=_INTEGERS,
    ),
    Operator(
        "QLinearConv", infer_qlinear_conv, qlinear_conv, relate_qlinear_conv, lambda n: _conv_macs(n, 3), codes=_QLINEAR
    ),
    Operator(
        "MatMulInteger", infer_matmul_integer, matmul_integer, relate_matmul_integer, _product_macs, codes=_INTEGERS
    ),
    Operator(
        "QLinearMatMul", infer_qlinear_matmul, qlinear_matmul, relate_qlinear_matmul, _product_macs, codes=_QLINEAR
    ),
)  # fmt: skip

__all__ = ["conv_integer", "matmul_integer", "qlinear_conv", "qlinear_matmul"]
