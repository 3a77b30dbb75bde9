"""Capture: open dimensions."""

import pytest
import torch
from torch import nn
from torch.export import Dim

from graphopt.errors import CaptureError
from graphopt.frontends.capture import capture
from graphopt.frontends.guards import holds
from graphopt.ir import Leaf
from graphopt.runtime.executor import run
from tests.frontends.oracle import Wrap, compare
from tests.zoo import captured

torch.manual_seed(0)
X = torch.randn(4, 6)


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
    assumed = graph.metadata["torch.assumes"]
    assert [holds(assumed, {"n": n}) for n in range(3, 9)] == [False, True] * 3
    assert not capture(nn.Linear(6, 3), (X,), dynamic={"input": {0: "n"}}).metadata
    assert not capture(Wrap(torch.add), (X, X + 1), dynamic={"args": [{0: "n"}, {0: "n"}]}).metadata
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
    rows = Leaf(2, number=True)
    assert graph.signature.outputs == (Leaf(0), Leaf(1), Leaf(None), rows, Leaf(None, 6), Leaf(3))
    same, parameter, rows, scaled = run(graph, [X])
    assert torch.equal(same, X)
    assert torch.equal(parameter, torch.ones(2))
    assert rows.item() == 4
    assert torch.equal(scaled, X * 3)


def test_everything_has_a_type():
    graph = captured("swin", "batch")
    assert all(value.shape is not None for value in graph.values())


def test_contents_of_sizes_are_known():
    graph = capture(Wrap(lambda x: torch.arange(x.shape[0] * 2) + x.shape[0]), (X,), dynamic={"args": [{0: "n"}]})
    [sized] = [node for node in graph if node.op == "Range"]
    assert str(sized.operand(1).known[()]) == "2*n"
