"""`runtime-fuse` on whole models: off unless asked for, equal in ONNX Runtime with its own optimiser off."""

import numpy as np
import pytest
import torch
from torch import nn

import graphopt as go
from graphopt.ops.microsoft import DOMAIN
from graphopt.pipeline import all_aliases
from graphopt.runtime.ort import OrtSession

PIPELINE = "simplify{level=max},runtime-fuse"


class Block(nn.Module):
    """A transformer block as people write it."""

    def __init__(self, size=16, heads=4):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.first, self.second = nn.LayerNorm(size), nn.LayerNorm(size)
        self.up, self.down = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)

    def forward(self, x):
        batch, length, size = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(q @ k.transpose(-1, -2) * 0.5, -1)
        x = self.first(x + self.out((weights @ v).transpose(1, 2).reshape(batch, length, size)))
        return self.second(x + self.down(nn.functional.gelu(self.up(x))))


class Image(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.last = nn.Linear(4, 5)

    def forward(self, x):
        x = torch.relu(self.one(x) + x.exp())
        return torch.tanh(self.last(nn.functional.hardtanh(self.two(x)).mean((2, 3))))


def fused(module, x, pipeline=PIPELINE):
    graph = go.capture(module.eval(), (x,), dynamic={"x": {0: "batch"}})
    report = go.optimize(graph, pipeline)
    return graph, report


@pytest.mark.parametrize(
    ("module", "x", "made"),
    [
        (Block(), torch.randn(2, 5, 16), {"SkipLayerNormalization", "BiasGelu", "MultiHeadAttention"}),
        (Image(), torch.randn(2, 3, 6, 6), {"FusedConv", "FusedGemm"}),
    ],
    ids=["transformer", "image"],
)
def test_models(module, x, made):
    graph, _ = fused(module, x)
    assert made <= {node.op for node in graph if node.domain == DOMAIN}
    model = go.to_onnx(graph)
    assert DOMAIN in {each.domain for each in model.opset_import}
    want = module(x).detach()
    np.testing.assert_allclose(OrtSession(model, optimize=False).run([x])[0], want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(go.to_torch(graph)(x), want, rtol=1e-4, atol=1e-5)
    again = go.load(model)
    torch.testing.assert_close(go.to_torch(again)(x), want, rtol=1e-4, atol=1e-5)


def test_other_targets_have_none_of_them():
    graph, report = fused(Image(), torch.randn(2, 3, 6, 6), "simplify,fuse,runtime-fuse{target=tensorrt}")
    assert not [node for node in graph if node.domain]
    assert not report.of("runtime-fuse").modified
    with pytest.raises(go.GraphoptError, match=r"no target 'ort'"):
        go.optimize(graph, "runtime-fuse{target=ort}")


def test_nobody_gets_them_unasked():
    for alias in all_aliases().values():
        assert "runtime-fuse" not in alias.pipeline
        assert not any("runtime-fuse" in pipeline for pipeline in alias.levels.values())
