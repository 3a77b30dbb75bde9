"""FlexAttention against torch's attention and onnx.reference."""

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx.reference import ReferenceEvaluator

from graphopt import load, to_torch
from graphopt.analysis.shapes import propagate
from graphopt.errors import ShapeError
from graphopt.ir import DType, TensorType
from graphopt.ops import execute, record_of
from graphopt.ops.flex import DOMAIN
from graphopt.runtime import run
from tests.ops.values import node_of

RNG = np.random.default_rng(0)


def arrays(heads=2, groups=2, dtype=np.float32):
    shapes = [(2, heads, 4, 8), (2, groups, 6, 8), (2, groups, 6, 5)]
    return [RNG.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize(("heads", "groups"), [(2, 2), (4, 2), (4, 1)])
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_without_bodies(heads, groups, scale, dtype):
    tensors = [torch.from_numpy(each) for each in arrays(heads, groups, dtype)]
    kinds = [TensorType.of(each) for each in tensors]
    node = node_of("FlexAttention", *kinds, domain=DOMAIN, **({} if scale is None else {"scale": scale}))
    (got,) = execute(node, tensors)
    want = F.scaled_dot_product_attention(*tensors, scale=scale, enable_gqa=True)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert record_of(node).infer(node) == [TensorType.of(got)]
    assert record_of(node).macs(node) == 2 * heads * 4 * 6 * (8 + 5)


MODEL = """<ir_version: 10, opset_import: ["" : 22, "ai.onnx.preview" : 1]>
g (float[b, 2, 4, 8] q, float[b, 2, 6, 8] k, float[b, 2, 6, 5] v, float cap) => (float[b, 2, 4, 5] y) {
    y = ai.onnx.preview.FlexAttention <
        score_mod = s (float[?, ?, ?, ?] a) => (float[?, ?, ?, ?] z) {
            u = Div (a, cap)  t = Tanh (u)  z = Mul (t, cap) },
        prob_mod = p (float[?, ?, ?, ?] a) => (float[?, ?, ?, ?] z) { z = Mul (a, cap) }
    > (q, k, v)
}"""


def test_bodies_that_read_from_outside():
    graph = load(onnx.parser.parse_model(MODEL))
    propagate(graph)
    (node,) = graph
    assert [str(d) for d in node.output.shape] == ["b", "2", "4", "5"]
    for name in ("score_mod", "prob_mod"):
        assert [str(d) for d in node.attributes[name].outputs[0].shape] == ["b", "2", "4", "6"]
    q, k, v = (torch.from_numpy(each) for each in arrays())
    cap = torch.tensor(0.5)
    scores = ((q @ k.transpose(-1, -2)) * 8**-0.5 / cap).tanh() * cap
    want = (scores.softmax(-1) * cap) @ v
    (got,) = run(graph, [q, k, v, cap])
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(to_torch(graph)(q, k, v, cap), want, rtol=1e-4, atol=1e-5)


def test_half_precision_is_softened_in_float32():
    text = MODEL.replace("float[b", "float16[b").replace(", float cap", "").replace("Div (a, cap)", "Neg (a)")
    text = text.replace("Mul (t, cap)", "Neg (t)").replace("z = Mul (a, cap)", "z = Abs (a)")
    model = onnx.parser.parse_model(text)
    inputs = arrays(dtype=np.float16)
    (want,) = ReferenceEvaluator(model).run(None, dict(zip("qkv", inputs, strict=True)))
    graph = load(model)
    (got,) = run(graph, [torch.from_numpy(each) for each in inputs])
    assert got.dtype is torch.float16
    np.testing.assert_allclose(got.numpy(), want, rtol=5e-3, atol=5e-3)
    propagate(graph)
    assert next(iter(graph)).attributes["score_mod"].inputs[0].dtype is DType.FLOAT32


def test_other_ranks_are_refused():
    node = node_of("FlexAttention", *[TensorType(DType.FLOAT32, (2, 3, 4))] * 3, domain=DOMAIN)
    with pytest.raises(ShapeError, match="Q has rank 3"):
        record_of(node).infer(node)
