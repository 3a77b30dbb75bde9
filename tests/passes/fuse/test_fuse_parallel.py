"""Parallel layers of one input become one: when, with what bias and activation, and when not."""

import numpy as np
import pytest
import torch

import graphopt as go
from graphopt.analysis import propagate
from graphopt.ir import DType, TensorType
from graphopt.passes.fuse import FuseParallel
from graphopt.pipeline import Context
from graphopt.runtime.ort import OrtSession
from graphopt.runtime.samples import example_inputs
from tests.passes.rule_cases import Draft


def merged(draw):
    """How many layers the pass merges in a drawn graph, and the operators afterwards; held to ONNX Runtime."""
    draft = Draft()
    outputs = draw(draft)
    draft.output(*(outputs if isinstance(outputs, tuple) else [outputs]))
    graph = draft.graph
    propagate(graph)
    before, text = graph.clone(), str(graph)
    changes = FuseParallel().run(graph, Context(graph))
    graph.verify()
    assert changes.modified == (str(graph) != text)
    if not any(node.domain for node in graph):
        inputs = {v.name: x for v, x in zip(before.inputs, example_inputs(before, 1, {"n": 3}), strict=True)}
        want, got = (OrtSession(go.to_onnx(each), optimize=False).run(inputs) for each in (before, graph))
        for mine, theirs in zip(got, want, strict=True):
            np.testing.assert_allclose(np.asarray(mine), np.asarray(theirs), rtol=1e-4, atol=1e-5)
    return changes.counts["merged"], [node.op for node in graph]


def three_convs(d, x, **attributes):
    return [d.Conv(x, d.weight(count, 4, 1, 1), d.weight(count), **attributes) for count in (2, 3, 4)]


def test_convolutions_and_their_activation():
    def draw(d):
        return tuple(d.Relu(y) for y in three_convs(d, d.input("n", 4, 5, 5), strides=[2, 2]))

    assert merged(draw) == (3, ["Conv", "Relu", "Split"])


def test_two_layers_are_as_many_nodes_as_one_and_a_split():
    def draw(d):
        x = d.input("n", 4)
        return d.Gemm(x, d.weight(4, 2), d.weight(2)), d.Gemm(x, d.weight(4, 3), d.weight(3))

    assert merged(draw) == (0, ["Gemm", "Gemm"])


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [False, True])
def test_gemms(transposed, bias):
    def draw(d):
        x = d.input("n", 4)
        return tuple(
            d.Gemm(
                x, d.weight(*((n, 4) if transposed else (4, n))), d.weight(n) if bias else None, transB=transposed,
                alpha=0.5,
            )
            for n in (2, 3, 4)
        )  # fmt: skip

    assert merged(draw) == (3, ["Gemm", "Split"])


def test_products_with_a_bias_on_either_side():
    def draw(d):
        x = d.input("n", 3, 4)
        first = d.Add(d.MatMul(x, d.weight(4, 2)), d.weight(2))
        return first, d.Add(d.weight(5), d.MatMul(x, d.weight(4, 5)))

    assert merged(draw) == (2, ["MatMul", "Add", "Split"])


def test_each_kind_by_itself():
    def draw(d):
        x = d.input("n", 4, 5, 5)
        return (*three_convs(d, x), *three_convs(d, x, strides=[2, 2]), d.Conv(x, d.weight(2, 4, 1, 1)))

    assert merged(draw) == (6, ["Conv", "Split", "Conv", "Split", "Conv"])


def test_activations_that_differ_or_are_not_alone_stay_behind_the_split():
    def draw(d):
        a, b, c = three_convs(d, d.input("n", 4, 5, 5))
        return d.Relu(a), d.Relu(b), d.Sigmoid(c)

    assert merged(draw) == (3, ["Conv", "Split", "Relu", "Relu", "Sigmoid"])

    def read_twice(d):
        a, b, c = three_convs(d, d.input("n", 4, 5, 5))
        return d.Relu(a), d.Relu(b), d.Relu(c), d.Neg(c)

    assert merged(read_twice) == (3, ["Conv", "Split", "Relu", "Relu", "Relu", "Neg"])

    def slopes(d):
        return tuple(d.LeakyRelu(y, alpha=0.1 * i) for i, y in enumerate(three_convs(d, d.input("n", 4, 5, 5))))

    assert merged(slopes)[1] == ["Conv", "Split", "LeakyRelu", "LeakyRelu", "LeakyRelu"]

    def with_operands(d):
        return tuple(d.Mul(y, d.full(2.0)) for y in three_convs(d, d.input("n", 4, 5, 5)))

    assert merged(with_operands)[1] == ["Conv", "Split", "Mul", "Mul", "Mul"]


def shared_weight(d):
    x, w = d.input("n", 4, 5, 5), d.weight(2, 4, 1, 1)
    return tuple(d.Conv(x, w, d.weight(2)) for _ in range(3))


def parameters(d):
    x = d.input("n", 4, 5, 5)
    return tuple(d.Conv(x, d.weight(2, 4, 1, 1, name=f"conv{i}.weight")) for i in range(3))


def groups(d):
    x = d.input("n", 4, 5, 5)
    return tuple(d.Conv(x, d.weight(2, 2, 1, 1), group=2) for _ in range(3))


def computed_weights(d):
    x = d.input("n", 4)
    return tuple(d.MatMul(x, d.Relu(d.weight(4, 2))) for _ in range(3))


def the_other_operand(d):
    x = d.input(4, 4)
    return tuple(d.MatMul(d.weight(2, 4), x) for _ in range(3))


def a_row(d):
    x = d.input(4)
    return tuple(d.MatMul(x, d.weight(4, 2)) for _ in range(3))


def biases_for_each_row(d):
    x = d.input(3, 4)
    return tuple(d.Gemm(x, d.weight(4, 2), d.weight(3, 1)) for _ in range(3))


def other_inputs(d):
    return tuple(d.Conv(d.input("n", 4, 5, 5), d.weight(2, 4, 1, 1)) for _ in range(3))


@pytest.mark.parametrize(
    "draw",
    [shared_weight, parameters, groups, computed_weights, the_other_operand, a_row, biases_for_each_row, other_inputs],
)
def test_near_misses(draw):
    assert merged(draw)[0] == 0


def test_what_a_custom_domain_calls_add_is_no_bias():
    def draw(d):
        x = d.input("n", 4)
        found = []
        for _ in range(2):
            y = d("Add", d.MatMul(x, d.weight(4, 2)), d.weight(2), domain="custom")
            y.type = TensorType.make(DType.FLOAT32, ("n", 2))
            found.append(y)
        return tuple(found)

    assert merged(draw)[0] == 0


def test_names_and_provenance_stay():
    draft = Draft()
    x = draft.input("n", 4, 5, 5)
    convs = three_convs(draft, x)
    for number, y in enumerate(convs):
        y.name = f"features{number}"
    draft.output(*convs)
    graph = draft.graph
    names = list(graph.output_names)
    go.optimize(graph, "fuse-parallel")
    assert graph.output_names == names
    assert [value.name for value in graph.outputs] == ["features0", "features1", "features2"]
    assert all("fuse-parallel" in node.origin.passes for node in graph)
    assert torch.equal(graph.outputs[0].producer.operand(1).data, torch.tensor([2, 3, 4]))
