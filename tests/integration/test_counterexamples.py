"""What random round trips found: each was wrong once (see `tests/bench/fuzz_round_trip.py`)."""

import pytest
import torch
from torch import nn

import graphopt as go
from graphopt.errors import CaptureError
from graphopt.frontends.guards import holds
from graphopt.ir import DType, Graph, TensorType, difference
from graphopt.ops.builder import Builder
from graphopt.runtime import run
from graphopt.runtime.compare import compare
from graphopt.runtime.ort import OrtSession


def agree(graph, *inputs, tolerance=1e-5):
    """The executor, the module and ONNX Runtime on what is written give the same."""
    model = go.to_onnx(graph)
    want = [torch.as_tensor(each) for each in OrtSession(model, optimize=False).run(list(inputs))]
    with torch.no_grad():
        result = go.to_torch(graph)(*inputs)
    emitted = list(result) if len(want) > 1 else [result]
    for got in (run(graph, inputs), emitted, run(go.load(model), inputs)):
        assert [tuple(each.shape) for each in got] == [tuple(each.shape) for each in want]
        assert compare(got, want).within(tolerance)


def one(op, shape, *operands, dtype=DType.FLOAT32, **attributes):
    """A graph of one operator on an input of a shape, and constants."""
    graph = Graph()
    x = graph.add_input("x", TensorType.make(dtype, shape))
    graph.add_output(Builder(graph)(op, x, *operands, **attributes), "y")
    return graph


def test_transpose_of_a_scalar():
    agree(one("Transpose", ()), torch.tensor(2.0))


def test_prelu_of_a_vector_with_one_slope():
    agree(one("PRelu", (4,), torch.tensor(0.3)), torch.randn(4))


@pytest.mark.parametrize("shape", [(1, 2, 4, 3, 1), (1, 2, "n", 3, 1), (2, 2, 4, 3, 2)])
@pytest.mark.parametrize("ceil", [0, 1])
def test_average_of_a_volume_thinner_than_the_window(shape, ceil):
    graph = one(
        "AveragePool", shape, kernel_shape=[1, 2, 2], pads=[0, 0, 1, 0, 0, 1], strides=[1, 1, 1], ceil_mode=ceil
    )
    agree(graph, torch.randn([4 if d == "n" else d for d in shape]))


@pytest.mark.parametrize(("op", "options"), [("InstanceNormalization", {}), ("GroupNormalization", {"num_groups": 3})])
def test_statistics_of_one_element(op, options):
    graph = one(op, (1, 3, 1, 1), torch.rand(3), torch.rand(3), **options)
    agree(graph, torch.randn(1, 3, 1, 1), tolerance=1e-2)  # ONNX Runtime rounds before it divides by the deviation


@pytest.mark.parametrize(("theta", "size"), [((1, 2, 3), [1, 3, 3, 2]), ((2, 3, 4), [2, 1, 2, 3, 4])])
@pytest.mark.parametrize("align", [0, 1])
def test_affine_grid_in_older_operators(theta, size, align):
    graph, given = one("AffineGrid", theta, torch.tensor(size), align_corners=align), torch.randn(theta)
    got = OrtSession(go.to_onnx(graph, 13), optimize=False).run([given])
    want = nn.functional.affine_grid(given, size, bool(align))
    assert compare([torch.from_numpy(got[0])], [want]).within(1e-6)


def test_names_of_what_bodies_take_are_labels():
    def looped(names):
        graph, body = Graph(), Graph()
        x = graph.add_input("x", TensorType.make(DType.FLOAT32, (2,)))
        kinds = ((DType.INT64, ()), (DType.BOOL, ()), (DType.FLOAT32, (2,)))
        _, on, h = (body.add_input(name, TensorType.make(*kind)) for name, kind in zip(names, kinds, strict=True))
        b = Builder(body)
        body.add_output(b.Identity(on), f"{names[0]}_on")
        body.add_output(b.Mul(h, h), f"{names[0]}_h")
        outer = Builder(graph)
        graph.add_output(outer.Loop(outer.constant(2), None, x, body=body), "y")
        return graph

    assert difference(looped("ich"), looped("abc")) is None
    told = difference(one("Neg", (2,)), one("Neg", (3,)))
    assert told is not None
    agree(looped("ich"), torch.randn(2))


class Wrapped(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def halves(x):
    first, second = x.chunk(2)
    return first + second


def test_a_batch_that_the_code_restricts_is_told():
    graph = go.capture(Wrapped(halves), torch.randn(4, 3), dynamic=[{0: "n"}])
    assumed = graph.metadata["torch.assumes"]
    assert [n for n in range(2, 9) if holds(assumed, {"n": n})] == [2, 4, 6, 8]
    assert holds(assumed, {"other": 3})


def test_a_remainder_that_only_one_size_has():
    with pytest.raises(CaptureError, match=r"a dimension cannot be dynamic: .*1 % n"):
        go.capture(Wrapped(lambda x: x[1 % x.shape[0] : 4].std((0, 1))), torch.randn(2, 6), dynamic=[{0: "n"}])
