"""Pruning files that ONNX Runtime's optimiser wrote."""

from collections import Counter

import onnxruntime
import pytest
import torch
from torch import nn

import graphopt as go
from graphopt.models import build
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
    ("module", "shape", "fused", "sizes", "kinds"),
    [(Pictures, (2, 3, 12, 12), {"FusedConv", "FusedGemm"}, [2, 8, 12], {"groups", "channels", "ffn"}),
     (Steps, (2, 6, 8), {"SkipLayerNormalization", "Gelu", "FusedMatMul"}, [8, 16], {"head-dim", "ffn"})],
)  # fmt: skip
def test_optimised_by_onnx_runtime(module, shape, fused, sizes, kinds, tmp_path):
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
    groups = report.passes[0].details["groups"]
    assert sorted(group["components"] - group["removed"] for group in groups) == sizes
    assert {group["kind"] for group in groups} == kinds
    got = [torch.from_numpy(each) for each in OrtSession(go.to_onnx(graph)).run([x])]
    assert compare(got, run(graph, [x])).within(1e-4)


@pytest.mark.parametrize(("kind", "heads", "width"), [("heads", 2, 8), ("head-dim", 4, 8)])
@pytest.mark.parametrize("bias", [False, True])
def test_attention_of_onnx_runtime(kind, heads, width, bias):
    """Half of the heads, or of what is in each, with their parts of the bias, which holds three in a row."""
    graph, generator = go.Graph(), torch.Generator().manual_seed(0)
    x = graph.add_input("x", go.TensorType.make(go.DType.FLOAT32, (2, 5, 6)))
    joined = graph.add_constant(torch.randn(48, generator=generator), "bias")
    three = [graph.add("MatMul", x, graph.add_constant(torch.randn(6, 16, generator=generator), n)) for n in "qkv"]
    found = graph.add("MultiHeadAttention", *three, *([joined] if bias else []), domain="com.microsoft", num_heads=4)
    graph.add_output(graph.add("MatMul", found, graph.add_constant(torch.randn(16, 3, generator=generator), "o")), "y")
    inputs = [torch.randn(2, 5, 6)]
    report = go.optimize(graph, f"prune-channels{{ratio=0.5,kinds=[{kind}]}}", inputs)
    assert report.passes[0].checks["equivalence"]["max_rel"] < 1e-5
    node = next(node for node in graph.walk() if node.op == "MultiHeadAttention")
    assert node.attributes["num_heads"] == heads
    assert node.operand(2).shape[-1] == width
    if bias:
        kept = [index + 16 * part for part, name in enumerate("qkv") for index in report.kept[name].get(1, range(16))]
        assert report.kept["bias"][0] == kept
    (got,) = OrtSession(go.to_onnx(graph)).run(inputs)
    torch.testing.assert_close(torch.from_numpy(got), run(graph, inputs)[0], rtol=1e-4, atol=1e-5)


def test_after_runtime_fuse():
    """The same is kept as where nothing is fused."""
    module, args = build("resnet")
    graph, plain = go.capture(module, args), go.capture(module, args)
    report = go.optimize(graph, "simplify,fuse,runtime-fuse,prune-channels{ratio=0.5}", check=False)
    assert any(node.op == "FusedConv" and len(node.inputs) == 4 for node in graph.walk())  # with the sum
    other = go.optimize(plain, "simplify,fuse,prune-channels{ratio=0.5}", check=False)
    assert report.kept == other.kept
    kinds = [[group["kind"] for group in each.passes[-1].details["groups"]] for each in (report, other)]
    assert kinds[0] == kinds[1] == ["channels"] * 12
