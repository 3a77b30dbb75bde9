"""Groups of rescalable channels: any factors leave every zoo model's function alone; what blocks them is seen."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import graphopt as go
from graphopt.analysis import propagate
from graphopt.ir import DType, TensorType
from graphopt.ops import operators, record_of
from graphopt.passes.quantize.recovery.channels import channel_groups
from graphopt.runtime import run
from graphopt.runtime.compare import compare
from graphopt.runtime.samples import example_inputs
from tests.onnx_models import info, model, node, tensor
from tests.zoo import captured

#: Post-norm Transformers add what a LayerNormalization gives to what another one reads.
NOWHERE = {"bert"}
MODELS = ("bert", "densenet", "gpt", "mobilenet_v3", "regnet_y", "resnext", "shufflenet_v2", "swin", "unet")


def loaded(nodes, outputs, weights) -> go.Graph:
    graph = go.load(model(nodes, [info("x", (1, 4, 5, 5))], outputs, weights))
    propagate(graph)
    return graph


def rescaled(graph: go.Graph) -> int:
    torch.manual_seed(0)
    groups = list(channel_groups(graph))
    for group in groups:
        group.rescale(torch.empty(group.size, dtype=torch.float64).uniform_(-2, 2).exp())
    return len(groups)


@pytest.mark.parametrize("name", MODELS)
def test_rescaling_leaves_the_function_alone(name):
    graph = captured(name)
    go.optimize(graph, "simplify,fuse")
    inputs = example_inputs(graph, 0)
    want = run(graph, inputs)
    assert (rescaled(graph) > 0) == (name not in NOWHERE)
    assert compare(run(graph, inputs), want).max_rel < 1e-5


@pytest.mark.parametrize(
    "between",
    [nn.Sigmoid(), nn.Hardswish(), nn.ReLU6(), nn.GroupNorm(2, 8), nn.Softmax(1)],
    ids=lambda module: type(module).__name__,
)
def test_what_is_not_homogeneous_blocks(between):
    graph = go.capture(
        nn.Sequential(nn.Conv2d(3, 8, 1), between, nn.Conv2d(8, 4, 1)).eval(), (torch.randn(1, 3, 5, 5),)
    )
    groups = list(channel_groups(graph))
    # A normalisation's own scale and shift take factors in; nothing else does.
    assert len(groups) == (1 if isinstance(between, nn.GroupNorm) else 0)
    assert not any(group.makers for group in groups)


class Twice(nn.Module):
    """A gated unit whose gate is made of what it gates."""

    def __init__(self, squeeze: bool) -> None:
        super().__init__()
        self.squeeze = squeeze
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.last(x * x.mean((2, 3), keepdim=True) if self.squeeze else x * x)


@pytest.mark.parametrize("squeeze", [True, False])
def test_a_product_of_two_members_blocks(squeeze):
    graph = go.capture(Twice(squeeze).eval(), (torch.randn(1, 3, 5, 5),))
    assert list(channel_groups(graph)) == []


def test_outputs_and_shared_weights_block():
    weight = tensor("w", torch.randn(4, 4, 1, 1).numpy())
    nodes = [node("Conv", "x w", "a"), node("Relu", "a", "r"), node("Conv", "r w", "y")]
    assert list(channel_groups(loaded(nodes, ["y"], [weight]))) == []
    other = tensor("v", torch.randn(4, 4, 1, 1).numpy())
    nodes[2] = node("Conv", "r v", "y")
    assert list(channel_groups(loaded(nodes, ["y", "r"], [weight, other]))) == []
    assert len(list(channel_groups(loaded(nodes, ["y"], [weight, other])))) == 1


_SHAPES = {"Reshape": [2, 3, 8], "Expand": [2, 3, 4, 2]}
_EXTRA = {"PRelu": torch.rand(3, 1, 1), "Squeeze": torch.tensor([3]), "Unsqueeze": torch.tensor([0])}


@pytest.mark.parametrize("op", [record.name for record in operators() if record.homogeneous])
def test_records_tell_the_truth(op):
    """Positive factors on the channels come out again, along the dimension that the relation names."""
    graph = go.Graph()
    shape = (2, 3, 1, 1) if op == "Flatten" else (2, 3, 4, 1 if op in ("Squeeze", "Expand") else 2)
    x = graph.add_input("x", TensorType(DType.FLOAT32, shape))
    extra = torch.tensor(_SHAPES[op]) if op in _SHAPES else _EXTRA.get(op)
    inputs = [x] if extra is None else [x, graph.add_constant(extra, "extra")]
    if op.startswith("Reduce"):
        inputs = [x, graph.add_constant(torch.tensor([2, 3]), "axes")]
    attributes = {"kernel_shape": (2, 1)} if op in ("AveragePool", "LpPool", "MaxPool") else {}
    result = graph.add(op, *inputs, **attributes)
    made = result.producer
    graph.add_output(result)
    propagate(graph)
    axes = record_of(made).relate(made).axes
    label = axes[x, 1]
    (dim,) = [d for (value, d), found in axes.items() if value is result and found == label and label]
    factors = torch.tensor([0.5, 1.0, 7.0])
    tensors = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    want = run(graph, [tensors])[0]
    got = run(graph, [tensors * factors.reshape(-1, 1, 1)])[0]
    torch.testing.assert_close(got, want * factors.reshape(-1, *[1] * (want.dim() - 1 - dim)))
