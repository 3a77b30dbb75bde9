"""Open sizes through torch's own decompositions, loops of torch, and masks of attention."""

import pytest
import torch
import torch.nn.functional as F
from torch import fx
from torch._higher_order_ops.map import map as torch_map
from torch._higher_order_ops.scan import scan

import graphopt as go
from graphopt.errors import CaptureError
from graphopt.frontends.decompose import decompose
from graphopt.runtime.ort import OrtSession
from tests.frontends.oracle import Wrap, check, compare

OPEN = {"args": [{0: "n", 1: "s"}]}


def captured(function, *args, dynamic):
    module = Wrap(function).eval()
    return module, go.capture(module, args, dynamic=dynamic)


def channels_last_windows(x):
    """Windows of a tensor whose strides make torch's own padding ask for sizes."""
    return F.unfold(x.transpose(1, 2).contiguous().unsqueeze(-1), [3, 1], padding=[1, 0])


def test_windows_over_an_open_length():
    module, graph = captured(channels_last_windows, torch.randn(2, 5, 4), dynamic=OPEN)
    assert [str(d) for d in graph.outputs[0].shape] == ["n", "12", "s"]
    compare(graph, module, (torch.randn(3, 7, 4),))


def test_a_decomposition_that_fixes_an_open_size_is_refused(monkeypatch):
    target = torch.ops.aten.im2col.default

    def fixing(x, *rest):
        return target(x, *rest)[: int(x.shape[0])] + 1

    monkeypatch.setattr("graphopt.frontends.decompose._decomposition", lambda _: fixing)
    program = torch.export.export(
        Wrap(channels_last_windows), (torch.randn(2, 5, 4),), strict=False,
        dynamic_shapes=(({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC},),),
    )  # fmt: skip
    node: fx.Node = next(n for n in program.graph.nodes if n.target is target)
    before = [str(size) for size in node.meta["val"].shape]
    assert not list(decompose(node))
    assert [str(size.node.expr) for size in node.meta["val"].shape if isinstance(size, torch.SymInt)] == before[::2]


def test_scan_of_any_length():
    def decay(a, b):
        weight = b[0, 0]

        def step(state, x):
            state = x[0] * state + x[1] * weight
            return state.clone(), state * 2

        return scan(step, torch.zeros_like(a[:, 0]), (a, b), dim=1)

    dynamic = {"args": [{0: "n", 1: "s"}] * 2}
    module, graph = captured(decay, torch.randn(2, 5, 4), torch.randn(2, 5, 4), dynamic=dynamic)
    assert [node.op for node in graph.nodes if node.op == "Scan"] == ["Scan"]
    example = (torch.randn(3, 8, 4), torch.randn(3, 8, 4))
    compare(graph, module, example)
    want = module(*example)
    emitted, session = go.to_torch(graph), OrtSession(go.to_onnx(graph))
    for mine, theirs, onnx in zip(emitted(*example), want, session.run(example), strict=True):
        torch.testing.assert_close(mine, theirs)
        torch.testing.assert_close(torch.from_numpy(onnx), theirs)


def test_map_over_rows():
    weight = torch.randn(4)

    def rows(a, b):
        return torch_map(lambda x, y: x.sin() * y + weight, a, b)

    graph = check(rows, torch.randn(3, 4), torch.randn(4), batch=None)
    assert "Scan" in {node.op for node in graph.nodes}


@pytest.mark.parametrize("shape", [(2, 1, 1, 5), (1, 1, 1, 5), (2, 3, 1, 5), (1, 5)])
def test_masks_that_broadcast_over_queries_run_in_onnx_runtime(shape):
    def attend(q, mask):
        return F.scaled_dot_product_attention(q, q, q, mask)

    q, mask = torch.randn(2, 3, 5, 4), torch.randn(shape)
    _, graph = captured(attend, q, mask, dynamic=None)
    got = OrtSession(go.to_onnx(graph)).run([q, mask])[0]
    torch.testing.assert_close(torch.from_numpy(got), attend(q, mask), rtol=1e-4, atol=1e-5)


def test_a_size_that_is_one_number_rounded_is_not_open():
    class Embed(torch.nn.Module):
        """Sixteen patches of eight by eight, and no other number."""

        def __init__(self):
            super().__init__()
            self.patches = torch.nn.Conv2d(3, 8, 8, 8)
            self.positions = torch.nn.Parameter(torch.randn(1, 16, 8))

        def forward(self, x):
            return self.patches(x).flatten(2).transpose(1, 2) + self.positions

    with pytest.raises(CaptureError, match="cannot be dynamic: the module's code needs"):
        go.capture(Embed(), torch.randn(2, 3, 32, 32), dynamic={"x": {0: "n", 2: "h", 3: "w"}})
