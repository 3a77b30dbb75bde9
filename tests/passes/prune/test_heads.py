"""Half of the heads and of the FFN width of attention networks: masked-equivalent, as many parameters as predicted."""

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import graphopt as go
from graphopt.analysis.cost import Cost
from graphopt.models import build
from graphopt.runtime import run
from graphopt.runtime.ort import OrtSession
from tests.zoo import captured

PIPELINE = "prune-channels{ratio=0.5,kinds=[heads,ffn]}"


class GroupedAttention(nn.Module):
    """A decoder layer as LLaMA has it: fewer keys than queries, a gated FFN, no biases."""

    def __init__(self, dim, heads, shared, head_dim, hidden):
        super().__init__()
        self.heads, self.shared, self.head_dim = heads, shared, head_dim
        self.norm, self.after = nn.RMSNorm(dim), nn.RMSNorm(dim)
        self.q = nn.Linear(dim, heads * head_dim, bias=False)
        self.k = nn.Linear(dim, shared * head_dim, bias=False)
        self.v = nn.Linear(dim, shared * head_dim, bias=False)
        self.o = nn.Linear(heads * head_dim, dim, bias=False)
        self.gate, self.up = (nn.Linear(dim, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, dim, bias=False)

    def split(self, x, heads):
        return x.view(*x.shape[:2], heads, self.head_dim).transpose(1, 2)

    def repeated(self, x):
        batch, heads, length, width = x.shape
        times = self.heads // self.shared
        return x[:, :, None].expand(batch, heads, times, length, width).reshape(batch, self.heads, length, width)

    def forward(self, x):
        y = self.norm(x)
        q, k, v = (
            self.split(self.q(y), self.heads),
            self.split(self.k(y), self.shared),
            self.split(self.v(y), self.shared),
        )
        mixed = nn.functional.scaled_dot_product_attention(q, self.repeated(k), self.repeated(v), is_causal=True)
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        y = self.after(x)
        return x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))


def grouped():
    torch.manual_seed(0)
    layers = (GroupedAttention(24, heads=8, shared=4, head_dim=6, hidden=40) for _ in range(2))
    return nn.Sequential(*layers, nn.Linear(24, 5)).eval(), (torch.randn(2, 7, 24),)


def with_bias(dim, hidden, table=0):
    """What half of the heads and of the hidden features take from one layer; `table` is of the relative positions."""
    return 4 * dim * dim // 2 + 3 * dim // 2 + hidden // 2 * (2 * dim + 1) + table


PREDICTED = {
    "vit": 3 * with_bias(64, 256),
    "bert": 2 * with_bias(64, 256),
    "gpt": 2 * with_bias(64, 256),
    # queries and output of four heads, keys and values of two; gate, up and down of twenty features
    "grouped": 2 * (2 * 24 * 4 * 6 + 2 * 24 * 2 * 6 + 3 * 24 * 20),
}


def swin_prediction(module):
    stages = [block for name, block in module.named_modules() if type(block).__name__ == "SwinBlock"]
    return sum(
        with_bias(
            block.attn.qkv.in_features, 4 * block.attn.qkv.in_features,
            block.attn.relative_position_bias_table.shape[0] * (block.attn.heads // 2),
        )
        for block in stages
    )  # fmt: skip


@pytest.mark.parametrize("name", [*PREDICTED, "swin"])
def test_half_of_heads_and_ffn(name):
    module, args = grouped() if name == "grouped" else build(name)
    graph = go.capture(module, args) if name == "grouped" else captured(name)
    before = Cost(graph).weights
    report = go.optimize(graph, PIPELINE)
    assert before - Cost(graph).weights == (swin_prediction(module) if name == "swin" else PREDICTED[name])
    groups = report.passes[0].details["groups"]
    assert {each["kind"] for each in groups} == {"heads", "ffn"}
    assert all(2 * each["removed"] == each["components"] for each in groups)
    inputs = [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, torch.Tensor)]
    there = OrtSession(go.to_onnx(graph)).run(inputs)
    torch.testing.assert_close(torch.from_numpy(there[0]), run(graph, inputs)[0], rtol=1e-4, atol=1e-5)
