"""Module forms, with torch's own modules as the oracle: captured and emitted, a layer is what it was."""

import pytest
import torch
from torch import nn

from graphopt.backends import to_torch
from graphopt.frontends.capture import capture
from graphopt.ir import DType, Graph, Parameter, TensorType


class Wrapper(nn.Module):
    def __init__(self, layer, pick=None):
        super().__init__()
        self.layer = layer
        self.pick = pick

    def forward(self, *args):
        result = self.layer(*args)
        return result if self.pick is None else self.pick(result)


def randomised(layer):
    for tensor in (*layer.parameters(), *layer.buffers()):
        if tensor.is_floating_point():
            tensor.data = torch.rand_like(tensor) + 0.5 if tensor.dim() == 1 else torch.randn_like(tensor)
    return layer


def emitted(net, *args, **options):
    module = to_torch(capture(net, args, **options))
    assert module.state_dict().keys() == net.state_dict().keys()
    torch.testing.assert_close(module(*args), net(*args), rtol=1e-5, atol=1e-5)
    return module


torch.manual_seed(0)
IMAGE = torch.randn(2, 4, 9, 8)
ROWS = torch.randn(2, 5, 6)

LAYERS = [
    (nn.Conv1d(5, 6, 3, stride=2, padding=1, dilation=2), ROWS),
    (nn.Conv2d(4, 8, (3, 2), stride=(2, 1), padding=(1, 0), groups=2), IMAGE),
    (nn.Conv2d(4, 4, 3, groups=4, bias=False), IMAGE),
    (nn.Conv3d(4, 2, 3, padding=1), torch.randn(1, 4, 4, 5, 6)),
    (nn.ConvTranspose1d(5, 6, 3, stride=2), ROWS),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, dilation=1), IMAGE),
    (nn.ConvTranspose3d(4, 2, 2, bias=False), torch.randn(1, 4, 4, 5, 6)),
    (nn.Linear(6, 3), ROWS[0]),
    (nn.Linear(6, 3), ROWS),
    (nn.Linear(6, 3, bias=False), ROWS[0]),
    (nn.Linear(6, 3, bias=False), ROWS),
    (nn.BatchNorm1d(6, eps=1e-3, momentum=0.2), ROWS[0]),
    (nn.BatchNorm1d(5), ROWS),
    (nn.BatchNorm2d(4, affine=False), IMAGE),
    (nn.BatchNorm3d(4, momentum=0.01), torch.randn(2, 4, 3, 3, 3)),
    (nn.LayerNorm(6, eps=1e-6), ROWS),
    (nn.LayerNorm((5, 6)), ROWS),
    (nn.LayerNorm(6, bias=False), ROWS),
    (nn.RMSNorm(6, eps=1e-6), ROWS),
    (nn.GroupNorm(2, 4), IMAGE),
    (nn.InstanceNorm1d(5, affine=True), ROWS),
    (nn.InstanceNorm2d(4, affine=True, eps=1e-3), IMAGE),
    (nn.PReLU(), ROWS),
    (nn.PReLU(4), IMAGE),
    (nn.PReLU(5), ROWS),
    (nn.Embedding(7, 3), torch.tensor([[0, 6, 2]])),
    (nn.Dropout(0.25), ROWS),
    (nn.Dropout2d(0.25), IMAGE),
    (nn.AlphaDropout(0.25), ROWS),
]


@pytest.mark.parametrize(("layer", "x"), LAYERS, ids=[str(layer) for layer, _ in LAYERS])
def test_layer(layer, x):
    net = Wrapper(randomised(layer)).eval()
    module = emitted(net, x)
    assert repr(module.layer) == repr(layer)
    assert [node.op for node in module.graph.nodes] == ["placeholder", "call_module", "output"]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent(kind, batch_first, layers, bidirectional):
    layer = kind(6, 3, layers, batch_first=batch_first, bidirectional=bidirectional, dropout=0.2 * (layers - 1))
    module = emitted(Wrapper(layer).eval(), ROWS)
    twin = module.layer
    assert type(twin) is kind
    assert twin.num_layers == layers
    assert twin.bidirectional is bidirectional
    assert twin.dropout == layer.dropout
    assert not twin.batch_first
    assert sum(node.op == "call_module" for node in module.graph.nodes) == 1
    assert not any("graphopt" in str(node.target) for node in module.graph.nodes)


@pytest.mark.parametrize("layers", [1, 2])
def test_recurrent_with_initial_states(layers):
    states = (torch.randn(layers, 5, 3), torch.randn(layers, 5, 3))
    module = emitted(Wrapper(nn.LSTM(6, 3, layers)), ROWS, states)
    assert isinstance(module.layer, nn.LSTM)
    assert isinstance(emitted(Wrapper(nn.GRU(6, 3, layers)), ROWS, states[0]).layer, nn.GRU)


def test_recurrent_without_bias_and_with_relu():
    module = emitted(Wrapper(nn.RNN(6, 3, nonlinearity="relu", bias=False)), ROWS)
    assert module.layer.nonlinearity == "relu"
    assert not module.layer.bias


def test_recurrent_trains():
    module = emitted(Wrapper(nn.LSTM(6, 3, 2, bidirectional=True), lambda result: result[0]), ROWS)
    module.train()(ROWS).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_folded_recurrent_weights_are_cut_out_of_their_constants():
    layer = nn.LSTM(6, 3, bidirectional=True)
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, (2, 5, 6)))
    gates = {name: torch.cat([p.chunk(4)[i] for i in (0, 3, 1, 2)]) for name, p in layer.named_parameters()}

    def packed(stem):
        return torch.stack([gates[f"{stem}_l0"], gates[f"{stem}_l0_reverse"]]).detach()

    bias = torch.cat([packed("bias_ih"), packed("bias_hh")], 1)
    operands = [
        graph.add_constant(t, n) for t, n in ((packed("weight_ih"), "W"), (packed("weight_hh"), "R"), (bias, "B"))
    ]
    y = graph.add("LSTM", x, *operands, direction="bidirectional", hidden_size=3)
    graph.add_output(y, "y")
    module = to_torch(graph)
    assert isinstance(module.lstm_0, nn.LSTM)
    for name, parameter in layer.named_parameters():
        assert torch.equal(module.lstm_0.get_parameter(name), parameter)
    want = layer(ROWS)[0].unflatten(2, (2, 3)).transpose(1, 2)
    torch.testing.assert_close(module(ROWS), want, rtol=1e-5, atol=1e-5)


# -- where a module would not be the same, a function is called


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.LayerNorm(8, elementwise_affine=False)
        self.same = nn.Conv2d(4, 4, (2, 3), padding="same", stride=1)

    def forward(self, x):
        x = self.conv(self.conv(x))
        return self.norm(self.same(x) + nn.functional.conv2d(x, self.conv.weight, padding=1, stride=1))


def test_a_layer_called_twice_is_one_module():
    module = emitted(Shared(), IMAGE)
    assert [n.target for n in module.graph.nodes if n.op == "call_module"].count("conv") == 2
    functions = {node.target for node in module.graph.nodes if node.op == "call_function"}
    assert nn.functional.conv2d in functions
    assert nn.functional.layer_norm in functions
    assert module.same.padding == (0, 0)
    assert nn.functional.pad in functions


class Odd(nn.Module):
    """Parameters that look like a layer's, with something more."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 6))
        self.bias = nn.Parameter(torch.randn(3))
        self.temperature = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return nn.functional.linear(x, self.weight, self.bias) * self.temperature


@pytest.mark.parametrize("x", [ROWS, ROWS[0]])
def test_a_module_with_further_state_stays_itself(x):
    module = emitted(Wrapper(Odd()), x)
    assert type(module.layer) is nn.Module
    module(x).sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_a_bare_layer_has_no_path_to_be_at():
    module = emitted(nn.Linear(6, 3), ROWS[0])
    assert [name for name, _ in module.named_parameters()] == ["weight", "bias"]


def test_weights_in_other_layout_stay_as_they_are():
    """GPT-2's Conv1D keeps [in, out]: an nn.Linear would change its state dict."""

    class Transposed(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 3))
            self.bias = nn.Parameter(torch.randn(3))

        def forward(self, x):
            return torch.addmm(self.bias, x, self.weight)

    module = emitted(Wrapper(Transposed()), ROWS[0])
    assert module.layer.weight.shape == (6, 3)


def test_statistics_without_counter_get_none():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, (2, 4, 9, 8)))
    names = ("weight", "bias", "running_mean", "running_var")
    held = [
        graph.add_constant(torch.rand(4), parameter=Parameter(f"bn.{n}", buffer=n.startswith("run"))) for n in names
    ]
    graph.add_output(graph.add("BatchNormalization", x, *held), "y")
    module = to_torch(graph).train()
    assert isinstance(module.bn, nn.BatchNorm2d)
    assert list(module.state_dict()) == [f"bn.{n}" for n in names]
    module(IMAGE)


def test_multi_head_attention_keeps_its_keys():
    layer = nn.MultiheadAttention(6, 2, batch_first=True)
    module = emitted(Wrapper(layer, lambda result: result[0]).eval(), ROWS, ROWS, ROWS)
    assert isinstance(module.layer.out_proj, nn.Linear)


def test_transformer_layer():
    layer = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True)
    module = emitted(Wrapper(layer).train().eval(), ROWS)
    assert isinstance(module.layer.norm1, nn.LayerNorm)
    assert isinstance(module.layer.linear1, nn.Linear)
