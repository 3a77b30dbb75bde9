"""Models that come quantized: by ONNX Runtime's tools in either format, and by ourselves."""

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static

from graphopt.backends import to_onnx, to_torch
from graphopt.frontends import load
from graphopt.pipeline import optimize
from graphopt.runtime import run
from graphopt.runtime.compare import compare
from graphopt.runtime.ort import OrtSession, kernel_counts
from tests.passes.quantize.models import Maker, quantize, samples
from tests.passes.quantize.test_ort import images


class Reader(CalibrationDataReader):
    def __init__(self, batches):
        self.batches = iter([{"x": batch[0].numpy()} for batch in batches])

    def get_next(self):
        return next(self.batches, None)


@pytest.fixture(scope="module", params=["QDQ", "QOperator"])
def quantized_file(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    graph = images()
    float_file, file = folder / "float.onnx", folder / "quantized.onnx"
    onnx.save(to_onnx(graph), float_file)
    quantize_static(
        str(float_file), str(file), Reader(samples(graph)), quant_format=QuantFormat[request.param], per_channel=True
    )
    return graph, file


def test_it_loads_and_computes_what_onnx_runtime_computes(quantized_file):
    _, file = quantized_file
    graph = load(file)
    inputs = samples(graph, 1, first=50)[0]
    got = [torch.from_numpy(array) for array in OrtSession(file, optimize=False).run(inputs)]
    assert compare(got, run(graph, inputs)).sqnr > 35
    assert compare([to_torch(graph)(*inputs).detach()], run(graph, inputs)).sqnr > 35
    again = load(to_onnx(graph))
    torch.testing.assert_close(run(again, inputs), run(graph, inputs))


def test_it_is_written_as_pairs(quantized_file):
    _, file = quantized_file
    graph = load(file)
    inputs = samples(graph, 1, first=50)[0]
    want = run(graph, inputs)
    report = optimize(graph, "qoperator-to-qdq", check=False)
    graph.verify()
    assert not any(node.domain or node.op.startswith("QLinear") for node in graph.nodes)
    assert report.modified is any(name.startswith("QLinear") for name in report.of("qoperator-to-qdq").counts)
    assert compare(run(graph, inputs), want).sqnr > 35
    assert kernel_counts(to_onnx(graph))["QLinearConv"] >= 1


def test_dequantized_it_is_the_float_model_with_rounded_weights(quantized_file):
    exact, file = quantized_file
    graph = load(file)
    inputs = samples(graph, 1, first=50)[0]
    optimize(graph, "qoperator-to-qdq,dequantize", check=False)
    graph.verify()
    ops = {node.op for node in graph.nodes}
    assert not ops & {"QuantizeLinear", "DequantizeLinear"}
    assert {"Conv", "Gemm"} <= ops or {"Conv", "MatMul"} <= ops
    assert not any(value.dtype.is_integer and value.dtype.bits == 8 for value in graph.values())
    assert compare(run(graph, inputs), run(exact, inputs)).sqnr > 30


def test_requantized_for_another_target(quantized_file):
    exact, file = quantized_file
    graph = load(file)
    inputs = samples(graph, 1, first=50)[0]
    optimize(graph, "requantize{target=tensorrt}", samples(graph), check=False)
    quantizers = [node for node in graph.nodes if node.op == "QuantizeLinear"]
    assert quantizers
    assert all(node.operand(2).dtype.name == "INT8" and not node.operand(2).data.any() for node in quantizers)
    assert compare(run(graph, inputs), run(exact, inputs)).sqnr > 18


def test_our_own_files_dequantize():
    exact = images()
    graph = quantize(images())
    inputs = samples(exact, 1, first=50)[0]
    report = optimize(load(to_onnx(graph)), "dequantize", check=False)
    assert report.of("dequantize").counts["weights"] == 10  # five weights and their biases
    optimize(graph, "dequantize", check=False)
    assert [n.op for n in graph.nodes] == [n.op for n in exact.nodes]
    assert compare(run(graph, inputs), run(exact, inputs)).sqnr > 30
    assert not optimize(graph, "dequantize", check=False).modified


@pytest.mark.parametrize("options", ["bits=4,block=8", "format=piecewise,bits=4", "bits=8"])
@pytest.mark.parametrize("packed", [True, False])
def test_weights_alone_dequantize(options, packed):
    m = Maker((2, 16))
    graph = m.graph(m.gemm("x", 16, 8))
    inputs = samples(graph, 1)[0]
    optimize(graph, f"{'quantize-weights' if packed else 'insert-weight-qdq'}{{{options}}}", check=False)
    want = run(graph, inputs)
    optimize(graph, "dequantize", check=False)
    assert "DequantizeLinear" not in {node.op for node in graph.nodes}
    torch.testing.assert_close(run(graph, inputs), want)


def test_dynamic_products_dequantize(tmp_path):
    m = Maker((4, 24))
    graph = m.graph(m.op("MatMul", f"x {m.random(24, 10)}"))
    inputs = samples(graph, 1)[0]
    onnx.save(to_onnx(graph), tmp_path / "float.onnx")
    quantize_dynamic(str(tmp_path / "float.onnx"), str(tmp_path / "theirs.onnx"), per_channel=True)
    ours = graph.clone()
    optimize(ours, "quantize-dynamic", check=False)
    for each in (load(tmp_path / "theirs.onnx"), ours):
        assert any(node.op == "MatMulInteger" for node in each.nodes)
        optimize(each, "dequantize", check=False)
        assert [node.op for node in each.nodes] == ["MatMul"]
        assert compare(run(each, inputs), run(graph, inputs)).sqnr > 35


def test_scales_of_one_element_and_views_between_integers():
    """What older tools write: scales of shape [1], and integer tensors that are pooled and reshaped."""
    m = Maker((1, 4, 8, 8))
    scale, zero = m.constant(np.float32([0.1])), m.constant(np.uint8([5]))
    q = m.op("QuantizeLinear", f"x {scale} {zero}")
    pooled = m.op("MaxPool", q, kernel_shape=[2, 2], strides=[2, 2])
    flat = m.op("Reshape", f"{pooled} {m.constant([1, 64])}")
    graph = m.graph(m.op("DequantizeLinear", f"{flat} {scale} {zero}"))
    inputs = samples(graph, 1)[0]
    want = run(graph, inputs)
    optimize(graph, "dequantize", check=False)
    assert [node.op for node in graph.nodes] == ["MaxPool", "Reshape"]
    assert compare(run(graph, inputs), want).sqnr > 25
