"""Quantization in torch: the numbers of ONNX's definition, and gradients for training."""

import copy
import pickle

import pytest
import torch
from torch import nn

from graphopt.backends import to_torch, update_from
from graphopt.frontends.capture import capture
from graphopt.ir import DType, Graph, Node, Origin, Parameter, TensorType
from graphopt.runtime import run


def quantized(graph, value, scale, zero, axis=1, dtype=None):
    """`value` through QuantizeLinear and DequantizeLinear."""
    operands = [graph.add_constant(torch.tensor(scale), "scale"), graph.add_constant(zero, "zero", dtype=dtype)]
    attributes = {"axis": axis} if axis != 1 else {}
    if dtype is not None:
        attributes["output_dtype"] = int(dtype)
    q = graph.add("QuantizeLinear", value, *operands, **attributes)
    attributes.pop("output_dtype", None)
    return graph.add("DequantizeLinear", q, *operands, **attributes)


def image(graph, *shape):
    return graph.add_input("x", TensorType.make(DType.FLOAT32, shape))


def targets(module):
    return [node.target for node in module.graph.nodes if node.op == "call_function"]


CASES = [
    (0.05, torch.tensor(7, dtype=torch.uint8), 1, None),
    (0.05, torch.tensor(0, dtype=torch.int8), 1, None),
    (0.001, torch.tensor(-100, dtype=torch.int16), 1, None),
    (0.3, torch.tensor(1, dtype=torch.int8), 1, DType.INT4),
    ([0.1, 0.2, 0.03], torch.tensor([1, 2, 3], dtype=torch.int8), 1, None),
    ([0.1, 0.2, 0.03, 0.7], torch.tensor([1, 2, 3, 0], dtype=torch.uint8), -1, None),
]


@pytest.mark.parametrize(("scale", "zero", "axis", "dtype"), CASES)
def test_a_pair_is_fake_quantization(scale, zero, axis, dtype):
    graph = Graph()
    graph.add_output(quantized(graph, image(graph, 2, 3, 4), scale, zero, axis, dtype), "y")
    module = to_torch(graph)
    x = torch.randn(2, 3, 4, requires_grad=True)
    y = module(x)
    torch.testing.assert_close(y, run(graph, [x.detach()])[0], rtol=1e-5, atol=1e-6)
    expected = (
        torch.fake_quantize_per_tensor_affine if isinstance(scale, float) else torch.fake_quantize_per_channel_affine
    )
    assert targets(module) == [expected]
    (10 * x).sum().backward()
    x.grad = None
    module(x).sum().backward()
    assert set(x.grad.unique().tolist()) <= {0.0, 1.0}
    assert x.grad.sum() > 0


def test_gradients_stop_outside_the_range():
    graph = Graph()
    graph.add_output(quantized(graph, image(graph, 2), 0.1, torch.tensor(0, dtype=torch.int8)), "y")
    x = torch.tensor([1.0, 100.0], requires_grad=True)
    to_torch(graph)(x).sum().backward()
    assert x.grad.tolist() == [1.0, 0.0]


def test_scales_are_buffers_that_move_and_copy_but_no_state():
    graph = Graph()
    graph.add_output(quantized(graph, image(graph, 2), 0.1, torch.tensor(3, dtype=torch.uint8)), "y")
    module = to_torch(graph)
    assert not module.state_dict()
    assert len(dict(module.named_buffers())) == 2
    x = torch.tensor([0.123, -0.08])
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x), module(x))
    program = torch.export.export(module, (x,))
    torch.testing.assert_close(program.module()(x), module(x))


def test_a_pair_read_twice_is_computed_once():
    graph = Graph()
    x = image(graph, 2)
    scale, zero = graph.add_constant(torch.tensor(0.1)), graph.add_constant(torch.tensor(0, dtype=torch.int8))
    q = graph.add("QuantizeLinear", x, scale, zero)
    both = [graph.add("DequantizeLinear", q, scale, zero) for _ in range(2)]
    graph.add_output(graph.add("Add", *both), "y")
    assert targets(to_torch(graph)).count(torch.fake_quantize_per_tensor_affine) == 1


@pytest.mark.parametrize("missing", ["zero point", "grid"])
def test_other_pairs(missing):
    graph = Graph()
    x = image(graph, 4)
    scale = graph.add_constant(torch.tensor(0.1))
    if missing == "zero point":
        y = graph.add("DequantizeLinear", graph.add("QuantizeLinear", x, scale), scale)
    else:  # another scale on the way back: no fake quantization
        y = graph.add("DequantizeLinear", graph.add("QuantizeLinear", x, scale), graph.add_constant(torch.tensor(0.2)))
    graph.add_output(y, "y")
    module, sample = to_torch(graph), torch.randn(4)
    torch.testing.assert_close(module(sample), run(graph, [sample])[0])
    assert (torch.fake_quantize_per_tensor_affine in targets(module)) == (missing == "zero point")


def test_lone_operators_go_by_their_records():
    graph = Graph()
    x = image(graph, 4)
    scale, zero = graph.add_constant(torch.tensor(0.1)), graph.add_constant(torch.tensor(3, dtype=torch.uint8))
    graph.add_output(graph.add("QuantizeLinear", x, scale, zero), "q")
    q = graph.add_input("q", TensorType.make(DType.UINT8, (4,)))
    graph.add_output(graph.add("DequantizeLinear", q, scale, zero), "y")
    feed = [torch.randn(4), torch.tensor([0, 1, 2, 255], dtype=torch.uint8)]
    for got, want in zip(to_torch(graph)(*feed), run(graph, feed), strict=True):
        assert torch.equal(got, want)


# -- quantized weights


def insert_pairs(graph):
    """Fake-quantizes activations and weights of every Conv, as a quantization pass does."""
    for node in [n for n in graph.nodes if n.op == "Conv"]:
        for index, (scale, zero) in enumerate([(0.05, torch.uint8), (0.02, torch.int8)]):
            operands = [graph.add_constant(torch.tensor(scale)), graph.add_constant(torch.tensor(0, dtype=zero))]
            q = graph.insert_before(node, Node("QuantizeLinear", [node.operand(index), *operands]))
            back = graph.insert_before(node, Node("DequantizeLinear", [q.output, *operands]))
            node.set_input(index, back.output)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


def test_quantization_aware_training_keeps_keys_and_trains_float_weights():
    net, x = Net(), torch.rand(2, 3, 6, 6)
    graph = capture(net, (x,))
    insert_pairs(graph)
    module = to_torch(graph)
    assert list(module.state_dict()) == list(net.state_dict())
    torch.testing.assert_close(module(x), run(graph, [x])[0], rtol=1e-5, atol=1e-5)
    before = module.conv.weight.detach().clone()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(x).square().sum().backward()
    optimizer.step()
    assert not torch.equal(module.conv.weight, before)
    update_from(graph, module)
    torch.testing.assert_close(module(x), run(graph, [x])[0], rtol=1e-5, atol=1e-5)


def stored(named):
    """A Conv whose int8 weight and int32 bias are stored as integers."""
    graph = Graph()
    x = image(graph, 1, 3, 5, 5)
    torch.manual_seed(0)
    w = torch.randint(-127, 128, (4, 3, 3, 3), dtype=torch.int8)
    b = torch.randint(-1000, 1000, (4,), dtype=torch.int32)
    parameters = [Parameter(f"conv.{n}") for n in ("weight", "bias")] if named else [None, None]
    scales = torch.rand(4) * 0.01 + 0.01
    zero = graph.add_constant(torch.zeros(4, dtype=torch.int8))
    integers = [graph.add_constant(t, n, parameter=p) for t, n, p in zip((w, b), "wb", parameters, strict=True)]
    weight = graph.add("DequantizeLinear", integers[0], graph.add_constant(scales), zero, axis=0)
    bias = graph.add("DequantizeLinear", integers[1], graph.add_constant(scales * 0.1), axis=0)
    graph.add_output(graph.append(Node("Conv", [x, weight, bias], origin=Origin(passes=("quantize",)))).output, "y")
    return graph, w, b


@pytest.mark.parametrize("named", [True, False])
def test_stored_integers_become_float_weights_and_go_back(named):
    graph, w, _b = stored(named)
    module, x = to_torch(graph), torch.randn(1, 3, 5, 5)
    torch.testing.assert_close(module(x), run(graph, [x])[0], rtol=1e-5, atol=1e-5)
    parameters = dict(module.named_parameters())
    assert len(parameters) == 2
    assert not named or set(parameters) == {"conv.weight", "conv.bias"}
    update_from(graph, module)
    assert any(value.data is w for value in graph.constants)
    weight = next(p for p in parameters.values() if p.dim() == 4)
    with torch.no_grad():
        weight.mul_(0.7123)  # no ties, which torch and ONNX round differently
    update_from(graph, module)
    data = next(value.data for value in graph.constants if value.data.dim() == 4)
    assert data.dtype is torch.int8
    assert (data - w * 0.7123).abs().max() <= 0.5001
    torch.testing.assert_close(module(x), run(graph, [x])[0], rtol=1e-5, atol=1e-5)


def test_integer_buffers_of_a_module_stay_integers():
    class Stored(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("w", torch.randint(-9, 9, (3, 4), dtype=torch.int8))

    graph = Graph()
    x = image(graph, 2, 3)
    held = graph.add_constant(Stored().w, parameter=Parameter("w", buffer=True))
    weight = graph.add("DequantizeLinear", held, graph.add_constant(torch.tensor(0.1)))
    graph.add_output(graph.add("MatMul", x, weight), "y")
    module = to_torch(graph)
    assert module.state_dict()["w"].dtype is torch.int8
    assert not list(module.parameters())
    sample = torch.randn(2, 3)
    torch.testing.assert_close(module(sample), run(graph, [sample])[0])
