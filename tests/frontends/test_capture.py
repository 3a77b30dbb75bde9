"""Capture: the zoo, names, state, signatures, exported programs."""

import dataclasses
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from graphopt.backends import to_onnx, to_torch
from graphopt.errors import CaptureError
from graphopt.frontends.capture import capture, from_exported
from graphopt.frontends.load import load
from graphopt.ir import Leaf, difference, parse
from graphopt.models import ZOO
from graphopt.runtime.executor import run
from tests.frontends.oracle import compare
from tests.interchange import through_other_libraries

torch.manual_seed(0)
X = torch.randn(4, 6)


@pytest.mark.parametrize("name", sorted(ZOO))
def test_zoo(name):
    module, args = ZOO[name]()
    one = tuple(arg[:1] for arg in args)
    graph = capture(module, one, dynamic={i: {0: "batch"} for i in range(len(args))})
    graph.verify()
    assert not [node for node in graph.walk() if node.domain]
    assert all(str(value.shape[0]) == "batch" for value in graph.outputs)
    for example in (one, args):
        compare(graph, module, example)
    names = [name for value in graph.parameters for name in (value.parameter.name, *value.parameter.aliases)]
    assert set(module.state_dict()) <= set(names)
    assert list(to_torch(graph).state_dict()) == list(module.state_dict())
    paths = {path for path, _ in module.named_modules()}
    assert all(node.origin.module in paths for node in graph.walk())
    through_other_libraries(graph)


class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6, bias=False)
        self.second = nn.Linear(6, 6)
        self.tied = nn.Linear(6, 6, bias=False)
        self.tied.weight = self.second.weight
        self.unused = nn.Linear(2, 2)
        self.shared = nn.Sequential(self.first, nn.ReLU())
        self.first.weight.requires_grad_(False)
        self.register_buffer("kept", torch.ones(6))
        self.register_buffer("lost", torch.ones(6) * 2, persistent=False)
        self.plain = torch.full((6,), 3.0)

    def forward(self, x, others, *, scale=None, flag=True):
        y = self.shared(x) + self.tied(self.second(others["a"])) * self.kept * self.lost + self.plain
        if scale is not None and flag:
            y = y * scale
        return {"y": y, "rest": (others["b"][0], None, 7), "x": x * 2}


def test_state():
    module = Everything()
    graph = capture(module, (X, {"a": X, "b": [X]}))
    found = {value.parameter.name: value for value in graph.parameters}
    assert list(found) == [
        "kept", "lost", "first.weight", "second.weight", "second.bias", "unused.weight", "unused.bias",
    ]  # fmt: skip
    assert found["second.weight"].parameter.aliases == ("tied.weight",)
    assert found["first.weight"].parameter.aliases == ("shared.0.weight",)
    assert not found["first.weight"].parameter.requires_grad
    assert found["second.weight"].parameter.requires_grad
    assert found["kept"].parameter.buffer
    assert found["kept"].parameter.persistent
    assert not found["lost"].parameter.persistent
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        assert found[name].data.data_ptr() == tensor.data_ptr()
    assert not found["unused.weight"].uses
    plain = [value for value in graph.constants if value.parameter is None and value.shape == (6,)]
    assert len(plain) == 1
    assert torch.equal(plain[0].data, module.plain)


class Tied(nn.Module):
    """As in T5: one table, shared, embedding twice and read out, in the midst of other layers."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Embedding(10, 4)
        self.encoder, self.decoder = nn.ModuleDict(), nn.ModuleDict()
        for part in (self.encoder, self.decoder):
            part["embed"] = nn.Embedding(10, 4)
            part["embed"].weight = self.shared.weight
            part["fc"] = nn.Linear(4, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.shared.weight

    def forward(self, x):
        coded = self.encoder["fc"](self.encoder["embed"](x))
        return self.head(self.decoder["fc"](self.decoder["embed"](x)) + coded)


def test_tied_names_keep_their_places():
    module = Tied()
    graph = capture(module, torch.tensor([[1, 2]]))
    stored = load(to_onnx(graph))
    for each in (graph, parse(str(graph)), stored):
        emitted = to_torch(each)
        assert list(emitted.state_dict()) == list(module.state_dict())
        assert [name for name, _ in emitted.named_parameters()] == [name for name, _ in module.named_parameters()]
        assert emitted.head.weight is emitted.encoder.embed.weight
    assert difference(parse(str(graph)), graph) is None


def test_signature():
    module = Everything()
    kwargs = {"flag": True, "scale": torch.tensor(2.0)}
    graph = capture(module, (X, {"a": X + 1, "b": [X + 2]}), kwargs)
    assert [value.name for value in graph.inputs] == ["x", "others.a", "others.b.0", "scale"]
    assert list(graph.output_names) == ["y", "rest.0", "output.x"]
    signature = graph.signature
    assert signature.argument_names == ("x", "others")
    assert signature.training
    leaves, tree = pytree.tree_flatten(((X, {"a": X + 1, "b": [X + 2]}), kwargs))
    assert tree == signature.in_tree
    assert signature.inputs == (Leaf(0), Leaf(1), Leaf(2), Leaf(None, True), Leaf(3))
    inputs = [leaf for leaf, place in zip(leaves, signature.inputs, strict=True) if place.index is not None]
    results = run(graph, inputs)
    flat = [leaf.literal if leaf.index is None else results[leaf.index] for leaf in signature.outputs]
    mine = pytree.tree_unflatten(flat, signature.out_tree)
    with torch.no_grad():
        theirs = module.eval()(X, {"a": X + 1, "b": [X + 2]}, **kwargs)
    assert mine["rest"][1:] == (None, 7)
    torch.testing.assert_close(mine["y"], theirs["y"])
    torch.testing.assert_close(mine["x"], theirs["x"])


def test_names_of_variable_arguments():
    class Module(nn.Module):
        def forward(self, first, *rest, **named):
            return first + rest[0] * rest[1] + named["last"]

    graph = capture(Module(), (X, X, X), {"last": X})
    assert [value.name for value in graph.inputs] == ["first", "rest.0", "rest.1", "last"]
    assert list(graph.output_names) == ["output"]
    torch.testing.assert_close(run(graph, [X, X + 1, X + 2, X])[0], X + (X + 1) * (X + 2) + X)
    with pytest.raises(CaptureError, match="no open dimensions where forward takes 'last' through"):
        capture(Module(), (X, X, X), {"last": X}, dynamic={"first": {0: "n"}})


def test_a_tensor_given_twice_is_two_inputs():
    class Module(nn.Module):
        def forward(self, q, k):
            return q * 2 if q is k else q + k

    graph = capture(Module(), (X, X), dynamic={"q": {0: "n"}, "k": {0: "n"}})
    torch.testing.assert_close(run(graph, [X, X * 3])[0], X * 4)


def test_modes_are_put_back():
    module = nn.Sequential(nn.Linear(6, 6), nn.Dropout(), nn.Sequential(nn.BatchNorm1d(6))).train()
    module[2].eval()
    before = [each.training for each in module.modules()]
    running = module[2][0].running_mean.clone()
    graph = capture(module, (X,))
    assert [each.training for each in module.modules()] == before
    assert torch.equal(module[2][0].running_mean, running)
    assert graph.signature.training
    assert [node.op for node in graph] == ["Gemm", "Dropout", "BatchNormalization"]
    assert not capture(module.eval(), (X,)).signature.training


def test_provenance():
    graph = capture(ZOO["resnet"]()[0], ZOO["resnet"]()[1])
    convolutions = [node for node in graph if node.op == "Conv"]
    for node in convolutions:
        assert node.operand(1).parameter.name == f"{node.origin.module}.weight"
        assert node.origin.sources == (node.output.name,)


def test_a_module_called_twice_and_a_shared_one():
    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x):
            return self.layer(self.layer(x))

    graph = capture(Module(), (X,))
    assert [node.origin.module for node in graph] == ["layer", "layer"]


# -- exported programs


def _exported():
    module = Everything().eval()
    args = (X, {"a": X + 1, "b": [X + 2]})
    shapes = {"x": {0: Dim("n")}, "others": {"a": {0: Dim("n")}, "b": [{0: Dim("n")}]}}
    return module, args, torch.export.export(module, args, dynamic_shapes=shapes)


@dataclasses.dataclass
class Pair:
    first: torch.Tensor
    second: torch.Tensor


class ReturnsPair(nn.Module):
    def forward(self, x):
        return Pair(x, x + 1)


def test_a_result_that_torch_cannot_take_apart():
    with pytest.raises(CaptureError, match=r"forward returns a Pair.*test_capture.Pair.*register_dataclass"):
        capture(ReturnsPair(), (torch.randn(2),))


@pytest.mark.parametrize(("given", "kind"), [(torch.relu, ".* builtin"), (nn.ReLU, "the class ReLU"), (3, ".* int")])
def test_what_is_no_module(given, kind):
    with pytest.raises(CaptureError, match=f"cannot capture {kind}.*give a torch.nn.Module"):
        capture(given, (torch.randn(2),))


def test_exported_program():
    module, args, program = _exported()
    for graph in (from_exported(program), capture(program)):
        graph.verify()
        assert [value.name for value in graph.inputs] == ["x", "others.a", "others.b.0"]
        assert str(graph.inputs[0].type) == "float32[x_0, 6]"
        found = {value.parameter.name: value.parameter for value in graph.parameters}
        tied = next(p for name, p in found.items() if name in ("second.weight", "tied.weight"))  # torch takes either
        assert {tied.name, *tied.aliases} == {"second.weight", "tied.weight"}
        assert not found["lost"].persistent
        assert set(module.state_dict()) <= {n for p in found.values() for n in (p.name, *p.aliases)}
        with torch.no_grad():
            want = module(*args)
        np.testing.assert_allclose(run(graph, [X, X + 1, X + 2])[0], want["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_exported_file(tmp_path):
    _, args, program = _exported()
    path = tmp_path / "model.pt2"
    torch.export.save(program, path)
    graph = capture(path)
    leaves = pytree.tree_leaves(args)
    for mine, theirs in zip(run(graph, leaves), run(from_exported(program), leaves), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_files_that_are_no_program(tmp_path, capfd):
    with pytest.raises(CaptureError, match=r"there is no file 'nowhere\.pt2'"):
        capture("nowhere.pt2")
    path = tmp_path / "bad.pt2"
    path.write_bytes(b"no archive")
    with pytest.raises(CaptureError, match=r"bad\.pt2' holds no exported program"):
        capture(path)
    assert capfd.readouterr().err == ""


def test_a_file_whose_program_is_damaged(tmp_path, monkeypatch):
    _, _, program = _exported()
    program.graph_signature.input_specs.pop()  # as a flipped bit may leave it
    monkeypatch.setattr(sys.modules["graphopt.frontends.capture"], "_load", lambda path: program)
    with pytest.raises(
        CaptureError, match=r"'model\.pt2' holds a program that contradicts itself \(\w+: .*export it again"
    ):
        capture("model.pt2")
