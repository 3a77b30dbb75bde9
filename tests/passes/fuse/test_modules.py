"""What fusion makes of captured modules: parameter names, module paths, and the emitted torch module."""

import pytest
import torch
from torch import nn

from graphopt.backends.torch_emit import to_torch
from graphopt.frontends.capture import capture
from graphopt.pipeline import Context, Contract, all_passes, run_pipeline
from graphopt.pipeline.instruments import Equivalence, Verify


def randomise(module):
    """Statistics and affine parameters away from 0 and 1, so that a fold that forgets one shows."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(layer.running_mean, -1, 1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.uniform_(layer.weight, -2, 2)
            nn.init.uniform_(layer.bias, -1, 1)
    return module.eval()


def fused(module, *args, pipeline="simplify,fuse"):
    graph = capture(module, args)
    report = run_pipeline(graph, pipeline, Context(graph), [Verify(), Equivalence(2e-6, list(args))])
    return graph, report


def test_conv_bn_becomes_a_conv_with_bias_at_the_same_path():
    module = randomise(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()))
    x = torch.randn(2, 3, 8, 8)
    graph, report = fused(module, x)
    assert [node.op for node in graph] == ["Conv", "Relu"]
    conv = next(iter(graph))
    assert conv.origin.module == "0"
    assert "fuse-conv-bn" in conv.origin.passes
    assert [value.parameter.name for value in graph.parameters] == ["0.weight", "0.bias"]
    assert report.of("fuse-conv-bn") is not None
    emitted = to_torch(graph)
    assert isinstance(emitted.get_submodule("0"), nn.Conv2d)
    assert emitted.get_submodule("0").bias is not None
    assert set(emitted.state_dict()) == {"0.weight", "0.bias"}
    with torch.no_grad():
        torch.testing.assert_close(emitted(x), module(x), rtol=1e-5, atol=1e-5)
    emitted(x).sum().backward()
    assert emitted.get_parameter("0.bias").grad is not None


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Conv1d(4, 6, 3, groups=2), nn.BatchNorm1d(6), (2, 4, 9)),
        (nn.Conv3d(2, 4, 2, bias=True), nn.BatchNorm3d(4), (2, 2, 4, 4, 4)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, output_padding=1), nn.BatchNorm2d(6), (2, 4, 5, 5)),
        (nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), (3, 4)),
        (nn.Linear(4, 6), nn.BatchNorm1d(6), (3, 4)),
    ],
    ids=["Conv1d", "Conv3d", "ConvTranspose2d", "Linear", "Linear with bias"],
)
def test_layers_before_a_bn(layer, norm, shape):
    torch.manual_seed(0)
    graph, _ = fused(randomise(nn.Sequential(layer, norm)), torch.randn(shape))
    assert not [node for node in graph if node.op == "BatchNormalization"]
    assert sorted(value.parameter.name for value in graph.parameters) == ["0.bias", "0.weight"]
    emitted = to_torch(graph)
    assert type(emitted.get_submodule("0")) is type(layer)


def test_bn_before_a_conv_and_a_linear():
    module = nn.Sequential(
        nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(54), nn.Linear(54, 3)
    )
    graph, _ = fused(randomise(module), torch.randn(2, 4, 5, 5))
    assert [node.op for node in graph] == ["Conv", "Relu", "Flatten", "Gemm"]
    assert sorted(v.parameter.name for v in graph.parameters) == ["1.bias", "1.weight", "5.bias", "5.weight"]


def test_linears_without_anything_between():
    graph, _ = fused(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)).eval(), torch.randn(2, 5, 6))
    assert sorted(v.parameter.name for v in graph.parameters) == ["2.bias", "2.weight"]
    assert to_torch(graph).get_submodule("2").weight.shape == (4, 6)


def test_one_layer_called_twice_is_not_split_in_two():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.a, self.b = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.b(self.conv(torch.relu(self.a(self.conv(x)))))

    graph, report = fused(randomise(Twice()), torch.randn(2, 4, 3, 3))
    assert len([node for node in graph if node.op == "BatchNormalization"]) == 2
    assert "conv-batch-norm: 2 left alone: a weight is shared with another node" in report.of("fuse-conv-bn").notes


def test_a_parameter_that_happens_to_be_called_bias_keeps_its_name():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(4, 3, 1, 1)), nn.Parameter(torch.randn(1))
            self.bn = nn.BatchNorm2d(4)

        def forward(self, x):
            return self.bn(nn.functional.conv2d(x, self.weight)) * torch.sigmoid(self.bias)

    graph, _ = fused(randomise(Odd()), torch.randn(2, 3, 4, 4))
    names = [value.parameter.name for value in graph.parameters]
    assert sorted(names) == ["bias", "bias_", "weight"]


def test_every_pass_here_promises_exact_results():
    mine = [
        cls
        for cls in all_passes().values()
        if cls.__module__.startswith(("graphopt.passes.fuse", "graphopt.passes.simplify"))
    ]
    assert len(mine) >= 22
    assert all(cls.contract is Contract.EXACT for cls in mine)


class Branches(nn.Module):
    """A block of RepVGG as it is trained."""

    def __init__(self, channels):
        super().__init__()
        self.wide = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.narrow = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.identity = nn.BatchNorm2d(channels)

    def forward(self, x):
        return torch.relu(self.identity(x) + self.narrow(x) + self.wide(x))


def test_branches_become_one_convolution():
    module = randomise(nn.Sequential(Branches(6), Branches(6)))
    x = torch.randn(2, 6, 7, 7)
    graph, _ = fused(module, x)
    assert [node.op for node in graph] == ["Conv", "Relu"] * 2
    emitted = to_torch(graph)
    assert sorted(emitted.state_dict()) == [f"{i}.wide.0.{leaf}" for i in (0, 1) for leaf in ("bias", "weight")]
    torch.testing.assert_close(emitted(x), module(x), rtol=1e-4, atol=1e-4)
