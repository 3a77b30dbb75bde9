"""ONNX Runtime's own quantized operators, those that its tools leave in files: domain com.microsoft.

They are computed by their definition: dequantized, computed in float, quantized again. ONNX Runtime's kernels round at
other places, so results differ by a step of the output here and there.
"""

from __future__ import annotations

from typing import Any

import torch

from graphopt.errors import ShapeError
from graphopt.ir import DType, Node, Shape, TensorType, ValueType
from graphopt.ir import dims as D
from graphopt.ops.concat import relate_joined
from graphopt.ops.infer import broadcast, input_type, normalise_axis
from graphopt.ops.matmul import broadcast_to_matrix, gemm_macs
from graphopt.ops.pool import average_pool, infer_pool, relate_pool
from graphopt.ops.quant import all_dims, dequantize, dynamic_quantize, quantize
from graphopt.ops.record import Operator, attribute, hands_on, register
from graphopt.ops.relation import Relation, labels
from graphopt.ops.rnn import lstm, recurrent_macs, relate_units

DOMAIN = "com.microsoft"


def _real(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None, axis: int = 0) -> torch.Tensor:
    return dequantize(x, scale, zero, axis=axis)


# -- weights of a few bits


def unpack_nbits(b: torch.Tensor, bits: int, columns: int) -> torch.Tensor:
    """The codes [rows, columns] in bytes [rows, blocks, bytes per block], lowest bits first."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
    codes: torch.Tensor = (b.unsqueeze(-1) >> shifts) & (2**bits - 1)
    return codes.reshape(b.shape[0], -1)[:, :columns]


def matmul_nbits(
    a: torch.Tensor,
    b: torch.Tensor,
    scales: torch.Tensor,
    zero_points: torch.Tensor | None = None,
    g_idx: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    K: int,
    N: int,
    bits: int = 4,
    block_size: int,
    accuracy_level: int = 0,
    weight_prepacked: int = 0,
) -> torch.Tensor:
    """com.microsoft MatMulNBits: ``a @ w.T`` with w [N, K] of `bits` bits, a scale per block of a row.

    Args:
        a: [..., K].
        b: uint8 [N, blocks, block_size * bits / 8].
        scales: [N * blocks] or [N, blocks].
        zero_points: packed like `b` along blocks, or floats [N, blocks]; ``2^(bits-1)`` where missing.
        g_idx: not used by ONNX Runtime any more.
        bias: [N].
        K: columns of `a`.
        N: columns of the result.
        bits: of a code: 2, 4 or 8.
        block_size: elements of a row that share a scale.
        accuracy_level: how ONNX Runtime may round on the way; plays no part here.
        weight_prepacked: for CUDA; plays no part here.
    """
    blocks = -(-K // block_size)
    codes = unpack_nbits(b.reshape(N, blocks, -1), bits, blocks * block_size).reshape(N, blocks, block_size)
    if zero_points is None:
        zero = torch.full((N, blocks), 2.0 ** (bits - 1))
    elif zero_points.is_floating_point():
        zero = zero_points.reshape(N, blocks)
    else:
        zero = unpack_nbits(zero_points.reshape(N, 1, -1), bits, blocks).float()
    weight = (codes.to(scales.dtype) - zero.to(scales.dtype)[..., None]) * scales.reshape(N, blocks, 1)
    y = a @ weight.reshape(N, -1)[:, :K].T.to(a.dtype)
    return y if bias is None else y + bias


def infer_matmul_nbits(node: Node) -> list[ValueType]:
    """Type rule of MatMulNBits: [..., N]."""
    a = input_type(node, 0)
    if a.shape is None:
        return [TensorType(a.dtype, None)]
    if isinstance(a.shape[-1], int) and a.shape[-1] != attribute(node, "K"):
        raise ShapeError(f"A has {a.shape[-1]} columns, K is {attribute(node, 'K')}", where=node.describe())
    return [TensorType(a.dtype, (*a.shape[:-1], attribute(node, "N")))]


def _nbits_macs(node: Node) -> D.Dim:
    shape = node.output.shape
    return None if shape is None else D.mul(D.product(shape), attribute(node, "K"))


# -- LSTM


@hands_on(lstm, without=("layout",))
def dynamic_quantize_lstm(
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None = None,
    sequence_lens: torch.Tensor | None = None,
    initial_h: torch.Tensor | None = None,
    initial_c: torch.Tensor | None = None,
    p: torch.Tensor | None = None,
    w_scale: torch.Tensor | None = None,
    w_zero_point: torch.Tensor | None = None,
    r_scale: torch.Tensor | None = None,
    r_zero_point: torch.Tensor | None = None,
    **attributes: Any,
) -> tuple[torch.Tensor, ...]:
    """com.microsoft DynamicQuantizeLSTM: w [dirs, I, 4*H] and r [dirs, H, 4*H] in integers, x quantized on the way.

    Scales are [dirs] or [dirs, 4*H]. The hidden state is not rounded here, which ONNX Runtime does at each step.
    `attributes` are those of `lstm`.
    """
    if w_scale is None or r_scale is None:
        raise ShapeError("W_scale and R_scale are needed", where="DynamicQuantizeLSTM")
    inputs, scale, zero = dynamic_quantize(x)
    forward, again = _lstm_weight(w, w_scale, w_zero_point), _lstm_weight(r, r_scale, r_zero_point)
    x = _real(inputs, scale, zero)
    return lstm(x, forward, again, b, sequence_lens, initial_h, initial_c, p, **attributes)


def _lstm_weight(stored: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None) -> torch.Tensor:
    directions = stored.shape[0]
    offset = 0.0 if zero is None else zero.float().reshape(directions, 1, -1)
    return ((stored.float() - offset) * scale.reshape(directions, 1, -1)).transpose(1, 2).contiguous()


def infer_dynamic_quantize_lstm(node: Node) -> list[ValueType]:
    """Type rule of DynamicQuantizeLSTM: outputs [T, dirs, B, H], last states [dirs, B, H]."""
    x, r = input_type(node, 0), input_type(node, 2).shape
    if x.shape is None or r is None:
        return [TensorType(DType.FLOAT32, None)] * len(node.outputs)
    time, batch, directions, hidden = *x.shape[:2], r[0], r[1]
    state = (directions, batch, hidden)
    shapes: list[Shape] = [(time, directions, batch, hidden), state, state]
    return [TensorType(DType.FLOAT32, shape) for shape in shapes[: len(node.outputs)]]


def relate_dynamic_quantize_lstm(node: Node) -> Relation:
    """As LSTM's, with columns of weights in place of rows, and scales and zero points for each direction or column."""
    columns = "!dirs (!gates h)"
    w, r = (f"!dirs {rows} (!gates h)" for rows in "ih")
    steps = ["" if each is None else "!dirs" if each.rank == 1 else columns for each in map(node.input, range(8, 12))]
    left = ["!t n i", w, r, "!dirs (!biases h)", "n", "!dirs n h", "!dirs n h", "!dirs (!peepholes h)", *steps]
    return relate_units(node, "LSTM", f"{', '.join(left)} -> !t !dirs n h, !dirs n h, !dirs n h")


# -- one operator on quantized numbers


def qlinear_add(
    a: torch.Tensor, a_scale: torch.Tensor, a_zero: torch.Tensor | None, b: torch.Tensor, b_scale: torch.Tensor,
    b_zero: torch.Tensor | None, y_scale: torch.Tensor, y_zero: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """com.microsoft QLinearAdd."""
    return quantize(_real(a, a_scale, a_zero) + _real(b, b_scale, b_zero), y_scale, y_zero)


def qlinear_mul(
    a: torch.Tensor, a_scale: torch.Tensor, a_zero: torch.Tensor | None, b: torch.Tensor, b_scale: torch.Tensor,
    b_zero: torch.Tensor | None, y_scale: torch.Tensor, y_zero: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """com.microsoft QLinearMul."""
    return quantize(_real(a, a_scale, a_zero) * _real(b, b_scale, b_zero), y_scale, y_zero)


def qlinear_sigmoid(
    x: torch.Tensor, x_scale: torch.Tensor, x_zero: torch.Tensor | None, y_scale: torch.Tensor,
    y_zero: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """com.microsoft QLinearSigmoid."""
    return quantize(_real(x, x_scale, x_zero).sigmoid(), y_scale, y_zero)


def qlinear_leaky_relu(
    x: torch.Tensor, x_scale: torch.Tensor, x_zero: torch.Tensor | None, y_scale: torch.Tensor,
    y_zero: torch.Tensor | None = None, *, alpha: float = 0.01,
) -> torch.Tensor:  # fmt: skip
    """com.microsoft QLinearLeakyRelu."""
    return quantize(torch.nn.functional.leaky_relu(_real(x, x_scale, x_zero), alpha), y_scale, y_zero)


def qlinear_global_average_pool(
    x: torch.Tensor, x_scale: torch.Tensor, x_zero: torch.Tensor, y_scale: torch.Tensor, y_zero: torch.Tensor,
    *, channels_last: int = 0,
) -> torch.Tensor:  # fmt: skip
    """com.microsoft QLinearGlobalAveragePool."""
    first = 1 if channels_last else 2
    dims = list(range(first, first + x.dim() - 2))
    return quantize(_real(x, x_scale, x_zero).mean(dims, keepdim=True), y_scale, y_zero)


@hands_on(average_pool, without=("dilations",))
def qlinear_average_pool(
    x: torch.Tensor, x_scale: torch.Tensor, x_zero: torch.Tensor | None, y_scale: torch.Tensor,
    y_zero: torch.Tensor | None = None, **attributes: Any,
) -> torch.Tensor:  # fmt: skip
    """com.microsoft QLinearAveragePool, channels first; `attributes` are those of `average_pool`."""
    return quantize(average_pool(_real(x, x_scale, x_zero), **attributes), y_scale, y_zero)


def qlinear_concat(
    y_scale: torch.Tensor, y_zero: torch.Tensor, *parts: torch.Tensor, axis: int
) -> torch.Tensor:  # fmt: skip
    """com.microsoft QLinearConcat: the parts follow as tensor, scale, zero point."""
    triples = zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    return quantize(torch.cat([_real(*triple) for triple in triples], axis), y_scale, y_zero)


def qgemm(
    a: torch.Tensor, a_scale: torch.Tensor, a_zero: torch.Tensor, b: torch.Tensor, b_scale: torch.Tensor,
    b_zero: torch.Tensor, c: torch.Tensor | None = None, y_scale: torch.Tensor | None = None,
    y_zero: torch.Tensor | None = None, *, alpha: float = 1.0, transA: int = 0, transB: int = 0,
) -> torch.Tensor:  # fmt: skip
    """com.microsoft QGemm; c is int32 of scale ``alpha * a_scale * b_scale``. Float without a scale of the output."""
    left, right = _real(a, a_scale, a_zero), _real(b, b_scale, b_zero, axis=0 if transB else 1)
    y = alpha * ((left.T if transA else left) @ (right.T if transB else right))
    if c is not None:
        y = y + c * (alpha * a_scale * b_scale)
    return y if y_scale is None else quantize(y, y_scale, y_zero)


def _relate_binary(node: Node) -> Relation:
    return labels(node, "..., -, -, ..., -, -, -, - -> ...")


def _relate_unary(node: Node) -> Relation:
    return labels(node, "..., -, -, -, - -> ...")


def _relate_global_pool(node: Node) -> Relation:
    ones = " ".join("_" * ((node.output.rank or 2) - 2))
    last = node.attributes.get("channels_last", 0)
    return labels(node, f"n * c -> n {ones} c" if last else f"n c * -> n c {ones}")


def _relate_concat(node: Node) -> Relation:
    return relate_joined(node, [value for value in node.inputs[2::3] if value is not None])


def _relate_gemm(node: Node) -> Relation:
    """As Gemm's, with a scale and zero point for each column of b."""
    a = "k m" if attribute(node, "transA") else "m k"
    b = "n k" if attribute(node, "transB") else "k n"
    scale, zero, c = (broadcast_to_matrix(node.input(i)) for i in (4, 5, 6))
    return labels(node, f"{a}, -, -, {b}, {scale}, {zero}, {c} -> m n")


def _infer_binary(node: Node) -> list[ValueType]:
    a, b = input_type(node, 0), input_type(node, 3)
    return [TensorType(a.dtype, broadcast(node, a.shape, b.shape))]


def _infer_same(node: Node) -> list[ValueType]:
    return [input_type(node, 0)]


def _infer_global_pool(node: Node) -> list[ValueType]:
    x = input_type(node, 0)
    if x.shape is None:
        return [x]
    ones = (1,) * (len(x.shape) - 2)
    last = node.attributes.get("channels_last", 0)
    return [TensorType(x.dtype, (x.shape[0], *ones, x.shape[-1]) if last else (*x.shape[:2], *ones))]


def _infer_concat(node: Node) -> list[ValueType]:
    shapes = [input_type(node, i).shape for i in range(2, len(node.inputs), 3)]
    dtype = input_type(node, 1).dtype
    if any(shape is None for shape in shapes):
        return [TensorType(dtype, None)]
    known = [shape for shape in shapes if shape is not None]
    axis = normalise_axis(attribute(node, "axis"), len(known[0]), node)
    extent: D.Dim = 0
    for shape in known:
        extent = D.add(extent, shape[axis])
    return [TensorType(dtype, (*known[0][:axis], extent, *known[0][axis + 1 :]))]


def _infer_gemm(node: Node) -> list[ValueType]:
    a, b = input_type(node, 0).shape, input_type(node, 3).shape
    dtype = DType.FLOAT32 if node.input(8) is None else input_type(node, 8).dtype
    if a is None or b is None:
        return [TensorType(dtype, None)]
    return [TensorType(dtype, (a[1 if attribute(node, "transA") else 0], b[0 if attribute(node, "transB") else 1]))]


#: Both operands are followed by their scale and zero point.
_TWO = {0: (1, 2), 3: (4, 5)}

register(
    Operator("MatMulNBits", infer_matmul_nbits, matmul_nbits, macs=_nbits_macs, domain=DOMAIN),
    Operator(
        "DynamicQuantizeLSTM",
        infer_dynamic_quantize_lstm,
        dynamic_quantize_lstm,
        relate_dynamic_quantize_lstm,
        recurrent_macs,
        domain=DOMAIN,
        normalises=all_dims,
        addends=(3, 5, 6),
        codes={1: (8, 9), 2: (10, 11)},
    ),
    Operator("QLinearAdd", _infer_binary, qlinear_add, _relate_binary, domain=DOMAIN, codes=_TWO),
    Operator("QLinearMul", _infer_binary, qlinear_mul, _relate_binary, domain=DOMAIN, codes=_TWO),
    Operator("QLinearSigmoid", _infer_same, qlinear_sigmoid, _relate_unary, domain=DOMAIN),
    Operator("QLinearLeakyRelu", _infer_same, qlinear_leaky_relu, _relate_unary, domain=DOMAIN),
    Operator(
        "QLinearGlobalAveragePool", _infer_global_pool, qlinear_global_average_pool, _relate_global_pool, domain=DOMAIN
    ),
    Operator("QLinearAveragePool", infer_pool, qlinear_average_pool, relate_pool, domain=DOMAIN),
    Operator("QLinearConcat", _infer_concat, qlinear_concat, _relate_concat, domain=DOMAIN),
    Operator("QGemm", _infer_gemm, qgemm, _relate_gemm, gemm_macs, domain=DOMAIN, codes=_TWO),
)
