"""Float products for outlying channels: the sum is the same, what is quantized, what is left alone, what it wins."""

from __future__ import annotations

import tempfile

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import graphopt as go
from graphopt.errors import DataError, OptionError
from graphopt.runtime import run
from graphopt.runtime.compare import compare

FAR = (3, 40)


class Attention(nn.Module):
    """Three products of one input, as of queries, keys and values, and one behind them."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width, bias=bias) for bias in (True, False, False))
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.q(x) * self.k(x)) + self.v(x))


def rows(seed=0, shape=(2, 16, 64), axis=-1):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    x.movedim(axis, 0)[list(FAR)] *= 40
    return (x,)


def attention(through_onnx=False):
    torch.manual_seed(0)
    graph = go.capture(Attention().eval(), rows(), dynamic=[{0: "batch"}])
    return go.load(go.to_onnx(graph)) if through_onnx else graph


@pytest.mark.parametrize("through_onnx", [False, True])
def test_the_sum_is_the_same(through_onnx):
    graph = attention(through_onnx)
    plain = graph.clone()
    report = go.optimize(graph, "split-outliers", [rows(seed) for seed in range(3)]).passes[-1]
    assert report.modified
    assert report.counts == {"layers": 3, "channels": 6}
    assert all(channels == list(FAR) for channels in report.details.values())
    graph.verify()
    x = rows(9, (5, 16, 64))
    assert compare(run(graph, x), run(plain, x)).max_rel < 1e-5
    ops = [node.op for node in graph]
    assert ops.count("Gather") == 2  # the three share them
    assert sum(node.name.endswith(".outliers") for node in graph) == 3
    assert {v.name for v in plain.constants} <= {v.name for v in graph.constants}
    session = onnxruntime.InferenceSession(go.to_onnx(graph).SerializeToString())
    (got,) = session.run(None, {session.get_inputs()[0].name: x[0].numpy()})
    torch.testing.assert_close(torch.from_numpy(got), run(plain, x)[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(go.to_torch(graph)(*x), run(plain, x)[0], rtol=1e-3, atol=1e-3)


def is_quantized(value):
    while value.producer is not None and value.producer.op in ("Transpose", "Reshape"):
        value = value.producer.operand(0)
    return value.producer is not None and value.producer.op == "DequantizeLinear"


@pytest.mark.parametrize("target", ["generic", "tensorrt", "openvino"])
def test_the_rest_is_quantized_and_the_outliers_are_not(target):
    data = [rows(seed) for seed in range(4)]
    found = []
    for split, ignore in (("", ""), ("split-outliers,", ""), ("split-outliers,", ",ignore=*.outliers")):
        graph = attention()
        plain = graph.clone()
        report = go.optimize(
            graph, f"{split}insert-qdq{{target={target}{ignore}}},calibrate{{target={target}}},pack-weights", data
        )
        assert sum("Gemm" in line or "MatMul" in line for line in report.of("insert-qdq").details["integer"]) == 4
        found.append(compare(run(graph, rows(9)), run(plain, rows(9))).sqnr)
        floats = [node for node in graph if node.op in ("Gemm", "MatMul") and not is_quantized(node.operand(1))]
        assert len(floats) == (3 if split else 0)
        assert all(node.name.endswith(".outliers") and not is_quantized(node.operand(0)) for node in floats)
    assert "on the ignore list" in str(report.of("insert-qdq").notes)
    assert found[1] == found[2] > found[0] + 8


def test_where_nothing_is_split_all_is_quantized():
    data = [(torch.randn(2, 16, 64),)]
    graph = attention()
    go.optimize(graph, "split-outliers,insert-qdq{target=generic}", data)
    assert sum(node.op in ("Gemm", "MatMul") and is_quantized(node.operand(1)) for node in graph) == 4


def test_onnx_runtime_runs_the_rest_on_integers():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256)).eval()
    data = [rows(seed, (64, 256)) for seed in range(3)]
    found = []
    for split, ignore in (("", ""), ("split-outliers,", "")):
        graph = go.capture(module, data[0])
        go.optimize(graph, "simplify,fuse")
        plain = graph.clone()
        report = go.optimize(graph, f"{split}quantize{ignore}", data).of("insert-qdq")
        assert report.counts["Gemm"] == 2
        found.append(compare(run(graph, rows(9, (64, 256))), run(plain, rows(9, (64, 256)))).sqnr)
    assert any(reason == "on the ignore list" for reason in report.details["float"].values())
    assert found[1] > found[0] + 8
    kernels = [node.op_type for node in optimised(go.to_onnx(graph)).graph.node]
    assert kernels.count("QGemm") == 2
    assert sum(kind in kernels for kind in ("Gemm", "FusedGemm", "MatMul")) == 1


def optimised(proto):
    """The graph as ONNX Runtime runs it."""
    options = onnxruntime.SessionOptions()
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/optimised.onnx"
        onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def test_convolutions():
    module = nn.Sequential(nn.Conv2d(64, 8, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 1)).eval()
    data = [rows(0, (2, 64, 6, 6), axis=1)]
    graph = go.capture(module, data[0])
    assert go.optimize(graph, "split-outliers", data).passes[-1].counts == {"layers": 1, "channels": 2}
    x = rows(1, (2, 64, 6, 6), axis=1)[0]
    torch.testing.assert_close(run(graph, (x,))[0], module(x), rtol=1e-4, atol=1e-4)


def test_even_channels_dead_ones_and_groups_are_left_alone():
    module = nn.Sequential(nn.Conv2d(64, 64, 1, groups=64), nn.Conv2d(64, 4, 1)).eval()
    with torch.no_grad():
        module[0].weight[:60] = 0
        module[0].bias[:60] = 0
    data = [(torch.randn(4, 64, 5, 5),)]
    graph = go.capture(module, data[0])
    before = str(graph)
    report = go.optimize(graph, "split-outliers", data).passes[-1]
    assert not report.modified
    assert "more than 6 times" in report.notes[0]
    assert str(graph) == before


def test_the_furthest_are_taken_up_to_a_part():
    graph = attention()
    data = [rows()]
    data[0][0][..., 3] *= 10
    report = go.optimize(graph, "split-outliers{most=0.02}", data).passes[-1]
    assert all(channels == [3] for channels in report.details.values())
    assert not go.optimize(attention(), "split-outliers{above=5000}", data).modified


def test_data_and_options_are_checked():
    with pytest.raises(DataError, match="needs data"):
        go.optimize(attention(), "split-outliers")
    for options in ("above=0.5", "most=0", "most=1", "batches=-1"):
        with pytest.raises(OptionError, match=r" is "):
            go.optimize(attention(), f"split-outliers{{{options}}}", [rows()])
