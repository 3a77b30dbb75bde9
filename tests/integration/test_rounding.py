"""The bound of the random round trips: as wide as rounding makes it, and no wider."""

import pytest
import torch

from graphopt.ir import DType, Graph, TensorType
from graphopt.ops.builder import Builder
from tests.rounding import TOLERANCE, is_near, spreads

X = torch.tensor([[1.5, -0.25, 3.0, 0.7]])


def drawn(draw, dtype=DType.FLOAT32):
    graph = Graph()
    x = graph.add_input("x", TensorType.make(dtype, ("n", 4)))
    b = Builder(graph)
    graph.add_output(draw(b, x), "y")
    return graph


def scale(graph, x):
    from graphopt.runtime import run

    return float(run(graph, [x])[0].abs().max())


def test_well_conditioned_results_hardly_move():
    graph = drawn(lambda b, x: b.Softmax(b.MatMul(x, torch.eye(4) + 0.5), axis=-1))
    (far,) = spreads(graph, [X])
    assert 0 < far < 1e-5 * scale(graph, X)


def test_what_is_moved_clipped_or_counted_does_not_move():
    graph = drawn(lambda b, x: b.Max(b.Transpose(b.Concat(x, b.Relu(x), axis=0), perm=[1, 0]), torch.tensor(0.5)))
    assert spreads(graph, [X]) == [0.0]
    assert spreads(drawn(lambda b, x: b.Add(x, x), DType.INT64), [X.long()]) == [0.0]


def cancelled(b, x):
    return b.Sub(b.Exp(b.Log(b.Abs(x))), b.Abs(x))


def equal_rows(b, x):
    products = b.MatMul(b.Concat(x, x, axis=0), torch.rand(4, 4))
    return b.LayerNormalization(b.Transpose(products, perm=[1, 0]), torch.ones(2))


def far_from_zero(b, x):
    return b.LayerNormalization(b.Add(b.Mul(x, torch.tensor(1e-3)), torch.tensor(7.3)), torch.ones(4))


@pytest.mark.parametrize("draw", [cancelled, equal_rows, far_from_zero])
def test_what_cancels_moves_by_more_than_the_tolerance(draw):
    graph = drawn(draw)
    (far,) = spreads(graph, [X])
    assert far > TOLERANCE * scale(graph, X)


def test_near_and_not_near():
    want = torch.tensor([1.0, -2.0])
    assert is_near(want * (1 + TOLERANCE / 2), want)
    assert not is_near(want * (1 + 3 * TOLERANCE), want)
    assert is_near(want * (1 + 3 * TOLERANCE), want, spread=1e-4)
    assert not is_near(want * 1.1, want, spread=1e-4)
    assert not is_near(want[:1], want, spread=9.0)
    assert not is_near(torch.tensor([1, 3]), torch.tensor([1, 2]), spread=9.0)
