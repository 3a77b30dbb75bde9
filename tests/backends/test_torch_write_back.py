"""write_back: smaller parameters into the user's own module."""

import pytest
import torch
from torch import nn

from graphopt.backends import write_back
from graphopt.errors import GraphoptError
from graphopt.frontends.capture import capture
from graphopt.ir import Node
from graphopt.runtime import run


class Net(nn.Module):
    """Every kind of layer whose attributes state sizes."""

    def __init__(self, width=8, heads=None):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, groups=width, padding=1)
        self.gn = nn.GroupNorm(2, width)
        self.prelu = nn.PReLU(width)
        self.up = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.ln = nn.LayerNorm(width)
        self.fc = nn.Linear(width, 5)
        self.heads = heads

    def forward(self, x):
        x = self.prelu(self.gn(self.depthwise(self.bn(self.stem(x)))))
        x = self.ln(self.up(x).mean((2, 3)))
        x = x if self.heads is None else x.view(x.shape[0], 2, self.heads).flatten(1)
        return self.fc(x)


torch.manual_seed(0)
KEPT = torch.tensor([0, 2, 4, 5])
X = torch.randn(2, 3, 6, 6)


def pruned(net):
    """The graph of `net` with half of the channels, as a pruning pass leaves it."""
    graph = capture(net.eval(), (X,), dynamic={"x": {0: "batch"}})
    for value in graph.parameters:
        name, data = value.parameter.name, value.data
        inner = name in ("up.weight", "fc.weight")
        if data.dim() and data.shape[0] == 8:
            data = data[KEPT]
        if inner:
            data = data[:, KEPT]
        value.data = data.clone()
        value.type = value.type.with_shape(data.shape)
    for node in graph.nodes:
        if node.op == "Conv" and node.attributes["group"] == 8:
            node.attributes["group"] = 4
    return graph


def state(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def test_layers_shrink_in_place():
    net = Net()
    before, layers = state(net), dict(net.named_modules())
    graph = pruned(net)
    write_back(graph, net)
    assert dict(net.named_modules()) == layers
    assert (net.stem.in_channels, net.stem.out_channels) == (3, 4)
    assert (net.depthwise.in_channels, net.depthwise.out_channels, net.depthwise.groups) == (4, 4, 4)
    assert (net.up.in_channels, net.up.out_channels) == (4, 4)
    assert (net.bn.num_features, net.gn.num_channels, net.prelu.num_parameters) == (4, 4, 4)
    assert net.ln.normalized_shape == (4,)
    assert (net.fc.in_features, net.fc.out_features) == (4, 5)
    assert torch.equal(net.stem.weight, before["stem.weight"][KEPT])
    sample = torch.randn(3, 3, 6, 6)
    torch.testing.assert_close(net(sample), run(graph, [sample])[0], rtol=1e-5, atol=1e-5)
    net.train()(sample).sum().backward()
    assert net.up.weight.grad.shape == (4, 4, 2, 2)


def test_the_graph_captured_before_keeps_the_old_weights():
    net = Net()
    first = capture(net.eval(), (X,))
    want = run(first, [X])[0]
    graph = pruned(net)
    with torch.no_grad():
        bias = next(v for v in graph.parameters if v.parameter.name == "fc.bias")
        bias.data = bias.data + 1
    write_back(graph, net)
    assert torch.equal(run(first, [X])[0], want)


def test_parameters_of_the_same_shape_stay_the_same_objects():
    net = Net()
    bias = net.fc.bias
    write_back(pruned(net), net)
    assert net.fc.bias is bias


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_stays(training):
    net = Net()
    graph = pruned(net)
    write_back(graph, net.train(training))
    assert net.training is training
    assert net.bn.training is training


def refused(net, graph, match):
    before, sizes = state(net), repr(net)
    with pytest.raises(GraphoptError, match=match):
        write_back(graph, net)
    assert repr(net) == sizes
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_vanished_parameter_is_refused():
    net = Net()
    graph = capture(net.eval(), (X,))
    bn = next(node for node in graph.nodes if node.op == "BatchNormalization")
    bn.output.replace_uses(bn.operand(0))
    graph.sweep([bn.output])
    refused(net, graph, "no longer in the graph: bn.weight, bn.bias, bn.running_mean and 1 more")


def test_a_new_parameter_is_refused():
    net = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 2, 1))
    graph = capture(net.eval(), (X,))
    conv = next(iter(graph.nodes))
    conv.set_inputs([conv.operand(0), conv.operand(1), graph.add_constant(torch.ones(4))])
    conv.origin = conv.origin.touched_by("fuse")
    refused(net, graph, "new in the graph: 0.bias")


def test_a_quantized_graph_is_refused():
    net = nn.Sequential(nn.Conv2d(3, 4, 1))
    graph = capture(net.eval(), (X,))
    conv = next(iter(graph.nodes))
    scale = graph.add_constant(torch.tensor(0.1))
    q = graph.insert_before(conv, Node("QuantizeLinear", [conv.operand(0), scale]))
    back = graph.insert_before(conv, Node("DequantizeLinear", [q.output, scale]))
    conv.set_input(0, back.output)
    refused(net, graph, "the graph is quantized")


def test_another_module_is_refused():
    refused(nn.Sequential(nn.Linear(3, 3)), capture(Net().eval(), (X,)), "no longer in the graph: 0.weight")


def test_sizes_in_the_modules_own_code_are_found_out():
    net = Net()
    graph = pruned(net)
    net.heads = 4
    refused(net, graph, "the module fails with its new parameters")
    net.heads = 2
    write_back(graph, net)


def test_inputs_that_cannot_be_made_up():
    class Elevens(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(11, 11)

        def forward(self, x):
            return self.fc(x.view(-1, 11))

    net, x = Elevens(), torch.ones(4, 22)
    graph = capture(net.eval(), (x,), dynamic={0: {0: "n", 1: "m"}})
    with pytest.raises(GraphoptError, match=r"does not run on made-up inputs.*say example="):
        write_back(graph, net)
    write_back(graph, net, example=[x])


def test_made_up_inputs_are_as_large_as_it_takes():
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    write_back(capture(net.eval(), (X,), dynamic={0: {0: "n", 2: "h", 3: "w"}}), net)


def test_a_layer_used_twice_and_tied_weights_shrink_together():
    class Shared(nn.Module):
        """One layer called twice, and two that share a weight."""

        def __init__(self):
            super().__init__()
            self.inner, self.first, self.last = (
                nn.Linear(8, 8),
                nn.Linear(4, 8, bias=False),
                nn.Linear(4, 8, bias=False),
            )
            self.last.weight = self.first.weight

        def forward(self, x):
            return self.inner(self.inner(self.first(x)).relu()) @ self.last.weight

    net, x = Shared().eval(), torch.randn(2, 4)
    graph = capture(net, (x,), dynamic={"x": {0: "batch"}})
    for value in graph.parameters:
        data = value.data[KEPT]
        value.data = data[:, KEPT].clone() if value.parameter.name == "inner.weight" else data.clone()
        value.type = value.type.with_shape(value.data.shape)
    write_back(graph, net)
    assert net.first.weight is net.last.weight
    assert (net.inner.in_features, net.inner.out_features, net.first.out_features) == (4, 4, 4)
    torch.testing.assert_close(net(x), run(graph, [x])[0])


def test_another_computation_is_found_out():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    graph = capture(net.eval(), (X,))
    relu = next(node for node in graph.nodes if node.op == "Relu")
    relu.output.replace_uses(relu.operand(0))
    refused(net, graph, "computes something else than the graph")


def test_a_recurrent_layer_shrinks():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, 6)
            self.fc = nn.Linear(6, 2)

        def forward(self, x):
            return self.fc(self.lstm(x)[0])

    net, x = Tagger().eval(), torch.randn(5, 2, 4)
    graph = capture(net, (x,))
    small = nn.LSTM(4, 6)
    for value in graph.parameters:
        if value.parameter.name.startswith("lstm"):
            value.data = getattr(small, value.parameter.name.removeprefix("lstm.")).detach()
    write_back(graph, net)
    torch.testing.assert_close(net(x), run(graph, [x])[0], rtol=1e-5, atol=1e-5)
    assert net.lstm._flat_weights[0] is net.lstm.weight_ih_l0
