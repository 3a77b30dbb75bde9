"""Bounds and quotients of sizes, broadcasting of bounded sizes, and inline computations under fx."""

import numpy as np
import pytest
import torch
from torch import fx

from graphopt.ir import DType, Graph, Node, TensorType
from graphopt.ir import dims as D
from graphopt.ops import find
from graphopt.ops.infer import broadcast
from graphopt.ops.vectors import at_least, maximum, minimum, quotient, rewrite

N, M = D.symbol("n"), D.symbol("m")


@pytest.mark.parametrize(
    ("a", "b", "least", "most"),
    [(3, 5, 3, 5), (N, 0, 0, N), (N, 1, 1, N), (N - 1, N, N - 1, N), (2 * N, N, N, 2 * N), (None, 3, None, None)],
)
def test_bounds_that_hold_for_all_sizes(a, b, least, most):
    assert minimum(a, b) == minimum(b, a) == least
    assert maximum(a, b) == maximum(b, a) == most


def test_bounds_that_depend_on_sizes_stay_expressions():
    for bound in (minimum, maximum):
        assert [D.substitute(bound(N, 4), {"n": size}) for size in (2, 7)] == [bound(2, 4), bound(7, 4)]
    assert not at_least(N, M)
    assert not at_least(N, 2)


@pytest.mark.parametrize(
    ("dims", "by", "want"),
    [((N, 12, 64), (N, 768), 1), ((N, 12, 64), (64,), 12 * N), ((12, 64), (768,), 1), ((4,), (0,), None),
     ((None, 4), (2,), None), ((N, M, 6), (M, 2), 3 * N)],
)  # fmt: skip
def test_quotient(dims, by, want):
    assert quotient(dims, by) == want


def test_a_bounded_size_broadcasts_with_its_bound():
    node = Node("Add")
    assert broadcast(node, (minimum(N, 512), 8), (N, 1)) == (N, 8)
    assert broadcast(node, (N, 8), (minimum(N, 512), 1)) == (N, 8)
    assert broadcast(node, (minimum(N, 512),), (M,)) == (None,)


def test_rewriting_what_is_not_known_is_refused():
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.FLOAT32, (2,)))
    node = graph.append(Node("Reshape", [x, graph.add_input("shape", TensorType(DType.INT64, (1,)))]))
    with pytest.raises(ValueError, match="not known"):
        rewrite(node, 1, None, {0: 3})


X = torch.from_numpy(np.random.default_rng(0).random((3, 1, 4)))


@pytest.mark.parametrize(
    ("op", "inputs", "steering", "attributes"),
    [("Concat", [X, X], [], {"axis": 1}), ("Gather", [X, torch.tensor([[1, -1]])], [], {"axis": -1}),
     ("Gather", [X, torch.tensor(0)], [], {"axis": 0}), ("Squeeze", [X], [[1]], {}),
     ("GatherElements", [X, torch.tensor([[[-1]]])], [], {"axis": 2})],
)  # fmt: skip
def test_inline_computations_trace(op, inputs, steering, attributes):
    record = find(op)
    assert record.inline
    graph = fx.Graph()
    tracer = fx.proxy.GraphAppendingTracer(graph)
    proxies = [fx.Proxy(graph.placeholder(f"x{i}"), tracer) for i in range(len(inputs))]
    graph.output(record.compute(*proxies, *steering, **attributes).node)
    traced = fx.GraphModule(torch.nn.Module(), graph)
    assert torch.equal(traced(*inputs), record.compute(*inputs, *steering, **attributes))
