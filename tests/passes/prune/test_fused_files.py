"""Pruning files that ONNX Runtime's optimiser wrote."""

from collections import Counter

import onnxruntime
import pytest
import torch
from torch import nn

import graphopt as go
from graphopt.runtime import run
from graphopt.runtime.compare import compare
from graphopt.runtime.ort import OrtSession


class Pictures(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.third, self.wide, self.head = nn.Conv2d(16, 16, 1), nn.Linear(16, 24), nn.Linear(24, 5)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = nn.functional.leaky_relu(self.third(torch.relu(self.second(x) + x)))
        return self.head(torch.relu(self.wide(x.mean((2, 3)))))


class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.inlet, self.mix, self.head = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.norms = nn.ModuleList([nn.LayerNorm(16), nn.LayerNorm(16)])

    def forward(self, x):
        x = self.inlet(x)
        x = self.norms[0](x + self.mix(torch.tanh(x)))
        x = self.norms[1](x + self.down(nn.functional.gelu(self.up(x))))
        return self.head((x @ x.transpose(1, 2) * 0.3) @ x)


@pytest.mark.parametrize(
    ("module", "shape", "fused", "sizes"),
    [(Pictures, (2, 3, 12, 12), {"FusedConv", "FusedGemm"}, [2, 8, 12]),
     (Steps, (2, 6, 8), {"SkipLayerNormalization", "Gelu", "FusedMatMul"}, [8, 16])],
)  # fmt: skip
def test_optimised_by_onnx_runtime(module, shape, fused, sizes, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(shape)
    plain, path = tmp_path / "plain.onnx", tmp_path / "fused.onnx"
    torch.onnx.export(module().eval(), (x,), plain, input_names=["x"], dynamo=False, opset_version=17)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(str(plain), options, providers=["CPUExecutionProvider"])
    graph = go.load(path)
    assert fused <= Counter(node.op for node in graph.walk() if node.domain == "com.microsoft").keys()
    report = go.optimize(graph, "prune-channels{ratio=0.5}")
    assert report.passes[0].checks["equivalence"]["max_rel"] < 1e-5
    assert all(reason.startswith("graph") for reason in report.passes[0].details["frozen"])
    left = [group["components"] - group["removed"] for group in report.passes[0].details["groups"]]
    assert sorted(left) == sizes
    got = [torch.from_numpy(each) for each in OrtSession(go.to_onnx(graph)).run([x])]
    assert compare(got, run(graph, [x])).within(1e-4)
