"""Random operators: types as stated, moments as asked, repeatable with a seed."""

import pytest
import torch

from graphopt.ir import DType, Graph, Node, TensorType
from graphopt.ops import execute, find, record_of

LIKE = ["RandomNormalLike", "RandomUniformLike", "Bernoulli"]


def run(op, inputs=(), **attributes):
    graph = Graph()
    node = graph.append(
        Node(op, [graph.add_input(f"x{i}", TensorType.of(x)) for i, x in enumerate(inputs)], attributes)
    )
    (result,) = execute(node, inputs)
    assert record_of(node).infer(node) == [TensorType.of(result)]
    return result


def test_moments():
    normal = run("RandomNormal", shape=(10000,), mean=3.0, scale=2.0, seed=1.0)
    assert abs(normal.mean() - 3) < 0.1
    assert abs(normal.std() - 2) < 0.1
    uniform = run("RandomUniform", shape=(100, 100), low=-1.0, high=3.0, seed=1.0)
    assert uniform.min() >= -1
    assert uniform.max() <= 3
    assert abs(uniform.mean() - 1) < 0.1
    coin = run("Bernoulli", [torch.full((10000,), 0.25)], seed=1.0)
    assert abs(coin.mean() - 0.25) < 0.03
    drawn = run("Multinomial", [torch.tensor([[0.25, 0.75]]).log()], sample_size=10000, seed=1.0)
    assert drawn.dtype == torch.int32
    assert abs(drawn.float().mean() - 0.75) < 0.03


@pytest.mark.parametrize("op", LIKE)
def test_dtypes_and_seeds(op):
    x = torch.full((3, 4), 0.5)
    assert run(op, [x]).dtype == torch.float32
    assert run(op, [x], dtype=int(DType.FLOAT64)).dtype == torch.float64
    assert torch.equal(run(op, [x], seed=4.0), run(op, [x], seed=4.0))


@pytest.mark.parametrize("op", [*LIKE, "RandomNormal", "RandomUniform", "Multinomial"])
def test_random_operators_say_so(op):
    assert find(op).random
