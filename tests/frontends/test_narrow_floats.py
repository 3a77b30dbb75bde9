"""Modules in half precision and bfloat16: in, out to torch, out to ONNX, and what ONNX Runtime has kernels for."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphopt as go
from graphopt.ir import DType, difference
from graphopt.runtime import run
from graphopt.runtime.ort import OrtSession

#: Differences are of the last bits of the element type.
BITS = {torch.float16: 2e-3, torch.bfloat16: 2e-2}


class Mixed(nn.Module):
    """Convolution, normalisations, attention, an embedding, and a buffer that is not stored."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.words, self.norm, self.qkv = nn.Embedding(10, 8), nn.LayerNorm(8), nn.Linear(8, 24)
        self.register_buffer("scale", torch.full((8,), 0.5), persistent=False)

    def forward(self, image, words, mask=None):
        tokens = F.gelu(self.bn(self.conv(image))).flatten(2).transpose(1, 2)
        x = self.norm(torch.cat([tokens, self.words(words)], 1)) * self.scale
        q, k, v = self.qkv(x).chunk(3, -1)
        return {"mean": F.scaled_dot_product_attention(q, k, v, mask).mean(1), "rest": (None, x)}


@pytest.mark.parametrize("dtype", list(BITS))
def test_a_module_of_it_goes_all_the_way(dtype):
    torch.manual_seed(0)
    module = Mixed().eval().to(dtype)
    args = torch.randn(2, 3, 4, 4).to(dtype), torch.tensor([[1, 2, 3], [4, 5, 6]])
    graph = go.capture(module, args, dynamic={"image": {0: "batch"}, "words": {0: "batch", 1: "length"}})
    assert {value.dtype for value in graph.parameters if value.dtype.is_float} == {DType.of(dtype)}
    want = module(*args)
    bound = {"rtol": BITS[dtype], "atol": BITS[dtype]}
    for mine, theirs in zip(run(graph, args), (want["mean"], want["rest"][1]), strict=True):
        torch.testing.assert_close(mine, theirs, **bound)
    emitted = go.to_torch(graph)
    assert {k: v.dtype for k, v in emitted.state_dict().items()} == {k: v.dtype for k, v in module.state_dict().items()}
    got = emitted(*args)
    assert got["rest"][0] is None
    torch.testing.assert_close(got["mean"], want["mean"], **bound)
    model = go.to_onnx(graph)
    stored = go.load(model)
    assert difference(stored, go.load(go.to_onnx(stored))) is None
    torch.testing.assert_close(run(stored, args)[0], want["mean"], **bound)
    if dtype is torch.float16:
        onnx = OrtSession(model).run(list(args))
        torch.testing.assert_close(torch.from_numpy(onnx[0]), want["mean"], **bound)
