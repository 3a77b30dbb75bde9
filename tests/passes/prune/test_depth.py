"""Blocks that are taken out: the module without them is the oracle."""

import copy

import pytest
import torch
from torch import nn

import graphopt as go
from graphopt.analysis.cost import Cost
from graphopt.errors import DataError, EquivalenceError, OptionError, PassError
from graphopt.models import ZOO
from graphopt.passes.prune import PruneDepth
from graphopt.passes.prune.blocks import Block, find_blocks
from graphopt.runtime import run
from graphopt.runtime.ort import OrtSession
from graphopt.runtime.samples import example_inputs
from tests.zoo import captured

BLOCKS = {
    "resnet": 5, "resnet_bottleneck": 3, "preact_resnet": 4, "resnext": 3, "mobilenet_v2": 4, "mobilenet_v3": 3,
    "efficientnet": 3, "regnet_y": 2, "convnext": 5, "vit": 6, "swin": 8, "mlp_mixer": 6, "bert": 4, "gpt": 4,
}  # fmt: skip


class Residual(nn.Module):
    def __init__(self, scales):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 6)) for _ in scales)
        self.head = nn.Linear(6, 3)
        with torch.no_grad():
            for block, scale in zip(self.blocks, scales, strict=True):
                block[2].weight.mul_(scale)
                block[2].bias.mul_(scale)

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def residual(scales=(1.0, 0.01, 3.0, 0.1)):
    module = Residual(scales).eval()
    return module, go.capture(module, (torch.randn(4, 6),))


@pytest.mark.parametrize("name", ZOO)
def test_zoo(name):
    graph = captured(name)
    assert len(find_blocks(graph)) == BLOCKS.get(name, 0)
    before = str(graph)
    if name not in BLOCKS:
        with pytest.raises(PassError, match="no residual blocks"):
            go.optimize(graph, "prune-depth")
        assert str(graph) == before
        return
    inputs = example_inputs(graph)
    types = [value.type for value in (*graph.inputs, *graph.outputs)]
    for pipeline in ("prune-depth{ratio=0.5,criterion=change}", "prune-depth{ratio=1}"):
        report = go.optimize(graph, pipeline, [tuple(inputs)])  # held to masked equivalence
        assert report.modified
    assert not find_blocks(graph)
    assert [value.type for value in (*graph.inputs, *graph.outputs)] == types
    want = run(graph, inputs)[0]
    torch.testing.assert_close(
        torch.from_numpy(OrtSession(go.to_onnx(graph)).run(inputs)[0]), want, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("criterion", ["change", "l1", "taylor", "hessian"])
def test_the_module_without_the_blocks(criterion):
    module, graph = residual()
    x = torch.randn(4, 6)
    report = go.optimize(graph, f"prune-depth{{blocks=2,criterion={criterion}}}", [(x, torch.tensor([0, 1, 2, 0]))])
    assert report.passes[0].notes == ("2 of 4 blocks removed: blocks.1, blocks.3",)
    less = copy.deepcopy(module)
    del less.blocks[3], less.blocks[1]
    torch.testing.assert_close(run(graph, [x])[0], less(x).detach())
    assert set(go.to_torch(graph).state_dict()) < set(module.state_dict())


def test_change_is_one_minus_the_cosine():
    module, graph = residual()
    x = torch.randn(4, 6)
    table = go.optimize(graph, "prune-depth{blocks=0,criterion=change}", [(x,)]).passes[0].details["blocks"]
    y = x
    for row, block in zip(table, module.blocks, strict=True):
        z = y + block(y)
        assert row["score"] == pytest.approx(
            1 - float(torch.cosine_similarity(y.flatten(), z.flatten(), 0).detach()), abs=1e-5
        )
        assert row["params"] == 6 * 12 + 12 + 12 * 6 + 6
        assert row["macs"] == 4 * 2 * 72
        y = z


def test_budgets_and_protected_blocks():
    _, graph = residual()
    whole = Cost(graph).macs
    go.optimize(graph, "prune-depth{macs=0.5}")
    assert Cost(graph).macs == pytest.approx(0.5 * whole, rel=0.05)  # the head stays
    _, graph = residual()
    report = go.optimize(graph, [PruneDepth(params=0.76, ignore=("blocks.1",))])
    assert [row["block"] for row in report.passes[0].details["blocks"] if row["removed"]] == ["blocks.3"]
    with pytest.raises(PassError, match="cannot be reached"):
        go.optimize(residual()[1], "prune-depth{params=0.01}")
    with pytest.raises(OptionError, match=r"blocks\.0") as error:
        go.optimize(residual()[1], "prune-depth{ignore=[layer1]}")
    assert "matches no block" in str(error.value)


def test_a_branch_that_something_else_reads_is_no_block():
    class Leaky(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            y = self.a(x)
            return x + self.b(y), y

    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x):
            return x[:1] + self.a(x)  # the sum is larger than what would be left

    for module in (Leaky(), Wide()):
        assert not find_blocks(go.capture(module, (torch.randn(3, 4),)))


def test_the_check_catches_a_block_that_takes_the_wrong_side(monkeypatch):
    def wrong(self, graph):
        self.add.output.replace_uses(self.add.operand(1 - self.place))

    monkeypatch.setattr(Block, "remove", wrong)
    with pytest.raises(EquivalenceError):
        go.optimize(residual()[1], "prune-depth{blocks=1}")


@pytest.mark.parametrize(
    "text", ["ratio=2", "blocks=-1", "params=1", "macs=0.5,blocks=1", "criterion=fpgm", "batches=-1"]
)
def test_bad_options(text):
    with pytest.raises(OptionError):
        go.optimize(residual()[1], f"prune-depth{{{text}}}")


def test_change_needs_data():
    with pytest.raises(DataError, match="data"):
        go.optimize(residual()[1], "prune-depth{criterion=change}")
    with pytest.raises(PassError, match="4 can"):
        go.optimize(residual()[1], "prune-depth{blocks=5}")


def test_loaded_from_onnx_the_same_blocks_go():
    module, graph = residual()
    loaded = go.load(go.to_onnx(graph))
    tables = [go.optimize(each, "prune-depth{blocks=2}").passes[0].details["blocks"] for each in (graph, loaded)]
    assert [[row["removed"] for row in table] for table in tables] == [[False, True, False, True]] * 2
    x = torch.randn(4, 6)
    less = copy.deepcopy(module)
    del less.blocks[3], less.blocks[1]
    torch.testing.assert_close(run(loaded, [x])[0], less(x).detach())
