"""Random networks through `simplify,fuse`: the same numbers, no BatchNormalization where it could go."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from graphopt.analysis import propagate_all
from graphopt.ir import DType, TensorType
from graphopt.pipeline import Context, run_pipeline
from graphopt.pipeline.instruments import Verify
from graphopt.runtime.compare import compare
from graphopt.runtime.executor import run
from graphopt.runtime.samples import example_inputs
from tests.passes.rule_cases import Draft

C = 4


def _scaled(d, *shape):
    return d.constant(d.weight(*shape).data * 0.5)


IMAGE = {
    "conv3": lambda d, x: d.Conv(x, _scaled(d, C, C, 3, 3), pads=[1, 1, 1, 1]),
    "conv1": lambda d, x: d.Conv(x, _scaled(d, C, C, 1, 1), d.weight(C)),
    "grouped": lambda d, x: d.Conv(x, _scaled(d, C, 2, 3, 3), d.weight(C), group=2, pads=[1, 1, 1, 1]),
    "depthwise": lambda d, x: d.Conv(d.Pad(x, [0, 0, 1, 1, 0, 0, 1, 1]), _scaled(d, C, 1, 3, 3), group=C),
    "transposed": lambda d, x: d.ConvTranspose(x, _scaled(d, C, 2, 3, 3), group=2, pads=[1, 1, 1, 1]),
    "bn": lambda d, x: d.bn(x, C),
    "relu": lambda d, x: d.Relu(x),
    "channel scale": lambda d, x: d.Mul(x, d.weight(C, 1, 1)),
    "width scale": lambda d, x: d.Mul(d.weight(C), x),
    "half": lambda d, x: d.Div(x, d.full(2)),
    "shift": lambda d, x: d.Add(d.weight(1, C, 1, 1), x),
    "flip": lambda d, x: d.Sub(d.full(1), x),
    "skip": lambda d, x: d.Add(x, d.Conv(x, _scaled(d, C, C, 1, 1))),
    "pool": lambda d, x: d.AveragePool(d.Pad(x, [0, 0, 1, 1, 0, 0, 1, 1], d.full(0)), kernel_shape=[3, 3]),
}
FEATURES = {
    "gemm": lambda d, x: d.Gemm(x, _scaled(d, C, C), d.weight(C), transB=1, alpha=0.5, beta=2.0),
    "matmul": lambda d, x: d.MatMul(x, _scaled(d, C, C)),
    "linear": lambda d, x: d.Add(d.MatMul(x, d.Transpose(_scaled(d, C, C), perm=[1, 0])), d.weight(C)),
    "bn": lambda d, x: d.bn(x, C),
    "relu": lambda d, x: d.Relu(x),
    "scale": lambda d, x: d.Mul(x, d.weight(C)),
    "rows": lambda d, x: d.Mul(x, d.weight(C, 1)),
    "shift": lambda d, x: d.Add(d.weight(C), x),
    "flip": lambda d, x: d.Sub(d.full(1), x),
    "skip": lambda d, x: d.Add(x, d.MatMul(x, _scaled(d, C, C))),
}


def _in_double_precision(graph):
    """A fold that is wrong is told from one that rounds."""
    for value in [*graph.inputs, *graph.constants]:
        if value.dtype is DType.FLOAT32:
            value.type = TensorType(DType.FLOAT64, value.shape)
            value.data = None if value.data is None else value.data.double()
    propagate_all(graph)


def _check(layers, x, d, names, returned):
    for place, name in enumerate(names):
        x = layers[name](d, x)
        if place in returned:
            d.output(x)
    d.output(d.Relu(x))
    graph = d.graph
    _in_double_precision(graph)
    before = graph.clone()
    run_pipeline(graph, "simplify,fuse", Context(graph), [Verify()])
    for seed in range(2):
        inputs = example_inputs(before, seed, {"n": 2})
        assert compare(run(graph, inputs), run(before, inputs)).within(1e-8)
    for node in graph:
        if node.op == "BatchNormalization" and node.operand(0).producer is not None:
            layer = node.operand(0).producer
            assert layer.op not in ("Conv", "ConvTranspose", "Gemm") or len(layer.output.uses) > 1
    assert len(list(graph)) <= len(list(before))


@given(st.lists(st.sampled_from(sorted(IMAGE)), max_size=10), st.sets(st.integers(0, 9), max_size=2))
def test_random_image_networks(names, returned):
    d = Draft()
    _check(IMAGE, d.input("n", C, C, C), d, names, returned)


@given(st.lists(st.sampled_from(sorted(FEATURES)), max_size=10), st.sets(st.integers(0, 9), max_size=2))
def test_random_feature_networks(names, returned):
    d = Draft()
    _check(FEATURES, d.input(C, C), d, names, returned)


def test_double_precision_is_folded_in_double_precision():
    d = Draft()
    w = d.weight(4, 4, 1, 1, dtype=torch.float64)
    vectors = [d.constant(d.weight(4, positive=True).data.double()) for _ in range(4)]
    x = d.graph.add_input("x", w.type)
    d.output(d.BatchNormalization(d.Conv(x, w), *vectors))
    before = d.graph.clone()
    run_pipeline(d.graph, "fuse", Context(d.graph))
    x = torch.randn(4, 4, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(run(d.graph, [x]), run(before, [x]), rtol=1e-12, atol=1e-12)
