"""``torch.compile(model, backend="graphopt")``."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphopt import dynamo
from graphopt.models import build
from graphopt.runtime.compare import compare

# Torch's own tracer, on Python 3.11 and with some layers.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*lru_cache.*:UserWarning"),
]


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def built(monkeypatch):
    """The graphs that are optimised, after it."""
    found = []

    def optimize(graph, *args, **kwargs):
        report = real(graph, *args, **kwargs)
        found.append(graph)
        return report

    real = dynamo.optimize
    monkeypatch.setattr(dynamo, "optimize", optimize)
    return found


def ops(graph):
    return [node.op for node in graph.walk()]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Sequential(nn.Linear(4, 2))
        with torch.no_grad():
            self.norm.running_mean.copy_(torch.randn(4))
            self.norm.running_var.copy_(torch.rand(4) + 0.5)

    def forward(self, x):
        y = torch.relu(self.norm(self.conv(x)))
        return {"class": self.head(y.mean((2, 3))), "size": x.shape[0] * x.shape[2]}


def agree(compiled, module, *args):
    with torch.no_grad():
        got, want = pytree.tree_leaves(compiled(*args)), pytree.tree_leaves(module(*args))
    assert [type(item) for item in got] == [type(item) for item in want]
    assert [item for item in got if not isinstance(item, torch.Tensor)] == [
        item for item in want if not isinstance(item, torch.Tensor)
    ]
    tensors = [[item for item in each if isinstance(item, torch.Tensor)] for each in (got, want)]
    assert compare(*tensors).within(1e-4)


NAMES = ["lenet", "resnet", "mobilenet_v3", "densenet", "unet", "vit", "swin", "bert", "gpt", "image_vector"]


@pytest.mark.parametrize("name", NAMES)
def test_the_zoo_compiles_and_agrees(name, built):
    module, args = build(name)
    agree(torch.compile(module, backend="graphopt", options={"check": False}), module, *args)
    assert len(built) == 1


def test_the_graph_is_optimised(built):
    module = Block().eval()
    agree(torch.compile(module, backend="graphopt"), module, torch.randn(2, 3, 8, 8))
    (graph,) = built
    assert "BatchNormalization" not in ops(graph)
    assert {value.name for value in graph.parameters} >= {"head.0.weight", "head.0.bias"}
    assert {node.origin.module for node in graph.walk()} >= {"conv", "head.0"}


def test_another_pipeline(built):
    module = Block().eval()
    agree(torch.compile(module, backend="graphopt", options={"pipeline": "simplify"}), module, torch.randn(2, 3, 8, 8))
    assert "BatchNormalization" in ops(built[0])


def test_shapes_become_dynamic(built):
    module = Block().eval()
    compiled = torch.compile(module, backend="graphopt", options={"check": False})
    for batch, size in ((2, 8), (3, 9), (5, 12), (4, 7)):
        agree(compiled, module, torch.randn(batch, 3, size, size))
    assert len(built) == 2, "one graph for the first shape, one for all others"
    assert [isinstance(d, int) for d in built[1].inputs[0].shape] == [False, True, False, False]


def test_changed_weights_are_seen(built):
    module = Block().eval()
    compiled = torch.compile(module, backend="graphopt", options={"check": False})
    x = torch.randn(2, 3, 8, 8)
    agree(compiled, module, x)
    agree(compiled, module, x)
    assert len(built) == 1
    with torch.no_grad():
        module.norm.weight.mul_(3)
    agree(compiled, module, x)
    module.conv.weight.data = torch.randn_like(module.conv.weight)
    agree(compiled, module, x)
    module.load_state_dict(Block().state_dict())
    agree(compiled, module, x)
    module.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    agree(compiled, module, x)
    assert len(built) == 5


def test_modules_do_not_share_weights():
    first, second = Block().eval(), Block().eval()
    x = torch.randn(2, 3, 8, 8)
    for module in (first, second, first):
        agree(torch.compile(module, backend="graphopt", options={"check": False}), module, x)


def test_numbers_among_the_arguments(built):
    class Scale(nn.Module):
        def forward(self, x, n, factor):
            return x * n + factor, x.shape[0] * n

    compiled = torch.compile(Scale(), backend="graphopt", options={"check": False})
    for n in (2, 3, 4, 3, 2):
        agree(compiled, Scale(), torch.randn(n + 1, 4), n, n / 2)
    assert len(built) <= 5
    for n in range(5, 5 + dynamo.MOST_NUMBERS - 3):
        agree(compiled, Scale(), torch.randn(3, 4), n, 0.5)
    with pytest.warns(UserWarning, match="many different numbers"):
        agree(compiled, Scale(), torch.randn(3, 4), 50, 0.5)


def test_modes_of_modules_stay():
    class Drop(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return self.drop(x) + 0

    module = Drop()
    compiled = torch.compile(module, backend="graphopt", options={"check": False})
    x = torch.ones(4000)
    with torch.no_grad():
        assert 0.4 < (compiled(x) == 0).float().mean() < 0.6
        module.eval()
        assert torch.equal(compiled(x), x)


def test_training_is_left_alone(built):
    module = Block()
    twin = copy.deepcopy(module)
    compiled = torch.compile(module, backend="graphopt")
    x = torch.randn(4, 3, 8, 8)
    with pytest.warns(UserWarning, match="it needs gradients"):
        compiled(x)["class"].square().sum().backward()
    twin(x)["class"].square().sum().backward()
    for mine, theirs in zip(module.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-4)
    assert torch.allclose(module.norm.running_mean, twin.norm.running_mean)
    assert not built
    agree(compiled, module.eval(), x)
    assert len(built) == 1, "inference afterwards is optimised"


def test_what_writes_in_place_is_left_alone(built):
    class Cache(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("steps", torch.zeros(3))

        def forward(self, x):
            self.steps.add_(x)
            return self.steps * 2

    module = Cache()
    compiled = torch.compile(module, backend="graphopt")
    with torch.no_grad():
        with pytest.warns(UserWarning, match="it writes 'steps' in place"):
            assert torch.equal(compiled(torch.ones(3)), torch.full((3,), 2.0))
        for n in (2, 3):
            assert torch.equal(compiled(torch.ones(3)), torch.full((3,), 2.0 * n))
    assert not built

    def fill(x):
        x[0] = 7
        return x + 1

    x, compiled = torch.zeros(2), torch.compile(fill, backend="graphopt")
    with pytest.warns(UserWarning, match="in place"):
        assert compiled(x).tolist() == [8, 1]
    assert x.tolist() == [7, 0]


def test_operators_that_onnx_lacks_are_carried(built):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.special.i0(x) + torch.relu(torch.relu(x))

    agree(torch.compile(Odd(), backend="graphopt"), Odd(), torch.randn(5))
    assert "aten" in {node.domain for node in built[0].walk()}


def test_inference_mode():
    module = Block().eval()
    compiled = torch.compile(module, backend="graphopt")
    x = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        assert torch.allclose(compiled(x)["class"], module(x)["class"], atol=1e-4)


def test_frozen_parameters_need_no_context(built):
    module = Block().eval().requires_grad_(False)
    compiled = torch.compile(module, backend="graphopt")
    x = torch.randn(2, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert torch.allclose(compiled(x)["class"], module(x)["class"], atol=1e-4)
    assert not compiled(x)["class"].requires_grad
    assert len(built) == 1


def test_unknown_options_and_failing_passes():
    module, x = Block().eval(), torch.randn(2, 3, 8, 8)
    with torch.no_grad(), pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match="did you mean 'pipeline'"):
        torch.compile(module, backend="graphopt", options={"pipelin": "simplify"})(x)
    torch._dynamo.reset()
    with torch.no_grad(), pytest.raises(Exception, match="did you mean 'simplify'"):
        torch.compile(module, backend="graphopt", options={"pipeline": "simplfy"})(x)


def test_a_path_that_is_taken_or_odd():
    root = nn.Module()
    root.register_parameter("a", nn.Parameter(torch.ones(1)))
    paths = [dynamo._place(root, path, torch.ones(2)) for path in ("b.c", "b.c", "a", "a.b")]
    assert paths[:3] == ["b.c", "b.c_", "a_"]
    assert len(set(paths)) == 4
    assert all(torch.equal(root.get_buffer(path), torch.ones(2)) for path in paths)
