"""Matches and near misses of matrix products: Gemm, and products behind one another."""

import torch

from graphopt.ir import DType
from graphopt.passes.fuse import fuse_gemm as G
from graphopt.passes.fuse import fuse_linear as L
from tests.passes.rule_cases import Cases

CASES = Cases()
match, miss = CASES.match, CASES.miss


# -- matrix products


@match(G.MatMulAdd, 2)
def matmul_add(d):
    y = d.Add(d.MatMul(d.input("n", 4), d.weight(4, 6)), d.weight(6))
    w = d.Transpose(d.weight(6, 4, name="fc.weight"), perm=[1, 0])
    return y, d.Add(d.weight(6, name="fc.bias"), d.MatMul(d.input("n", 4), w))


@match(G.MatMulAdd)
def matmul_add_of_computed_operands(d):
    return d.Add(d.MatMul(d.input("n", 4), d.input(4, 6)), d.input("n", 6))


@miss(G.MatMulAdd)
def batched_matmul_add(d):
    return d.Add(d.MatMul(d.input("n", 3, 4), d.weight(4, 6)), d.weight(6))


@miss(G.MatMulAdd, reason="stretches")
def matmul_plus_what_stretches_it(d):
    return d.Add(d.MatMul(d.input(1, 4), d.weight(4, 6)), d.weight(3, 6))


@miss(G.MatMulAdd, reason="no bias")
def linear_layer_plus_a_skip(d):
    x = d.input("n", 4)
    return d.Add(d.MatMul(x, d.weight(4, 4)), x)


@miss(G.MatMulAdd)
def integer_matmul_add(d):
    x = d.input("n", 4, dtype=DType.INT32)
    return d.Add(d.MatMul(x, d.full(2, 4, 6, dtype=torch.int32)), d.full(1, 6, dtype=torch.int32))


@match(L.LinearLinear, 2)
def linear_chain(d):
    x = d.Gemm(d.input("n", 4), d.weight(8, 4), d.weight(8), transB=1)
    y = d.Add(d.MatMul(d.input("n", 3, 4), d.weight(4, 8)), d.weight(8))
    return d.Gemm(x, d.weight(8, 4), d.weight(4), alpha=0.5), d.Add(d.MatMul(y, d.weight(8, 3)), d.weight(3))


@match(L.LinearLinear, 2)
def three_linears_of_transposed_parameters(d):
    x = d.input("n", 3, 4)
    for i in range(3):
        w = d.Transpose(d.weight(4, 4, name=f"fc{i}.weight"), perm=[1, 0])
        x = d.Add(d.MatMul(x, w), d.weight(4, name=f"fc{i}.bias"))
    return x


@miss(L.LinearLinear, reason="more multiplications")
def bottleneck(d):
    return d.MatMul(d.MatMul(d.input("n", 8), d.weight(8, 2)), d.weight(2, 8))


@miss(L.LinearLinear)
def linears_with_an_activation_between(d):
    return d.MatMul(d.Relu(d.MatMul(d.input("n", 4), d.weight(4, 4))), d.weight(4, 4))


# -- linear layers between reshapes


@match(G.LinearBetweenViews)
def linear_between_reshapes(d):
    x = d.Relu(d.input("n", 3, d.size(4), 6))
    y = d.MatMul(d.Reshape(x, [-1, 3, 6]), d.weight(6, 8))
    return d.Reshape(d.Add(d.weight(8), y), [-1, 3, 2, 4])


@miss(G.LinearBetweenViews, reason="stands for dimensions")
def linear_before_a_reshape_that_copies_dimensions(d):
    y = d.Add(d.MatMul(d.Reshape(d.input("n", 18), [-1, 3, 6]), d.weight(6, 8)), d.weight(8))
    return d.Reshape(y, [0, 0, 2, 4])


@miss(G.LinearBetweenViews, reason="used elsewhere")
def linear_of_a_reshape_that_is_read_elsewhere(d):
    x = d.Reshape(d.input("n", 18), [-1, 3, 6])
    return d.Reshape(d.Add(d.MatMul(x, d.weight(6, 8)), d.weight(8)), [-1, 24]), d.Relu(x)


@miss(G.LinearBetweenViews, reason="no matrix")
def product_with_a_bias_per_row(d):
    x = d.Reshape(d.input("n", 18), [-1, 3, 6])
    return d.Reshape(d.Add(d.MatMul(x, d.weight(6, 8)), d.weight(3, 1)), [-1, 24])
