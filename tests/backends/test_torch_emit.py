"""Emission as a torch module: names, modes, copies, calling conventions, and the zoo."""

import collections
import copy
import dataclasses
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import fx, nn

from graphopt.backends import to_torch
from graphopt.errors import DataError, UnsupportedOperatorError
from graphopt.frontends.capture import capture
from graphopt.ir import DType, Graph, Node, TensorType
from graphopt.models import ZOO
from tests.zoo import captured


class Block(nn.Module):
    """A bit of everything that a state dict can hold."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.conv = nn.Conv1d(6, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm1d(8, momentum=0.3)
        self.drop = nn.Dropout(0.4)
        self.proj = nn.Linear(8, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.unused = nn.Linear(2, 3)
        self.gain = nn.Parameter(torch.ones(()) * 1.5)
        self.frozen = nn.Parameter(torch.randn(6), requires_grad=False)
        self.register_buffer("offset", torch.randn(6))
        self.register_buffer("table", torch.randn(6), persistent=False)

    def forward(self, ids):
        x = self.embedding(ids).transpose(1, 2)
        x = torch.relu(self.bn(self.conv(x))).transpose(1, 2)
        x = self.proj(self.drop(x)) * self.gain + self.frozen + self.offset + self.table
        return self.head(x)


IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 0, 1]])


@pytest.fixture
def pair():
    net = Block().eval()
    return net, to_torch(capture(net, (IDS,), dynamic={"ids": {0: "batch"}}))


def leaves(module):
    called = [node.target for node in module.graph.nodes if node.op == "call_function"]
    return {function.__name__ for function in called if "graphopt" in (function.__module__ or "")}


def test_state_dict_has_the_keys_of_the_original_and_loads_into_it(pair):
    net, module = pair
    assert module.state_dict().keys() == net.state_dict().keys()
    for key, tensor in module.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[key])
        assert tensor.data_ptr() != net.state_dict()[key].data_ptr()
    Block().load_state_dict(module.state_dict())


def test_layers_are_modules_at_their_paths(pair):
    net, module = pair
    for name in ("embedding", "conv", "bn", "drop", "proj", "head"):
        assert repr(module.get_submodule(name)) == repr(net.get_submodule(name))
    called = {node.target for node in module.graph.nodes if node.op == "call_module"}
    assert called == {"embedding", "conv", "bn", "drop", "proj", "head"}


def test_it_computes_the_same_at_any_batch_size(pair):
    net, module = pair
    for batch in (1, 2, 3):
        torch.testing.assert_close(module(IDS[:batch]), net(IDS[:batch]), rtol=1e-5, atol=1e-5)


def test_code_is_readable(pair):
    code = pair[1].code
    assert "self.conv(" in code
    assert "torch.relu(bn)" in code
    assert "* gain" in code
    assert "graphopt" not in code
    assert not leaves(pair[1])


def test_nodes_know_their_modules(pair):
    by_target = {node.target: node for node in pair[1].graph.nodes}
    assert by_target["conv"].meta["module_path"] == "conv"


def test_kinds_of_parameters_are_kept(pair):
    net, module = pair
    assert module.head.weight is module.embedding.weight
    assert not module.frozen.requires_grad
    assert module.gain.requires_grad
    assert dict(module.named_buffers()).keys() == dict(net.named_buffers()).keys()


def test_train_and_eval_mean_what_they_should(pair):
    net, module = pair
    assert not module.training
    assert not module.bn.training
    torch.manual_seed(1)
    want = net.train()(IDS)
    torch.manual_seed(1)
    got = module.train()(IDS)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert torch.equal(module.bn.running_mean, net.bn.running_mean)
    assert module.bn.num_batches_tracked == 1


def test_captured_in_training_mode_it_is_in_training_mode():
    assert to_torch(capture(Block().train(), (IDS,))).drop.training


def test_a_training_step_moves_every_used_parameter(pair):
    module = pair[1].train()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(IDS).square().mean().backward()
    optimizer.step()
    still = {name for name, p in module.named_parameters() if torch.equal(p, before[name])}
    assert still == {"frozen", "unused.weight", "unused.bias"}


@pytest.mark.parametrize("again", [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_lose_nothing(pair, again):
    _, module = pair
    twin = again(again(module))
    assert isinstance(twin, fx.GraphModule)
    assert type(twin).__name__ == "Block"
    assert list(twin.state_dict()) == list(module.state_dict())
    assert dict(twin.named_buffers()).keys() == dict(module.named_buffers()).keys()
    assert twin.head.weight is twin.embedding.weight
    assert not twin.frozen.requires_grad
    assert twin.code == module.code
    assert not twin.training
    assert [node.meta["module_path"] for node in twin.graph.nodes if node.op == "call_module"] == [
        node.meta["module_path"] for node in module.graph.nodes if node.op == "call_module"
    ]
    assert torch.equal(twin(IDS), module(IDS))


def test_a_deep_copy_is_independent(pair):
    _, module = pair
    twin = copy.deepcopy(module)
    with torch.no_grad():
        twin.proj.weight.zero_()
    assert module.proj.weight.abs().sum() > 0


def test_a_long_graph_pickles():
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.FLOAT32, (2,)))
    for _ in range(3000):
        x = graph.add("Relu", x)
    graph.add_output(x, "y")
    module = pickle.loads(pickle.dumps(to_torch(graph)))
    assert torch.equal(module(torch.tensor([-1.0, 1.0])), torch.tensor([0.0, 1.0]))


def test_it_exports_with_a_dynamic_batch(pair):
    net, module = pair
    program = torch.export.export(module, (IDS,), dynamic_shapes={"ids": {0: torch.export.Dim("batch")}})
    torch.testing.assert_close(program.module()(IDS[:2]), net(IDS[:2]), rtol=1e-5, atol=1e-5)
    assert set(program.state_dict) >= set(net.state_dict())


def test_it_compiles_whole(pair):
    net, module = pair
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True, dynamic=True)
    torch.testing.assert_close(compiled(IDS), net(IDS), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(compiled(IDS[:2]), net(IDS[:2]), rtol=1e-5, atol=1e-5)


# -- calling conventions

Pair = collections.namedtuple("Pair", "first second")


class Structured(nn.Module):
    def forward(self, items, options, *, scale=None, flip=False):
        total = items[0] + items[1]["a"] * options["k"]
        total = total if scale is None else total * scale
        total = total.flip(0) if flip else total
        return {"sum": total, "pair": Pair(total + 1, [total + 2, None]), "flag": 3}


def test_structures_of_arguments_and_results_are_kept():
    x = torch.randn(3)
    args = ([x, {"a": x + 1}], {"k": x + 2})
    net = Structured()
    module = to_torch(capture(net, args, {"scale": x}))
    got, want = module(*args, scale=2 * x), net(*args, scale=2 * x)
    assert type(got) is dict
    assert list(got) == list(want)
    assert type(got["pair"]) is Pair
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(pickle.loads(pickle.dumps(module))(*args, scale=2 * x), want)
    torch.testing.assert_close(copy.deepcopy(module)(*args, scale=2 * x), want)


def test_python_arguments_must_be_those_of_the_capture():
    x = torch.randn(3)
    args = ([x, {"a": x}], {"k": x})
    module = to_torch(capture(Structured(), args, {"scale": None, "flip": True}))
    want = Structured()(*args, flip=True)
    torch.testing.assert_close(module(*args), want)
    torch.testing.assert_close(module(*args, None, True), want)
    with pytest.raises(DataError, match="'flip' is False, but the model was captured with True"):
        module(*args, flip=False)


@dataclasses.dataclass
class Batch:
    """A container of the user's own, registered with torch."""

    image: torch.Tensor
    label: torch.Tensor


torch.export.register_dataclass(Batch, serialized_type_name="tests.backends.test_torch_emit.Batch")


def test_registered_containers_are_taken_and_given():
    class Swap(nn.Module):
        def forward(self, batch):
            return Batch(batch.label * 2, batch.image + 1)

    batch = Batch(torch.randn(2), torch.randn(3))
    module = to_torch(capture(Swap(), (batch,)))
    for twin in (module, copy.deepcopy(module)):
        result = twin(batch)
        assert type(result) is Batch
        assert torch.equal(result.image, batch.label * 2)
        assert torch.equal(result.label, batch.image + 1)


def test_a_pickle_is_read_by_a_new_process(tmp_path):
    """Functions are found by name: torch's, the records', carried operators, and slices with sizes in them."""

    class Net(nn.Module):
        def forward(self, x):
            y = torch.special.bessel_j0(x)[: x.shape[0] - 1]
            return torch.nn.functional.max_pool2d(y, 2), torch.linalg.vector_norm(y, dim=1), torch.cumsum(y, 1)

    x = torch.randn(4, 1, 6, 6)
    module = to_torch(capture(Net(), (x,), dynamic={"x": {0: "n"}}))
    torch.save((module, x, module(x)), tmp_path / "module.pt")
    code = (
        "import sys, torch\n"
        "module, x, want = torch.load(sys.argv[1], weights_only=False)\n"
        "assert all(map(torch.equal, module(x), want))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "module.pt")], check=True)


def test_arguments_can_be_given_by_name():
    module = to_torch(capture(nn.Sequential(collections.OrderedDict(a=nn.ReLU())), (torch.randn(2),)))
    assert torch.equal(module(input=torch.tensor([-1.0, 2.0])), torch.tensor([0.0, 2.0]))


def test_without_a_signature_inputs_go_by_position_and_name():
    graph = Graph()
    a = graph.add_input("in:a", TensorType(DType.FLOAT32, (2,)))
    b = graph.add_input("b", TensorType(DType.FLOAT32, (2,)), default=torch.tensor([1.0, 2.0]))
    graph.add_output(graph.add("Add", a, b), "sum")
    graph.add_output(graph.add("Sub", a, b), "difference")
    module = to_torch(graph)
    x = torch.tensor([5.0, 5.0])
    assert torch.equal(module(x)[0], x + torch.tensor([1.0, 2.0]))
    total, difference = module(in_a=x, b=x)
    assert torch.equal(total, 2 * x)
    assert not difference.any()


def test_operators_without_torch_are_all_named():
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.FLOAT32, (2,)))
    y = graph.append(Node("Fancy", [x], domain="com.acme")).output
    graph.add_output(graph.append(Node("Fancier", [y], domain="com.acme")).output, "y")
    with pytest.raises(UnsupportedOperatorError, match=re.escape("com.acme::Fancier, com.acme::Fancy")):
        to_torch(graph)


def test_constant_strings_are_held_and_copied():
    graph = Graph()
    text = graph.add_constant(np.array(["a", "b"], dtype=object), "text")
    graph.add_output(graph.add("Identity", text), "y")
    module = to_torch(graph)
    for twin in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert list(twin()) == ["a", "b"]


@pytest.mark.parametrize(
    "name",
    ["shufflenet_v2", "mobilenet_v3", "unet", "swin", "gpt", "bert", "lstm_tagger", "gru_classifier", "image_vector"],
)
def test_zoo(name):
    net, args = ZOO[name]()
    module = to_torch(captured(name, "batch"))
    assert list(module.state_dict()) == list(net.state_dict())
    for inputs in (args, tuple(torch.cat([a, a])[:3] for a in args)):
        torch.testing.assert_close(module(*inputs), net(*inputs), rtol=1e-5, atol=1e-5)
    assert leaves(module) <= {"ReduceL2"}
