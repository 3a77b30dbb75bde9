"""Pruning files that ONNX Runtime's own quantizer wrote."""

from collections import Counter

import numpy as np
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from torch import nn

import graphopt as go
from graphopt.runtime import run
from graphopt.runtime.compare import compare
from graphopt.runtime.ort import OrtSession


class Pictures(nn.Module):
    """Every operator that ONNX Runtime quantizes between convolutions."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.third, self.last = nn.Conv2d(16, 16, 1), nn.Conv2d(32, 24, 3, stride=2)
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        x = torch.relu(self.first(x))
        y = x + torch.sigmoid(self.second(x))
        z = nn.functional.leaky_relu(self.third(y), 0.1)
        z = nn.functional.avg_pool2d(torch.cat([y * z, z], 1), 2)
        return self.head(nn.functional.adaptive_avg_pool2d(torch.relu(self.last(z)), 1).flatten(1))


class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.units = nn.Linear(8, 12), nn.LSTM(12, 16, bidirectional=True)
        self.last = nn.Linear(32, 5)

    def forward(self, x):
        # What is removed would be 1/e here, out of the range of what stays.
        return self.last(self.units(torch.exp(-self.first(x).square() - 1))[0])


class Batches(CalibrationDataReader):
    def __init__(self, x):
        self.rest = iter([{"x": x.numpy()}])

    def get_next(self):
        return next(self.rest, None)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The floating-point files, and their inputs."""
    folder = tmp_path_factory.mktemp("quantized")
    torch.manual_seed(0)
    inputs = {"pictures": torch.randn(2, 3, 16, 16), "steps": torch.randn(6, 2, 8)}
    for name, module in (("pictures", Pictures()), ("steps", Steps())):
        torch.onnx.export(
            module.eval(), (inputs[name],), folder / f"{name}.onnx", input_names=["x"], dynamo=False, opset_version=17
        )
    return folder, inputs


def pruned(path, x, bound):
    """Prunes half, checks against the masked original and ONNX Runtime; the report and the graph."""
    original = go.load(path)
    graph = original.clone()
    report = go.optimize(graph, "prune-channels{ratio=0.5}", check=False)
    assert report.modified
    checked = go.optimize(original, "prune-channels{ratio=0.5}")
    assert checked.passes[0].checks["equivalence"]["max_rel"] < 1e-6
    got = [torch.from_numpy(each) for each in OrtSession(go.to_onnx(graph)).run([x])]
    assert compare(got, run(graph, [x])).within(bound)
    return report, graph


@pytest.mark.parametrize("per_channel", [False, True])
def test_quantized_operators(written, per_channel):
    folder, inputs = written
    path = folder / f"static{per_channel}.onnx"
    quantize_static(
        folder / "pictures.onnx", path, Batches(inputs["pictures"]), quant_format=QuantFormat.QOperator,
        per_channel=per_channel, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    report, graph = pruned(path, inputs["pictures"], 0.02)
    ops = Counter(node.op for node in graph.walk())
    assert {"QLinearConv", "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearConcat",
            "QLinearAveragePool", "QLinearGlobalAveragePool", "QGemm"} <= ops.keys()  # fmt: skip
    frozen = report.passes[0].details["frozen"]
    assert all(reason.startswith("graph") for reason in frozen), frozen
    sizes = [group["components"] - group["removed"] for group in report.passes[0].details["groups"]]
    assert sorted(sizes) == [8, 12]


@pytest.mark.parametrize("per_channel", [False, True])
def test_quantized_on_the_way(written, per_channel):
    folder, inputs = written
    path = folder / f"dynamic{per_channel}.onnx"
    quantize_dynamic(
        folder / "steps.onnx", path, per_channel=per_channel, weight_type=QuantType.QUInt8,
        op_types_to_quantize=["MatMul", "LSTM"],
    )  # fmt: skip
    report, graph = pruned(path, inputs["steps"], 0.02)
    lstm = next(node for node in graph.walk() if node.op == "DynamicQuantizeLSTM")
    assert lstm.attributes["hidden_size"] == 8
    assert [lstm.operand(i).shape for i in (1, 2, 3)] == [(2, 6, 32), (2, 8, 32), (2, 64)]
    assert lstm.operand(8).shape == ((2, 32) if per_channel else (2,))
    assert len(report.passes[0].details["groups"]) == 2


def test_codes_are_ranked_as_what_they_stand_for():
    """The zero point is 200: the largest codes mean the least."""
    rng = np.random.default_rng(0)
    codes = np.stack([np.full(4, 200 - 10 * k) for k in rng.permutation(8)], axis=1).astype(np.uint8)
    graph = go.Graph()
    x = graph.add_input("x", go.TensorType.make(go.DType.UINT8, (2, 4)))
    w, zero = graph.add_constant(torch.from_numpy(codes), "w"), graph.add_constant(torch.tensor(200, dtype=torch.uint8))
    hidden = graph.add("Cast", graph.add("MatMulInteger", x, w, None, zero), to=int(go.DType.FLOAT32))
    graph.add_output(graph.add("MatMul", hidden, graph.add_constant(torch.full((8, 3), 1e-3), "v")), "y")
    report = go.optimize(graph, "prune-channels{ratio=0.5}")
    magnitude = np.abs(codes.astype(np.int64) - 200).sum(0)
    assert report.kept["w"][1] == sorted(np.argsort(magnitude)[4:].tolist())
