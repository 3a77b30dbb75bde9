"""Matches and near misses of the rules that make ONNX Runtime's own operators."""

import torch

from graphopt.ir import DType
from graphopt.passes.runtime import blocks as B
from graphopt.passes.runtime import layers as L
from tests.passes.rule_cases import Cases

CASES = Cases()
match, miss = CASES.match, CASES.miss
# Kernels take float32 alone.
OTHERS = (DType.FLOAT64, DType.FLOAT16, DType.BFLOAT16)
SAME = {"pads": [1, 1, 1, 1]}


def _x(d, channels=4):
    return d.input("n", channels, 6, 6)


@match(L.FusedConvSum, 2, without=OTHERS)
def convolutions_with_a_skip(d):
    x, y = _x(d), _x(d)
    return (
        d.Add(d.Conv(x, d.weight(4, 4, 3, 3), d.weight(4), **SAME), d.Relu(x)),
        d.Add(d.Relu(y), d.Conv(y, d.weight(4, 2, 1, 1), group=2)),
    )


@miss(L.FusedConvSum, reason="another shape")
def sums_that_broadcast(d):
    x = _x(d)
    y, z = d.Conv(x, d.weight(4, 4, 1, 1)), d.Conv(x, d.weight(4, 4, 1, 1))
    return d.Add(y, d.input("n", 4, 1, 1)), d.Add(z, d.weight(4, 1, 1))


@match(L.FusedConvActivation, 7, without=OTHERS)
def convolutions_with_an_activation(d):
    c = d.size(4)
    x = _x(d, c)

    def made(bias=True):
        return d.Conv(x, d.weight(5, c, 3, 3), d.weight(5) if bias else None, **SAME)

    summed = d("FusedConv", x, d.weight(c, c, 1, 1), d.weight(c), d.Neg(x), domain="com.microsoft")
    return (
        d.Relu(made()), d.Sigmoid(made(False)), d.Tanh(made()), d.LeakyRelu(made(), alpha=0.3),
        d.Clip(made(), d.full(-0.5), d.full(1.5)), d.Clip(made(), d.full(0.25)), d.Relu(summed),
    )  # fmt: skip


@match(L.FusedConvActivation, without=OTHERS)
def convolution_with_a_hard_sigmoid(d):
    return d.HardSigmoid(d.Conv(_x(d), d.weight(5, 4, 1, 1)), alpha=0.3, beta=0.4)


@miss(L.FusedConvActivation, reason="limits are not numbers")
def convolutions_limited_by_something_else(d):
    y, z = d.Conv(_x(d), d.weight(4, 4, 1, 1)), d.Conv(_x(d), d.weight(4, 4, 1, 1))
    return d.Clip(z, d.full(2), d.full(1)), d.Relu(d.Elu(y))


@miss(L.FusedConvActivation, reason="used elsewhere")
def convolution_that_is_read_twice(d):
    y = d.Conv(_x(d), d.weight(4, 4, 1, 1))
    return d.Relu(y), d.Neg(y)


@miss(L.FusedConvActivation, L.FusedConvSum)
def doubles(d):
    x = d.input("n", 4, 6, 6, dtype=DType.FLOAT64)
    return d.Relu(d.MaxPool(x, kernel_shape=[2, 2])), d.Add(x, d.Neg(x))


@match(L.FusedGemmActivation, 3, without=OTHERS)
def products_with_an_activation(d):
    k = d.size(4)
    x = d.input("n", k)
    return (
        d.Relu(d.Gemm(x, d.weight(5, k), d.weight(5), transB=1)), d.Tanh(d.Gemm(x, d.weight(k, 5), alpha=0.5)),
        d.LeakyRelu(d.Gemm(x, d.weight(k, 5), d.weight(5)), alpha=0.2),
    )  # fmt: skip


@miss(L.FusedGemmActivation)
def products_with_another_activation(d):
    return d.Elu(d.Gemm(d.input("n", 4), d.weight(4, 5))), d.Relu(d.MatMul(d.input("n", 4), d.weight(4, 5)))


@match(L.FusedMatMulScale, 3, without=OTHERS)
def scaled_products(d):
    a, b = d.input("n", d.size(3), 4), d.input("n", 4, 5)
    turned = d("FusedMatMul", a, d.input("n", 5, 4), domain="com.microsoft", transB=1, alpha=0.5)
    return d.Mul(d.full(0.3), d.MatMul(a, b)), d.Div(d.MatMul(a, b), d.full(8, 1)), d.Mul(turned, d.full(0.25))


@miss(L.FusedMatMulScale, reason="no number")
def products_scaled_by_vectors(d):
    a, b = d.input("n", 3, 4), d.input("n", 4, 5)
    return d.Mul(d.MatMul(a, b), d.weight(5)), d.Mul(d.MatMul(a, b), d.full(2, 1, 1, 1, 1))


@match(L.FusedMatMulTranspose, 3, without=OTHERS)
def products_of_transposed_matrices(d):
    k = d.size(4)
    a, b = d.input("n", 3, k), d.input("n", 5, k)
    both = d.MatMul(d.Transpose(d.input("n", k, 3), perm=[0, 2, 1]), d.Transpose(b, perm=[0, 2, 1]))
    return d.MatMul(a, d.Transpose(b, perm=[0, 2, 1])), both


@miss(L.FusedMatMulTranspose)
def products_of_matrices_turned_otherwise(d):
    a, b = d.input("n", 3, 4), d.input(4, "n", 5)
    weight = d.Transpose(d.weight(5, 4), perm=[1, 0])
    return d.MatMul(a, d.Transpose(b, perm=[1, 0, 2])), d.MatMul(a, weight)


@match(B.FusedBiasGelu, 3, without=OTHERS)
def gelus(d):
    c = d.size(4)
    x = d.input("n", 3, c)
    return (
        d.Gelu(d.Add(x, d.weight(c))), d.Gelu(d.Add(d.weight(c), x), approximate="tanh"),
        d.Gelu(x, approximate="tanh"),
    )  # fmt: skip


@miss(B.FusedBiasGelu, reason="no vector")
def gelus_of_other_sums(d):
    x = d.input("n", 3, 4)
    return d.Gelu(d.Add(x, d.weight(3, 4))), d.Gelu(d.Add(x, d.full(1, 1)))


@miss(B.FusedBiasGelu, reason="no bias")
def gelu_alone(d):
    return d.Gelu(d.input("n", 4))


@match(B.FusedQuickGelu, 2, without=OTHERS)
def quick_gelus(d):
    x, y = d.input("n", d.size(4)), d.input("n", 4)
    return d.Mul(x, d.Sigmoid(d.Mul(x, d.full(1.702)))), d.Mul(d.Sigmoid(y), y)


@match(B.FusedQuickGelu, without=OTHERS, ort=False)  # ONNX Runtime has no Swish of opset 24 to compare with
def swish(d):
    return d.Swish(d.input("n", d.size(4)), alpha=0.7)


@miss(B.FusedQuickGelu, reason="slope is no number")
def gate_with_a_vector(d):
    x = d.input("n", 4)
    return d.Mul(x, d.Sigmoid(d.Mul(x, d.weight(4))))


def _sum(d, shape=("n", 3, 8)):
    return d.Add(d.input(*shape), d.input(*shape))


@match(B.FusedSkipNorm, 2, without=OTHERS)
def norms_of_sums(d):
    first = d.LayerNormalization(_sum(d), d.weight(8), d.weight(8), axis=-1, epsilon=1e-3)
    return first, d.LayerNormalization(_sum(d, ("n", 8)), d.weight(8), axis=1)


@match(B.FusedSkipNorm, without=OTHERS)
def rms_norm_of_a_sum(d):
    return d.RMSNormalization(_sum(d), d.weight(8), epsilon=1e-3)


@miss(B.FusedSkipNorm, B.FusedSkipNormAndSum, reason="another shape")
def norm_of_a_sum_that_broadcasts(d):
    return d.LayerNormalization(d.Add(d.input("n", 3, 8), d.input(1, 3, 8)), d.weight(8), d.weight(8))


@miss(B.FusedSkipNorm, reason="last dimension")
def norm_of_a_sum_over_two_dimensions(d):
    return d.LayerNormalization(_sum(d), d.weight(3, 8), axis=1)


@match(B.FusedSkipNormAndSum, 2, without=OTHERS)
def norms_of_a_residual_stream(d):
    x, y = d.input("n", 3, 8), d.input("n", 3, 8)
    total = d.Add(x, y)
    first = d.LayerNormalization(total, d.weight(8), d.weight(8), axis=-1)
    total = d.Add(total, first)
    return d.LayerNormalization(total, d.weight(8), d.weight(8)), total


def _split(d, length, heads=2, size=4, perm=(0, 2, 1, 3)):
    return d.Transpose(d.Reshape(d.input("n", length, heads * size), [0, 0, heads, size]), perm=perm)


def _put_back(d, y, size=8):
    return d.Reshape(d.Transpose(y, perm=[0, 2, 1, 3]), [0, 0, size])


@match(B.FusedAttention, 3, without=OTHERS)
def attention_in_primitives(d):
    length = d.size(3)
    mask = d.input("n", 1, length, 5)

    def attended(scale, masked):
        q, k, v = _split(d, length), _split(d, 5, perm=(0, 2, 3, 1)), _split(d, 5)
        scores = d.Mul(d.MatMul(q, k), d.full(scale))
        return _put_back(d, d.MatMul(d.Softmax(d.Add(scores, mask) if masked else scores, axis=-1), v))

    q, k, v = _split(d, 3), _split(d, 5), _split(d, 5)
    turned = d.MatMul(q, d.Transpose(k, perm=[0, 1, 3, 2]))
    plain = _put_back(d, d.MatMul(d.Softmax(d.Add(turned, d.input(3, 5)), axis=3), v))
    return attended(0.5, False), attended(0.3, True), plain


@match(B.FusedAttention, without=OTHERS)
def attention_of_one_transpose(d):
    """Queries, keys and values out of one product, as in ViT."""
    length = d.size(3)
    view = d.Reshape(d.input("n", length, 24), [0, 0, 3, 2, 4])
    turned = d.Transpose(view, perm=[2, 0, 3, 1, 4])
    q, k, v = (d.Gather(turned, d.constant(torch.tensor(index)), axis=0) for index in range(3))
    return _put_back(d, d.MatMul(d.Softmax(d.MatMul(q, d.Transpose(k, perm=[0, 1, 3, 2])), axis=-1), v))


@match(B.FusedAttention, without=OTHERS)
def attention_operator(d):
    y = d.Attention(_split(d, d.size(3)), _split(d, 5), _split(d, 5), scale=0.4)
    return _put_back(d, y)


@miss(B.FusedAttention, reason="not split off")
def attention_of_heads_from_elsewhere(d):
    q, k, v = (d.input("n", 2, 3, 4) for _ in range(3))
    return _put_back(d, d.Attention(q, k, v))


@miss(B.FusedAttention)
def causal_attention(d):
    return _put_back(d, d.Attention(_split(d, 3), _split(d, 3), _split(d, 3), is_causal=1))
