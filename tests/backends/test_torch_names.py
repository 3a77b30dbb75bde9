"""Graphs without parameter names, as files have them: weights become parameters under names worth having."""

import io

import pytest
import torch
from torch import nn

from graphopt.backends import to_torch, update_from
from graphopt.backends.torch_plan import scope_path
from graphopt.frontends.capture import capture
from graphopt.frontends.load import load
from graphopt.ir import DType, Graph, Node, Origin, TensorType
from graphopt.models import ZOO
from graphopt.runtime import run

IMAGE = TensorType.make(DType.FLOAT32, (1, 3, 5, 5))


def conv(graph, x, weight_name="", name="", size=3):
    weight = graph.add_constant(torch.randn(size, size, 1, 1), weight_name)
    return graph.append(Node("Conv", [x, weight], name=name)).output


def keys(graph):
    return list(to_torch(graph).state_dict())


@pytest.mark.parametrize(
    ("weight", "node", "expected"),
    [
        ("layer1.0.conv1.weight", "", "layer1.0.conv1.weight"),
        ("onnx::Conv_193", "/layer1/layer1.0/conv1/Conv", "layer1.0.conv1.weight"),
        ("onnx::Conv_193", "Conv_12", "conv_0.weight"),
        ("W", "", "conv_0.weight"),
        ("block.kernel", "", "conv_0.weight"),
        ("forward.weight", "", "conv_0.weight"),
        ("", "", "conv_0.weight"),
    ],
)
def test_names(weight, node, expected):
    graph = Graph()
    graph.add_output(conv(graph, graph.add_input("x", IMAGE), weight, node), "y")
    assert keys(graph) == [expected]


def test_names_are_made_unique():
    graph = Graph()
    x = graph.add_input("x", IMAGE)
    for weight in ("a.weight", "a.weight", "a.b.weight", "", ""):
        x = conv(graph, x, weight)
    graph.add_output(x, "y")
    found = keys(graph)
    assert len(set(found)) == 5
    assert found[0] == "a.weight"


def test_a_weight_read_twice_is_one_module():
    graph = Graph()
    x = graph.add_input("x", IMAGE)
    weight = graph.add_constant(torch.randn(3, 3, 1, 1))
    y = graph.add("Conv", graph.add("Conv", x, weight), weight)
    graph.add_output(graph.add("Conv", y, weight, graph.add_constant(torch.randn(3))), "y")
    module, sample = to_torch(graph), torch.randn(1, 3, 5, 5)
    torch.testing.assert_close(module(sample), run(graph, [sample])[0], rtol=1e-5, atol=1e-5)
    assert len([node for node in module.graph.nodes if node.op == "call_module"]) == 2
    assert len(list(module.parameters())) == 2


def test_small_constants_are_no_state():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, (2, 3)))
    x = graph.add("Add", x, graph.add_constant(torch.randn(3), "mean"))
    x = graph.add("Mul", x, graph.add_constant(torch.randn(2, 1), "weights.gamma"))
    x = graph.add("Div", x, graph.add_constant(torch.tensor(2.0), "blocks.0.scale"))
    graph.add_output(x, "y")
    module = to_torch(graph)
    assert list(module.state_dict()) == ["weights.gamma"]
    assert [name for name, _ in module.named_buffers()] == ["mean"]
    sample = torch.randn(2, 3)
    assert torch.equal(module(sample), run(graph, [sample])[0])


def test_weights_without_a_module_are_parameters():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, (1, 3, 5, 5)))
    w = graph.add_constant(torch.randn(3, 2, 3, 3))
    graph.add_output(graph.add("ConvTranspose", x, w, pads=(0, 1, 1, 0), strides=(2, 2)), "y")
    module, sample = to_torch(graph), torch.randn(1, 3, 5, 5)
    torch.testing.assert_close(module(sample), run(graph, [sample])[0], rtol=1e-5, atol=1e-5)
    assert [name for name, _ in module.named_parameters()] == ["convtranspose_0.weight"]


def test_constants_of_a_captured_module_are_no_state_but_what_a_pass_makes_is():
    class Blur(nn.Module):
        def forward(self, x):
            return nn.functional.conv2d(x, torch.full((3, 1, 3, 3), 1 / 9), groups=3)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.blur = nn.Conv2d(3, 3, 1, bias=False), Blur()

        def forward(self, x):
            return self.blur(self.conv(x))

    graph = capture(Net().eval(), (torch.randn(1, 3, 5, 5),))
    assert keys(graph) == ["conv.weight"]
    node = next(node for node in graph.nodes if node.op == "Conv")
    node.set_inputs([node.operand(0), node.operand(1), graph.add_constant(torch.randn(3))])
    node.origin = node.origin.touched_by("fuse-conv-bn")
    module = to_torch(graph)
    assert sorted(module.state_dict()) == ["conv.bias", "conv.weight"]
    assert isinstance(module.conv, nn.Conv2d)


def test_a_dropout_inside_a_layer_goes_beside_it():
    graph = Graph()
    x = graph.add_input("x", IMAGE)
    x = conv(graph, x, "block.weight")
    x = graph.append(Node("Dropout", [x], origin=Origin("block"))).output
    x = graph.append(Node("Dropout", [x], origin=Origin("head.drop"))).output
    graph.add_output(x, "y")
    dropouts = [name for name, m in to_torch(graph).named_modules() if isinstance(m, nn.Dropout)]
    assert sorted(dropouts) == ["dropout_0", "head.drop"]


def test_scope_paths():
    assert scope_path("/layer1/layer1.0/conv1/Conv") == "layer1.0.conv1"
    assert scope_path("/fc/Gemm") == "fc"
    assert scope_path("Conv_12") == ""
    assert scope_path("/Conv") == ""
    assert scope_path("/a b/Conv") == ""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["resnet", "bert", "gru_classifier", "lstm_tagger"])
def test_exported_models_become_trainable_modules(name):
    net, args = ZOO[name]()
    file = io.BytesIO()
    torch.onnx.export(net, args, file, dynamo=False, opset_version=17)
    graph = load(file.getvalue())
    module = to_torch(graph)
    torch.testing.assert_close(module(*args), net(*args), rtol=1e-4, atol=1e-5)
    same = module.state_dict().keys() & net.state_dict().keys()
    if name == "resnet":  # the exporter folds batch norms into convolutions
        assert {"conv1.weight", "conv1.bias", "layers.0.0.conv1.weight"} <= module.state_dict().keys()
        assert isinstance(module.conv1, nn.Conv2d)
    else:
        assert same == net.state_dict().keys()
    optimizer = torch.optim.SGD(module.train().parameters(), lr=0.01)
    results = module(*args)
    sum(r.square().mean() for r in (results if isinstance(results, tuple) else [results])).backward()
    assert all(p.grad is not None for p in module.parameters())
    optimizer.step()
    update_from(graph, module.eval())
    results = module(*args)
    torch.testing.assert_close(
        run(graph, args)[0], results[0] if isinstance(results, tuple) else results, rtol=1e-4, atol=1e-5
    )
