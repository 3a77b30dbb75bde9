"""update_from: trained weights back into the graph."""

import copy

import pytest
import torch
from torch import nn

from graphopt.backends import to_torch, update_from
from graphopt.errors import DataError, ShapeError
from graphopt.frontends.capture import capture
from graphopt.ir import DType, Graph, TensorType
from graphopt.runtime import run

torch.manual_seed(0)
X = torch.randn(8, 3, 6, 6)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)  # batch norm would leave it no gradient
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.fc.weight
        self.register_buffer("table", torch.randn(4), persistent=False)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x))).mean((2, 3))
        return self.tied(self.fc(x)) + self.table


def train(module, steps=2):
    optimizer = torch.optim.SGD(module.train().parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        module(X).square().mean().backward()
        optimizer.step()
    return module.eval()


def test_weights_and_statistics_come_back():
    graph = capture(Net().eval(), (X,))
    before = {value: value.data.clone() for value in graph.parameters}
    held = {value: value.data for value in graph.parameters}
    module = train(to_torch(graph))
    for value, data in before.items():
        assert torch.equal(value.data, data), "training touched the graph"
    update_from(graph, module)
    changed = {value.parameter.name for value in graph.parameters if not torch.equal(value.data, before[value])}
    assert changed == {"conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var",
                       "bn.num_batches_tracked", "fc.weight", "fc.bias"}  # fmt: skip
    for value, data in held.items():
        assert torch.equal(data, before[value]), "a shared tensor was written in place"
    torch.testing.assert_close(run(graph, [X])[0], module(X), rtol=1e-5, atol=1e-5)
    train(module)
    assert not torch.allclose(run(graph, [X])[0], module(X)), "the graph shares memory with the module"


def test_a_copy_or_the_original_module_will_do():
    net = Net().eval()
    graph = capture(net, (X,))
    other = train(copy.deepcopy(to_torch(graph)))
    update_from(graph, other)
    torch.testing.assert_close(run(graph, [X])[0], other(X), rtol=1e-5, atol=1e-5)
    original = train(copy.deepcopy(net), 3)
    update_from(graph, original)
    torch.testing.assert_close(run(graph, [X])[0], original(X), rtol=1e-5, atol=1e-5)


def test_element_types_stay():
    graph = capture(Net().eval(), (X,))
    update_from(graph, to_torch(graph).half())
    assert {value.data.dtype for value in graph.parameters} == {torch.float32, torch.int64}


def test_nothing_changes_when_something_does_not_fit():
    graph = capture(Net().eval(), (X,))
    before = [value.data for value in graph.parameters]
    module = train(to_torch(graph))
    module.fc.bias = nn.Parameter(torch.zeros(5))
    with pytest.raises(ShapeError, match=r"'fc.bias' is \[5\] in the module and \[4\] in the graph"):
        update_from(graph, module)
    del module.bn
    with pytest.raises(DataError, match=r"the module has no 'bn\.weight'"):
        update_from(graph, module)
    assert all(value.data is data for value, data in zip(graph.parameters, before, strict=True))


def test_an_unchanged_weight_keeps_its_tensor():
    graph = capture(Net().eval(), (X,))
    before = [value.data for value in graph.parameters]
    update_from(graph, to_torch(graph))
    assert all(value.data is data for value, data in zip(graph.parameters, before, strict=True))


def test_it_can_be_undone():
    graph = capture(Net().eval(), (X,))
    module = train(to_torch(graph))
    before = [value.data for value in graph.parameters]
    with graph.transaction() as journal:
        update_from(graph, module)
        journal.rollback()
    assert all(value.data is data for value, data in zip(graph.parameters, before, strict=True))


def test_transposed_and_packed_weights_go_back_as_they_were():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, (2, 5, 6)))
    w = [graph.add_constant(torch.randn(*s)) for s in ((1, 9, 6), (1, 9, 3), (1, 18))]
    y = graph.add("GRU", x, *w, hidden_size=3, linear_before_reset=1)
    y = graph.add("Squeeze", y, graph.add_constant(torch.tensor([1])))
    graph.add_output(graph.add("MatMul", y, graph.add_constant(torch.randn(3, 4))), "y")
    before = [value.data for value in graph.constants]
    module = to_torch(graph)
    assert isinstance(module.gru_0, nn.GRU)
    assert isinstance(module.matmul_0, nn.Linear)
    update_from(graph, module)
    assert all(value.data is data for value, data in zip(graph.constants, before, strict=True))
    sample = torch.randn(2, 5, 6)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))
    update_from(graph, module)
    torch.testing.assert_close(run(graph, [sample])[0], module(sample), rtol=1e-5, atol=1e-5)
