"""Motifs of random graphs: activations and norms written out, some with something wrong in them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from graphopt.ir import Value

if TYPE_CHECKING:
    from tests.bench.fuzz_graphs import Grower


def gelu(g: Grower, x: Value) -> Value:
    root = g.random.choice([math.sqrt(2), math.sqrt(2), 1.5])
    erf = g.d.Add(g.d.Erf(g.d.Div(x, g.full(root))), g.full(1))
    if g.random.random() < 0.1:
        g.pool.append(erf)
    return g.d.Mul(g.d.Mul(x, erf), g.full(0.5))


def gelu_tanh(g: Grower, x: Value) -> Value:
    cube = g.d.Mul(g.d.Pow(x, g.full(3)), g.full(0.044715))
    inner = g.d.Mul(g.d.Add(x, cube), g.full(math.sqrt(2 / math.pi)))
    return g.d.Mul(g.d.Mul(x, g.full(0.5)), g.d.Add(g.d.Tanh(inner), g.full(g.random.choice([1.0, 1.0, 0.9]))))


def gate(g: Grower, x: Value) -> Value:
    six = g.d.Clip(g.d.Add(x, g.full(3)), g.full(0), g.full(6))
    kind = g.random.choice(["swish", "hard", "hard2", "mish", "softsign", "leaky"])
    if kind == "swish":
        return g.d.Mul(x, g.d.Sigmoid(x))
    if kind == "mish":
        return g.d.Mul(x, g.d.Tanh(g.d.Softplus(x)))
    if kind == "softsign":
        return g.d.Div(x, g.d.Add(g.d.Abs(x), g.full(1)))
    if kind == "leaky":
        return g.d.Max(x, g.d.Mul(x, g.full(g.random.choice([0.1, 2.0]))))
    return g.d.Mul(x, g.d.Div(six, g.full(6))) if kind == "hard" else g.d.Div(g.d.Mul(x, six), g.full(6))


def norm(g: Grower, x: Value) -> Value | None:
    axes = g.random.choice([[-1], [-2, -1], [1]])
    if (x.rank or 0) < 3 or not all(g.extent(x, axis) for axis in axes):
        return None
    difference = g.d.Sub(x, g.d.ReduceMean(x, axes, keepdims=1))
    variance = g.d.ReduceMean(g.d.Mul(difference, difference), axes, keepdims=1)
    y = g.d.Div(difference, g.d.Sqrt(g.d.Add(variance, g.full(0.01))))
    shape = g.random.choice([(g.extent(x, -1),), (1,), (g.extent(x, -2), 1)])
    if not all(shape):
        return y
    return g.d.Add(g.d.Mul(y, g.weight(*shape)), g.weight(*shape))


def group_norm(g: Grower, x: Value) -> Value | None:
    channels = g.extent(x, 1)
    if x.rank != 4 or channels % 2 or not channels:
        return None
    y = g.d.Reshape(x, [0, 2, -1])
    y = g.d.Reshape(g.d.InstanceNormalization(y, g.full(1, 2), g.full(0, 2), epsilon=0.01), g.d.Shape(x))
    return g.d.Add(g.d.Mul(y, g.weight(channels, 1, 1)), g.weight(channels, 1, 1))


def softmax(g: Grower, x: Value) -> Value:
    axis = g.axis(x)
    if g.random.random() < 0.3:
        return g.d.Softmax(x, axis=axis)
    exp = g.d.Exp(g.d.Sub(x, g.d.ReduceMax(x, [axis], keepdims=1)))
    return g.d.Div(exp, g.d.ReduceSum(exp, [axis], keepdims=1))
