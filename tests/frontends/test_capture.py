"""Capture: names, state, signatures, open dimensions, in-place code, control flow, errors, exported programs."""

import dataclasses

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
from graphopt.ops import execute
from graphopt.runtime.executor import run
from tests.frontends.oracle import Wrap, check, compare
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


# -- open dimensions


@pytest.mark.parametrize(
    "dynamic",
    [
        {"x": {0: "batch"}, "y": {0: "batch"}},
        {0: {0: "batch"}, 1: {0: "batch"}},
        ({0: "batch"}, {0: "batch"}),
        {"x": ["batch", None], "y": ("batch", None)},
        {"x": {0: Dim("batch")}, "y": {0: Dim("batch")}},
        {"x": {-2: "batch", 1: None}, "y": {0: Dim.AUTO}},
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_ways_to_say_dynamic(dynamic, batch):
    class Module(nn.Module):
        def forward(self, x, y):
            return torch.cat([x + y, x], 1)

    graph = capture(Module(), (X[:batch], X[:batch]), dynamic=dynamic)
    assert str(graph.outputs[0].type) == "float32[batch, 12]"


def test_names_meet_in_expressions():
    def join(x, y):
        return torch.cat([x, y]), x.reshape(-1), x.unflatten(1, (2, 3)).transpose(0, 1).flatten(1)

    graph = capture(Wrap(join), (X, X), dynamic={"args": [{0: "a"}, {0: "b"}]})
    assert [str(value.type) for value in graph.outputs] == ["float32[a + b, 6]", "float32[6*a]", "float32[2, 3*a]"]


def test_auto_dimensions_are_named_after_their_place():
    graph = capture(nn.Linear(6, 3), (X,), dynamic={"input": {0: Dim.DYNAMIC}})
    assert str(graph.outputs[0].type) == "float32[input_0, 3]"


def test_image_sizes_that_are_open():
    class Module(nn.Module):
        def forward(self, x):
            half = nn.functional.interpolate(x, scale_factor=0.5, mode="bilinear", recompute_scale_factor=True)
            odd = nn.functional.pad(x, (0, x.shape[2] % 2, 0, 0))
            return half, nn.functional.avg_pool2d(x, 2), odd, nn.functional.interpolate(x, size=(x.shape[2] * 2, 5))

    module = Module()
    graph = capture(module, (torch.randn(1, 3, 12, 12),), dynamic={"x": {0: "b", 2: "h", 3: "w"}})
    assert [str(value.type) for value in graph.outputs] == [
        "float32[b, 3, floor(h/2), floor(w/2)]", "float32[b, 3, floor(h/2), floor(w/2)]",
        "float32[b, 3, h, w + Mod(h, 2)]", "float32[b, 3, 2*h, 5]",
    ]  # fmt: skip
    for shape in ((2, 3, 12, 12), (1, 3, 9, 10), (3, 3, 16, 5)):
        compare(graph, module, (torch.randn(shape),))


def test_what_is_assumed_of_open_dimensions():
    graph = capture(Wrap(lambda x: x.view(-1, 2, 6)), (X,), dynamic={"args": [{0: "n"}]})
    assert "((6*n) % 12) == 0" in graph.metadata["torch.assumes"]
    assert not capture(nn.Linear(6, 3), (X,), dynamic={"input": {0: "n"}}).metadata
    graph = capture(Wrap(lambda x: x if x.shape[0] > 3 else x * 2), (X,), dynamic={"args": [{0: "n"}]})
    assert graph.metadata == {"torch.assumes": "n > 3"}
    graph = capture(Wrap(lambda x: x if x.shape[0] > 3 else x * 2), (X[:1],), dynamic={"args": [{0: "n"}]})
    assert graph.metadata == {"torch.assumes": "n <= 3"}
    area = Wrap(lambda x: x if x.shape[0] * x.shape[1] > 7 else x * 2)
    with pytest.raises(CaptureError, match=r"takes another way where a\*b > 7 does not hold, as in the example"):
        capture(area, (X[:1],), dynamic={"args": [{0: "a", 1: "b"}]})
    with pytest.raises(CaptureError, match=r"cannot be dynamic: the module's code needs math\.trunc.* == 2"):
        capture(Wrap(lambda x: torch.zeros(int(x.shape[0] * 0.5))), (X,), dynamic={"args": [{0: "n"}]})


def test_numbers_in_and_out():
    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.ones(2))

        def forward(self, x, k, flag, name):
            return x, self.p, None, x.shape[0], x.shape[1], (x * k if flag and name == "a" else x)

    graph = capture(Module(), (X, 3, True, "a"), dynamic={"x": {0: "n"}})
    graph.verify()
    assert graph.signature.inputs == (Leaf(0), Leaf(None, 3), Leaf(None, True), Leaf(None, "a"))
    assert graph.signature.outputs == (Leaf(0), Leaf(1), Leaf(None), Leaf(2), Leaf(None, 6), Leaf(3))
    same, parameter, rows, scaled = run(graph, [X])
    assert torch.equal(same, X)
    assert torch.equal(parameter, torch.ones(2))
    assert rows.item() == 4
    assert torch.equal(scaled, X * 3)


def test_everything_has_a_type():
    module, args = ZOO["swin"]()
    graph = capture(module, args, dynamic={0: {0: "batch"}})
    assert all(value.shape is not None for value in graph.values())


def test_contents_of_sizes_are_known():
    graph = capture(Wrap(lambda x: torch.arange(x.shape[0] * 2) + x.shape[0]), (X,), dynamic={"args": [{0: "n"}]})
    [sized] = [node for node in graph if node.op == "Range"]
    assert str(sized.operand(1).known[()]) == "2*n"


# -- in-place code


def _partly(x):
    y = torch.zeros(x.shape[0], 6)
    y[:, 0] = x[:, 1]
    y[:, 2:4] = x[:, 2:4] * 2
    y[:, ::5] += 1
    y[0] = 7
    y[-1] -= 1
    return y


def _through_views(x):
    y = x.clone()
    v = y.view(-1, 2, 3)
    v[:, 0].mul_(2)
    y.t()[1].add_(5)
    w = v.transpose(1, 2)
    w[:, 0, 1].zero_()
    y.unsqueeze(0).squeeze(0).narrow(1, 4, 2).fill_(3)
    return y, v, w


def _pieces(x):
    y = x * 1
    a, b = y.chunk(2, 1)
    a.add_(1)
    for row in b.unbind(1):
        row.mul_(row)
    first, _ = y.split([2, 4], 1)
    first.neg_()
    return y, a, b


def _later_reads(x):
    y = x + 1
    z = y * 2
    y.relu_()
    y += z
    return y, z, y.sin_().cos()


def _masks(x):
    y = x.clone()
    y[y > 0] = 0.5
    y[:, [1, 3]] = 9
    y.masked_fill_(y < -1, -1).clamp_(max=2)
    y.index_put_((torch.tensor([0]), torch.tensor([5])), torch.tensor(4.0))
    y.scatter_(1, torch.zeros(x.shape[0], 1, dtype=torch.long), 8.0)
    return y


@pytest.mark.parametrize("function", [_partly, _through_views, _pieces, _later_reads, _masks])
def test_in_place_code(function):
    if function is _masks:
        check(lambda x: function(x), X, batch=None)
    else:
        check(function, X[:3])


def test_in_place_activations():
    layers = nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True), nn.SiLU(inplace=True)
    check(nn.Sequential(nn.Conv2d(3, 4, 3), *layers), torch.randn(2, 3, 5, 5))


def test_in_place_through_an_expanded_view_is_refused():
    def write(x):
        y = x[:, :1].clone()
        y.expand(-1, 6)[:, :1].add_(1)
        return y

    with pytest.raises(CaptureError, match=r"writing in place through aten\.expand"):
        capture(Wrap(write), (X,))


# -- control flow


def test_regions_without_gradient():
    @torch.no_grad()
    def inner(x):
        return x.sin() * 2

    check(lambda x: inner(x) + x, X)


def _branches(x):
    return torch.cond(x.sum() > 0, lambda x: (x + 1, x.sum(1)), lambda x: (x - 1, x.mean(1)), (x,))


def test_branches():
    graph = check(_branches, X)
    [branch] = [node for node in graph if node.op == "If"]
    assert {name: len(body) for name, body in branch.attributes.items()} == {"then_branch": 2, "else_branch": 2}
    for sign in (1, -1):
        compare(graph, Wrap(_branches), (X.abs() * sign,))


def test_branches_with_parameters():
    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x):
            return torch.cond(x.sum() > 0, self.a, self.b, (x,))

    module = Module()
    graph = capture(module, (X,), dynamic={"x": {0: "n"}})
    graph.verify()
    assert {value.parameter.name for value in graph.parameters} == set(module.state_dict())
    for sign in (1, -1):
        compare(graph, module, (X.abs() * sign,))


def test_loops():
    from torch._higher_order_ops.while_loop import while_loop

    def count(x):
        return while_loop(lambda i, x: i < 4, lambda i, x: (i + 1, x * 2 + i), (torch.tensor(0), x))

    graph = capture(Wrap(count), (X,))
    graph.verify()
    compare(graph, Wrap(count), (X,))


def test_autocast():
    class Off(nn.Module):
        def forward(self, x):
            with torch.autocast("cpu", enabled=False):
                return x.sin() @ x.T

    class On(nn.Module):
        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return x @ x.T

    check(Off(), X)
    with pytest.raises(CaptureError, match="forward turns autocast on"):
        capture(On(), (X,))


def test_random_numbers():
    def sample(x):
        return torch.randn_like(x), torch.rand(x.shape[0], 3), torch.rand_like(x), torch.randn(2, 2), torch.bernoulli(x)

    graph = capture(Wrap(sample), (torch.full((1, 2000), 0.5),), dynamic={"args": [{0: "n"}]})
    graph.verify()
    normal, uniform, like, fixed, coins = results = run(graph, [torch.full((2, 2000), 0.5)])
    assert [tuple(t.shape) for t in results] == [(2, 2000), (2, 3), (2, 2000), (2, 2), (2, 2000)]
    assert abs(normal.mean()) < 0.1
    assert abs(normal.std() - 1) < 0.1
    assert 0 <= like.min() < 0.1 < 0.9 < like.max() <= 1
    assert uniform.max() <= 1
    assert fixed.dtype == torch.float32
    assert set(coins.unique().tolist()) == {0.0, 1.0}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_reparametrised_layers():
    from torch.nn.utils import parametrizations

    check(parametrizations.weight_norm(nn.Linear(6, 3)), X)
    check(parametrizations.spectral_norm(nn.Linear(6, 3)), X)
    check(torch.nn.utils.weight_norm(nn.Conv1d(4, 3, 3)), torch.randn(2, 4, 6))


def test_checkpointed_layers():
    from torch.utils.checkpoint import checkpoint

    check(lambda x: checkpoint(torch.sin, x, use_reentrant=False) * 2, X)


# -- what has no converter


def test_decomposed_operators():
    check(lambda x: torch.nn.functional.huber_loss(x, x * 2) + torch.special.xlog1py(x.abs(), x.abs()), X)
    check(lambda x: torch.nn.functional.cross_entropy(x, x.argmax(1)), X)


def test_decomposition_keeps_the_origin():
    graph = capture(Wrap(lambda x: nn.functional.huber_loss(x, x * 2)), (X,))
    assert len(graph) > 3
    assert all(node.origin.sources == ("huber_loss",) for node in list(graph)[1:])


def test_carried_operators():
    graph = check(
        lambda x: torch.cummax(x, 1).values + torch.mode(x, dim=1, keepdim=True)[0],
        X,
        carried=["cummax", "mode"],
    )
    node = next(node for node in graph if node.domain == "aten")
    assert node.overload == "default"
    assert node.attributes["args"] == '{"args": [{"operand": 0}, 1], "kwargs": {}}'
    [values, indices] = execute(node, [X])
    torch.testing.assert_close((values, indices), tuple(torch.cummax(X, 1)))


def test_results_that_no_node_can_have():
    with pytest.raises(CaptureError, match="gives lists of tensors among its results"):
        capture(Wrap(lambda x: torch.histogramdd(x, [2, 2]).hist), (torch.randn(5, 2),))


def test_carried_operator_with_a_size():
    graph = check(lambda x: (x + 1).as_strided((x.shape[0], 3), (6, 1)), X, carried=["as_strided"])
    [node] = [node for node in graph if node.domain == "aten"]
    assert '{"size": 1}' in node.attributes["args"]


# -- errors


class Decides(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x


class Counts(nn.Module):
    def forward(self, x):
        for _ in range(int(x.argmax())):
            x = x + 1
        return x


class Remembers(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(1))

    def forward(self, x):
        self.steps += 1
        return x + self.steps


class Leaves(nn.Module):
    def forward(self, x):
        return torch.from_numpy(x.numpy())


class Fixes(nn.Module):
    def forward(self, x):
        return x + torch.ones(4, 6)


@pytest.mark.parametrize(
    ("module", "dynamic", "message"),
    [
        (Decides(), None, r"data-dependent control flow.*test_capture.py:\d+\); use torch.where or torch.cond"),
        (Counts(), None, r"data-dependent control flow.*test_capture.py:\d+\)"),
        (Remembers(), None, r"forward writes the module's own 'steps'; a graph keeps no state"),
        (Leaves(), None, r"numpy.*test_capture.py:\d+\)"),
        (Fixes(), {"x": {0: "n"}}, r"dimension 0 of input 'x' \('n'\) cannot be dynamic.*test_capture.py:\d+\)"),
        (nn.Linear(5, 3), None, r"torch.export: .*\(at .*test_capture.py|torch.export: "),
        (Fixes(), {"y": {0: "n"}}, r"dynamic names 'y', which is no input; the inputs are x"),
        (Fixes(), {"x": {3: "n"}}, r"dynamic names dimension 3 of input 'x', whose shape is \(4, 6\)"),
        (Fixes(), {1: {0: "n"}}, r"dynamic names input 1; there are 1 positional inputs"),
        (Fixes(), {"x": "n"}, r"dynamic for input 'x' is 'n'; write it as"),
        (Fixes(), 7, r"dynamic is a int; write it as"),
    ],
)
def test_errors(module, dynamic, message, capfd):
    with pytest.raises(CaptureError, match=message) as caught:
        capture(module, (X,), dynamic=dynamic)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_wrong_arguments():
    with pytest.raises(CaptureError, match=r"do not fit Fixes\.forward: missing a required argument: 'x'"):
        capture(Fixes(), ())
    with pytest.raises(CaptureError, match=r"the examples disagree about 'n': 4 in input 'args\.0', 3 in 'args\.1'"):
        capture(Wrap(torch.add), (X, X[:3]), dynamic={"args": [{0: "n"}, {0: "n"}]})


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
        assert found["second.weight"].aliases == ("tied.weight",)
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
