"""pack-weights: weights and biases as integers."""

import pytest
import torch

from graphopt.ir import DType
from graphopt.passes.quantize import PackWeights
from graphopt.pipeline import Context
from graphopt.runtime import run
from graphopt.runtime.compare import compare
from tests.passes.quantize.models import Maker, quantize, samples


def stored(graph, dtype):
    return [
        n.operand(0)
        for n in graph.nodes
        if n.op == "DequantizeLinear" and n.operand(0).is_constant and n.operand(0).dtype is dtype
    ]


def conv_graph():
    m = Maker()
    return m.graph(m.conv(m.op("Relu", m.conv("x"))))


def test_packing_changes_no_number_but_the_biases():
    graph = quantize(conv_graph(), pack=False)
    inputs = samples(graph)[0]
    before = run(graph, inputs)
    PackWeights().run(graph, Context(graph))
    assert compare(run(graph, inputs), before).sqnr > 40
    assert len(stored(graph, DType.INT8)) == 2
    assert len(stored(graph, DType.INT32)) == 2
    assert not any(v.dtype is DType.FLOAT32 and (v.rank or 0) > 1 for v in graph.constants)


def test_bias_scale_is_the_product_of_the_other_two():
    graph = quantize(conv_graph())
    for node in graph.nodes:
        if node.op != "Conv":
            continue
        x, w, b = (node.operand(i).producer for i in range(3))
        assert torch.equal(b.operand(1).data, x.operand(1).data * w.operand(1).data)
        assert not b.operand(2).data.any()


def test_a_bias_that_does_not_fit_stays_float():
    m = Maker()
    weight = m.constant(torch.full((2, 8, 1, 1), 1e-20).numpy())
    bias = m.constant(torch.full((2,), 1e6).numpy())
    graph = quantize(m.graph(m.op("Conv", f"x {weight} {bias}")))
    assert next(n for n in graph.nodes if n.op == "Conv").operand(2).is_constant


@pytest.mark.parametrize("steps", [1, 2])
def test_transposes_of_weights_are_folded(steps):
    m = Maker((4, 8))
    weight = m.random(6, 8) if steps == 1 else m.random(8, 6)
    for _ in range(steps):
        weight = m.op("Transpose", weight, perm=[1, 0])
    graph = m.graph(m.op("MatMul", f"x {weight}"))
    inputs = samples(graph)[0]
    want = run(graph, inputs)
    quantize(graph)
    assert not any(n.op == "Transpose" for n in graph.nodes)
    matmul = next(n for n in graph.nodes if n.op == "MatMul")
    dequantize = matmul.operand(1).producer
    assert dequantize.operand(0).shape == (8, 6)
    assert dequantize.attributes["axis"] == 1
    assert dequantize.operand(1).shape == (6,)
    assert compare(run(graph, inputs), want).sqnr > 30


def test_a_bias_behind_a_product_gets_its_rank():
    m = Maker((2, 64, 256))
    p = m.op("MatMul", f"x {m.random(256, 128)}")
    graph = quantize(m.graph(m.op("Tanh", m.op("Add", f"{p} {m.random(128)}"))), everything=False)
    assert next(n for n in graph.nodes if n.op == "Add").operand(1).shape == (1, 1, 128)


def test_packing_twice_changes_nothing():
    graph = quantize(conv_graph())
    assert not PackWeights().run(graph, Context(graph)).modified
