"""Matches and near misses of recognised attention, and of the scales inside it."""

import torch

from graphopt.ir import DType, Graph, TensorType
from graphopt.passes.fuse import attention as H
from graphopt.passes.fuse import move_scales as M
from graphopt.passes.fuse.recognition import OpsetLimit
from tests.passes.rule_cases import Cases

CASES = Cases()
match, miss = CASES.match, CASES.miss


# -- scales


@match(M.ScaledFactors, 2)
def both_factors_scaled(d):
    width = d.size(4)
    q, k = d.input("n", 3, width), d.input("n", 5, width)
    left = d.MatMul(d.Mul(q, d.full(0.5)), d.Mul(d.full(0.25, 1), d.Transpose(k, perm=[0, 2, 1])))
    return left, d.MatMul(d.Div(q, d.full(2)), d.Transpose(d.Mul(k, d.full(0.5)), perm=[0, 2, 1]))


@miss(M.ScaledFactors, reason="one number on both sides")
def factors_scaled_by_vectors(d):
    return d.MatMul(d.Mul(d.input("n", 4), d.weight(4)), d.Mul(d.input(4, 3), d.full(2)))


@miss(M.ScaledFactors, reason="change the shape")
def factors_that_the_scale_stretches(d):
    return d.MatMul(d.Mul(d.input(4, 4), d.full(2, 1, 1, 1)), d.Mul(d.input(4, 3), d.full(2)))


@miss(M.ScaledFactors, reason="used elsewhere")
def scaled_factor_that_is_read_elsewhere(d):
    a = d.Mul(d.input("n", 4), d.full(2))
    return d.MatMul(a, d.Mul(d.input(4, 3), d.full(2))), d.Relu(a)


@match(M.ScaledViews, 3)
def scaled_views_of_layers(d):
    x = d.input("n", 5, 8)

    def heads(bias=True):
        y = d.MatMul(x, d.weight(8, 8))
        y = d.Add(y, d.weight(8)) if bias else y
        return d.Transpose(d.Reshape(y, [0, 0, 2, 4]), perm=[0, 2, 1, 3])

    scores = d.MatMul(heads(), d.Transpose(heads(False), perm=[0, 1, 3, 2]))
    image = d.Reshape(d.Conv(d.input("n", 2, 3, 3), d.weight(4, 2, 1, 1)), [0, 4, 9])
    return d.Mul(heads(), d.full(0.5)), d.Div(scores, d.full(2.0)), d.Mul(image, d.full(0.1, 1))


@miss(M.ScaledFactors, reason="does not fit")
def half_factors_whose_scales_would_lose_their_digits(d):
    a, b = d.input(3, 4, dtype=DType.FLOAT16), d.input(4, 3, dtype=DType.FLOAT16)
    c = d.full(1e-3, dtype=torch.float16)
    return d.MatMul(d.Mul(a, c), d.Mul(b, c))


@miss(M.ScaledViews)
def view_of_a_custom_operator(d):
    y = d("Add", d.MatMul(d.input("n", 8), d.weight(8, 8)), d.weight(8), domain="custom")
    y.type = TensorType.make(DType.FLOAT32, ("n", 8))
    return d.Mul(d.Reshape(y, [0, 2, 4]), d.full(0.5))


@miss(M.ScaledViews, reason="no linear layer")
def scaled_views_of_something_else(d):
    x = d.Relu(d.input("n", 8))
    return d.Mul(d.Reshape(x, [0, 2, 4]), d.full(0.5)), d.Mul(d.MatMul(x, d.weight(8, 8)), d.full(0.5))


@miss(M.ScaledViews, reason="used elsewhere")
def scaled_view_that_is_read_elsewhere(d):
    y = d.Reshape(d.MatMul(d.input("n", 8), d.weight(8, 8)), [0, 2, 4])
    return d.Mul(y, d.full(0.5)), d.Relu(y)


@miss(M.ScaledViews, reason="no number")
def views_scaled_by_a_vector(d):
    return d.Mul(d.Reshape(d.MatMul(d.input("n", 8), d.weight(8, 8)), [0, 2, 4]), d.weight(4))


# -- attention


def _heads(d, length, size=4, heads=2):
    return d.input("n", heads, length, size)


@match(H.AttentionOfSoftmax, 4)
def attention(d):
    width = d.size(4)
    q, k, v = _heads(d, 3, width), _heads(d, 5, width), _heads(d, 5, 6)
    sideways = d.input("n", 5, 2, width)
    kt, kt2 = d.Transpose(k, perm=[0, 1, 3, 2]), d.Transpose(sideways, perm=[0, 2, 3, 1])
    kt3, kt4 = d.Transpose(k, perm=[0, 1, 3, 2]), d.Transpose(k, perm=[0, 1, 3, 2])
    mask, row = d.input(3, 5), d.input("n", 1, 3, 5)
    return (
        d.MatMul(d.Softmax(d.Mul(d.MatMul(q, kt), d.full(0.5)), axis=-1), v),
        d.MatMul(d.Softmax(d.Add(d.Div(d.MatMul(q, kt2), d.full(2, 1)), mask), axis=3), v),
        d.MatMul(d.Softmax(d.Add(row, d.MatMul(d.Mul(q, d.full(0.7)), kt3)), axis=-1), v),
        d.MatMul(d.Softmax(d.MatMul(q, kt4), axis=-1), v),
    )


@miss(H.AttentionOfSoftmax, reason="batch or heads")
def attention_with_fewer_key_heads(d):
    q, k, v = _heads(d, 3), _heads(d, 5, heads=1), _heads(d, 5, heads=1)
    return d.MatMul(d.Softmax(d.MatMul(q, d.Transpose(k, perm=[0, 1, 3, 2])), axis=-1), v)


@miss(H.AttentionOfSoftmax, reason="no positive number")
def attention_with_an_odd_scale(d):
    q, k, v = _heads(d, 3), _heads(d, 5), _heads(d, 5)
    scores = d.MatMul(q, d.Transpose(k, perm=[0, 1, 3, 2]))
    return d.MatMul(d.Softmax(d.Mul(scores, d.full(-0.5)), axis=-1), v)


@miss(H.AttentionOfSoftmax, reason="all queries and keys")
def attention_with_narrow_masks(d):
    q, k, v = _heads(d, 3), _heads(d, 5), _heads(d, 5)

    def masked(mask):
        scores = d.Add(d.MatMul(q, d.Transpose(k, perm=[0, 1, 3, 2])), mask)
        return d.MatMul(d.Softmax(scores, axis=-1), v)

    return masked(d.input(3, 1)), masked(d.input("n", 1, 1, 5)), masked(d.input(5))


@miss(H.AttentionOfSoftmax)
def attention_over_the_queries(d):
    q, k, v = _heads(d, 3), _heads(d, 5), _heads(d, 5)
    return d.MatMul(d.Softmax(d.MatMul(q, d.Transpose(k, perm=[0, 1, 3, 2])), axis=2), v)


@miss(H.AttentionOfSoftmax, reason="is an output of the graph")
def attention_whose_weights_are_returned(d):
    q, k, v = _heads(d, 3), _heads(d, 5), _heads(d, 5)
    weights = d.Softmax(d.MatMul(q, d.Transpose(k, perm=[0, 1, 3, 2])), axis=-1)
    return d.MatMul(weights, v), weights


@miss(H.AttentionOfSoftmax, reason="needs opset 23", make=lambda: H.AttentionOfSoftmax(OpsetLimit(Graph())))
def attention_in_a_file_of_today(d):
    q, k, v = _heads(d, 3), _heads(d, 5), _heads(d, 5)
    return d.MatMul(d.Softmax(d.MatMul(q, d.Transpose(k, perm=[0, 1, 3, 2])), axis=-1), v)
