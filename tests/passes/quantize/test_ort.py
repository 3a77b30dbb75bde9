"""What ONNX Runtime makes of the pairs, and that it computes what our executor computes."""

import numpy as np
import pytest
import torch

from graphopt.backends import to_onnx
from graphopt.runtime import run
from graphopt.runtime.ort import OrtSession, kernel_counts
from tests.passes.quantize.models import Maker, quantize, samples


def kernels(graph):
    return kernel_counts(to_onnx(graph))


def made_by(quantize):
    """The operator whose result a QuantizeLinear reads."""
    producer = quantize.operand(0).producer
    return producer.op if producer is not None else ""


def images():
    """Convolutions (plain, strided, depthwise), ReLU, ReLU6, residual add, pool, concat, global pool, Gemm."""
    m = Maker((2, 3, 16, 16))
    a = m.op("MaxPool", m.op("Relu", m.conv("x", 3, 16)), kernel_shape=[2, 2], strides=[2, 2])
    b = m.op("Relu", m.op("Add", f"{m.conv(a, 16, 16)} {a}"))
    c = m.op("Clip", f"{m.conv(b, 16, 16, group=16)} {m.constant(np.float32(0))} {m.constant(np.float32(6))}")
    d = m.op("Concat", f"{c} {b}", axis=1)
    e = m.op("Flatten", m.op("GlobalAveragePool", m.conv(d, 32, 16, 1, strides=[2, 2])))
    return m.graph(m.gemm(e, 16, 10))


def test_every_node_becomes_an_integer_kernel():
    found = kernels(quantize(images()))
    assert found["QLinearConv"] == 4
    assert found["QLinearAdd"] == 1
    assert found["QLinearConcat"] == 1
    assert found["QLinearGlobalAveragePool"] == 1
    assert found["QGemm"] == 1
    for op in ("Conv", "FusedConv", "Add", "Relu", "Clip", "Gemm", "DequantizeLinear"):
        assert found[op] == 0, op


def test_the_types_are_u8_and_s8_per_channel():
    graph = quantize(images())
    for node in graph.nodes:
        if node.op == "QuantizeLinear":
            assert node.operand(2).dtype.name == "UINT8"
            assert node.operand(1).rank == 0
    for node in graph.nodes:
        if node.op in ("Conv", "Gemm"):
            weight = node.operand(1).producer
            assert weight.operand(0).dtype.name == "INT8"
            assert weight.operand(1).shape == (node.operand(1).shape[0],)


@pytest.mark.parametrize("trans", [0, 1])
def test_gemm_has_a_scale_per_output_whichever_way_its_weight_lies(trans):
    m = Maker((4, 24))
    graph = quantize(m.graph(m.gemm("x", 24, 10, trans)))
    weight = next(n for n in graph.nodes if n.op == "Gemm").operand(1).producer
    assert weight.operand(1).shape == (10,)
    assert weight.attributes["axis"] == (0 if trans else 1)
    assert kernels(graph)["QGemm"] == 1


def test_a_product_with_float_output_keeps_its_integer_kernel_in_front_of_a_bias():
    m = Maker((2, 64, 256))
    p = m.op("MatMul", f"x {m.random(256, 128)}")
    graph = quantize(m.graph(m.op("Erf", m.op("Add", f"{p} {m.random(128)}"))), everything=False)
    found = kernels(graph)
    assert found["MatMulIntegerToFloat"] == 1
    assert found["Gemm"] == found["DequantizeLinear"] == 0


@pytest.mark.parametrize("factor", [1.0, 1.01, 2.0])
def test_a_bias_of_another_scale_loses_the_kernel_or_is_added_wrongly(factor):
    m = Maker()
    graph = quantize(m.graph(m.conv("x", 8, 8)))
    dequantize = next(n for n in graph.nodes if n.op == "Conv").operand(2).producer
    dequantize.operand(1).data = dequantize.operand(1).data * factor
    inputs = samples(graph, 1)[0]
    integer = kernels(graph)["QLinearConv"] == 1
    right = np.allclose(OrtSession(to_onnx(graph)).run(inputs)[0], run(graph, inputs)[0].numpy(), atol=1e-5)
    assert (integer and right) is (factor == 1.0)


def test_different_scales_around_a_pool_lose_its_kernel():
    m = Maker()
    a = m.conv("x")
    graph = quantize(m.graph(m.conv(m.op("MaxPool", a, kernel_shape=[2, 2]))))
    assert kernels(graph)["DequantizeLinear"] == 1
    pair = next(n for n in graph.nodes if n.op == "QuantizeLinear" and made_by(n) == "MaxPool")
    other = graph.add_constant(pair.operand(1).data * 1.5, "other")
    for node in (pair, pair.output.users[0]):
        node.set_input(1, other)
    assert kernels(graph)["DequantizeLinear"] > 1


def test_a_relu_stays_outside_the_kernel_when_the_zero_point_is_not_the_least_value():
    m = Maker()
    graph = quantize(m.graph(m.op("Relu", m.conv("x"))))
    assert kernels(graph)["Relu"] + kernels(graph)["FusedConv"] == 0
    pair = next(n for n in graph.nodes if n.op == "QuantizeLinear" and made_by(n) == "Relu")
    pair.operand(2).data = torch.tensor(128, dtype=torch.uint8)
    assert kernels(graph)["QLinearConv"] == 0


def test_the_executor_computes_what_onnx_runtime_computes():
    graph = quantize(images(), pack=False)
    session = OrtSession(to_onnx(graph), optimize=False)
    for inputs in samples(graph, 4, first=50):
        np.testing.assert_allclose(run(graph, inputs)[0].numpy(), session.run(inputs)[0], rtol=1e-4, atol=1e-4)


def test_packed_and_unpacked_agree_in_onnx_runtime():
    unpacked = quantize(images(), pack=False)
    packed = quantize(images())
    for inputs in samples(packed, 2, first=50):
        a, b = (OrtSession(to_onnx(g), optimize=False).run(inputs)[0] for g in (unpacked, packed))
        np.testing.assert_allclose(a, b, atol=0.02 * np.abs(a).max())
