"""The masked reference, by hand."""

import pytest
import torch

from graphopt.analysis import propagate
from graphopt.ir import DType, Graph, TensorType
from graphopt.runtime import run
from graphopt.runtime.masked import run_masked

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def graph_of(build, *shape):
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, shape or (2, 4)))
    graph.add_output(build(graph, x), "y")
    propagate(graph)
    return graph


def weight(graph, name, *shape, **kwargs):
    data = torch.randn(shape, generator=torch.Generator().manual_seed(len(name) + sum(shape)))
    return graph.add_constant(data, name, **kwargs)


def mlp(op="Relu"):
    return graph_of(
        lambda g, x: g.add("MatMul", g.add(op, g.add("MatMul", x, weight(g, "w", 4, 6))), weight(g, "v", 6, 3))
    )


KEPT = {"w": {1: [0, 2, 5]}, "v": {0: [0, 2, 5]}}


def test_removed_slices_are_zeroed():
    graph = mlp()
    w, v = (value.data for value in graph.constants)
    want = torch.relu(X @ w[:, [0, 2, 5]]) @ v[[0, 2, 5]]
    torch.testing.assert_close(run_masked(graph, [X], KEPT, {})[0], want)
    assert torch.equal(w, graph.constants.__iter__().__next__().data)
    torch.testing.assert_close(run_masked(graph, {"x": X}, {}, {})[0], run(graph, [X])[0])


@pytest.mark.parametrize("op", ["Sigmoid", "Exp", "Cos", "Log", "Reciprocal"])
def test_what_a_function_makes_of_zero_does_not_matter(op):
    graph = mlp(op)
    for value in graph.constants:
        value.data = value.data.abs() + 0.1
    w, v = (value.data for value in graph.constants)
    x = X.abs() + 0.1
    functions = {"Sigmoid": torch.sigmoid, "Exp": torch.exp, "Cos": torch.cos, "Log": torch.log,
                 "Reciprocal": torch.reciprocal}  # fmt: skip
    want = functions[op](x @ w[:, [0, 2, 5]]) @ v[[0, 2, 5]]
    torch.testing.assert_close(run_masked(graph, [x], KEPT, {})[0], want)


def test_infinity_of_the_original_itself_is_kept():
    def build(g, x):
        hidden = g.add("Add", g.add("MatMul", x, weight(g, "w", 4, 6)), g.add_constant(torch.tensor(-torch.inf)))
        return g.add("MatMul", g.add("Exp", hidden), weight(g, "v", 6, 3))

    assert torch.equal(run_masked(graph_of(build), [X], KEPT, {})[0], torch.zeros(2, 3))


def test_normalisation_runs_over_what_is_kept():
    def build(g, x):
        hidden = g.add("MatMul", x, weight(g, "w", 4, 6))
        normal = g.add("LayerNormalization", hidden, weight(g, "scale", 6), weight(g, "bias", 6))
        normal.producer.name = "norm"
        hidden.name = "hidden"
        return g.add("MatMul", normal, weight(g, "v", 6, 3))

    graph = graph_of(build)
    data = {value.name: value.data for value in graph.constants}
    kept = [0, 2, 5]
    normal = torch.nn.functional.layer_norm(X @ data["w"][:, kept], (3,), data["scale"][kept], data["bias"][kept])
    names = {**KEPT, "scale": {0: kept}, "bias": {0: kept}}
    got = run_masked(graph, [X], names, {"hidden": {1: kept}})[0]
    torch.testing.assert_close(got, normal @ data["v"][kept])
    assert not torch.allclose(run_masked(graph, [X], names, {})[0], got)


def test_groups_of_a_normalisation_are_counted_anew():
    def build(g, x):
        x.name = "image"
        return g.add("GroupNormalization", x, weight(g, "scale", 6), weight(g, "bias", 6), num_groups=3)

    graph = graph_of(build, 2, 6, 2, 2)
    data = {value.name: value.data for value in graph.constants}
    image = torch.randn(2, 6, 2, 2)
    kept = [0, 1, 4, 5]  # the middle group goes
    names = {"scale": {0: kept}, "bias": {0: kept}}
    got = run_masked(graph, [image], names, {"image": {1: kept}})[0]
    want = torch.nn.functional.group_norm(image[:, kept], 2, data["scale"][kept], data["bias"][kept])
    torch.testing.assert_close(got[:, kept], want)
    assert torch.equal(got[:, 2:4], torch.zeros(2, 2, 2, 2))


def test_zero_of_a_quantized_weight_is_its_zero_point():
    def build(g, x):
        w = g.add_constant(torch.randint(0, 255, (4, 6), dtype=torch.uint8), "w")
        scale, zero = g.add_constant(torch.tensor(0.1)), g.add_constant(torch.tensor(100, dtype=torch.uint8))
        hidden = g.add("MatMul", x, g.add("DequantizeLinear", w, scale, zero))
        return g.add("MatMul", hidden, weight(g, "v", 6, 3))

    graph = graph_of(build)
    data = {value.name: value.data for value in graph.constants}
    want = X @ (data["w"].float() - 100)[:, [0, 2, 5]] * 0.1 @ data["v"][[0, 2, 5]]
    torch.testing.assert_close(run_masked(graph, [X], KEPT, {})[0], want)


@pytest.mark.parametrize("per_column", [False, True])
def test_zero_of_a_product_of_integers_is_its_zero_point(per_column):
    points = torch.tensor([100, 3, 50, 200, 7, 90], dtype=torch.uint8)[: None if per_column else 1]
    codes = torch.randint(0, 255, (4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def build(g, x):
        whole = g.add("Cast", g.add("Mul", x, g.add_constant(torch.tensor(20.0))), to=int(DType.INT8))
        zero = g.add_constant(points if per_column else points[0])
        hidden = g.add("MatMulInteger", whole, g.add_constant(codes, "w"), None, zero)
        return g.add("MatMul", g.add("Cast", hidden, to=int(DType.FLOAT32)), weight(g, "v", 6, 3))

    graph = graph_of(build)
    v = next(value.data for value in graph.constants if value.name == "v")
    hidden = (X * 20).to(torch.int8).float() @ (codes.float() - points.float())
    hidden[:, 1] = 0
    kept = {"w": {1: [0, 2, 3, 4, 5]}}  # of v nothing is masked: what is removed has to be zero by itself
    torch.testing.assert_close(run_masked(graph, [X], kept, {})[0], hidden @ v)


def test_element_types_narrower_than_a_byte_and_float8():
    for data, dtype in ((torch.tensor([[-8, 7]], dtype=torch.int8), DType.INT4),
                        (torch.tensor([[1.0, 2.0]]).to(torch.float8_e4m3fn), None)):  # fmt: skip

        def build(g, x, data=data, dtype=dtype):
            return g.add("DequantizeLinear", g.add_constant(data, "w", dtype=dtype), g.add_constant(torch.tensor(1.0)))

        graph = graph_of(build)
        full = run(graph, [X])[0]
        assert run_masked(graph, [X], {"w": {1: [1]}}, {})[0].tolist() == [[0.0, full[0, 1].item()]]
