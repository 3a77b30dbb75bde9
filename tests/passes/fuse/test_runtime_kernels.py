"""What ONNX Runtime computes in one kernel, found by the nodes of a file, it finds still when they are simplified."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser

import graphopt as go

NUMBERS = {
    "half": 0.5, "one": 1, "two": 2, "three": 3, "cubic": 0.044715, "root": 0.7978845608, "quick": 1.702,
    "sqrt2": 2**0.5, "sqrth": 0.5**0.5, "eps": 1e-5,
}  # fmt: skip
NORM = "s = Pow(x, two) m = ReduceMean<axes=[-1]>(s) e = Add(m, eps) r = Sqrt(e)"
CUBE = "p = Pow(x, three) a = Mul(p, cubic) b = Add(x, a) d = Mul(b, root) t = Tanh(d) o = Add(t, one)"
FORMS = {
    "a gelu": ("Gelu", "d = Div(x, sqrt2) e = Erf(d) a = Add(e, one) m = Mul(x, a) y = Mul(m, half)"),
    "a gelu, halved first": ("Gelu", "d = Div(x, sqrt2) e = Erf(d) a = Add(e, one) h = Mul(x, half) y = Mul(h, a)"),
    "a gelu that is found only now": (
        "Gelu", "d = Mul(x, sqrth) e = Erf(d) h = Mul(e, half) a = Add(h, half) y = Mul(x, a)"
    ),
    "a gelu by tanh": ("FastGelu", f"{CUBE} h = Mul(x, half) y = Mul(h, o)"),
    "a gelu by tanh, factored": (
        "FastGelu",
        "c = Mul(x, cubic) p = Mul(c, x) a = Add(p, one) l = Mul(x, root) d = Mul(l, a) t = Tanh(d) o = Add(t, one) "
        "h = Mul(x, half) y = Mul(h, o)",
    ),
    "a gelu by sigmoid": ("QuickGelu", "a = Mul(x, quick) s = Sigmoid(a) y = Mul(x, s)"),
    "a swish": ("QuickGelu", "s = Sigmoid(x) y = Mul(x, s)"),
    "a root-mean-square norm": ("SimplifiedLayerNormalization", f"{NORM} d = Div(x, r) y = Mul(d, g)"),
    "a root-mean-square norm by the inverse": (
        "SimplifiedLayerNormalization", f"{NORM} i = Div(one, r) d = Mul(x, i) y = Mul(d, g)"
    ),
    "a root-mean-square norm that is found only now": (
        "SimplifiedLayerNormalization",
        "s = Mul(x, x) m = ReduceMean<axes=[-1]>(s) e = Add(m, eps) r = Sqrt(e) i = Reciprocal(r) d = Mul(x, i) "
        "y = Mul(d, g)",
    ),
    "a layer norm": (
        "LayerNormalization",
        "mean = ReduceMean<axes=[-1]>(x) c = Sub(x, mean) s = Pow(c, two) m = ReduceMean<axes=[-1]>(s) e = Add(m, eps) "
        "r = Sqrt(e) d = Div(c, r) f = Mul(d, g) y = Add(f, g)",
    ),
}  # fmt: skip


def between_products(body):
    """The nodes of `body`, from x to y, between two linear layers, in a file of opset 14."""
    numbers = ", ".join(f"float {name} = {{{float(number)!r}}}" for name, number in NUMBERS.items())
    lines = "\n".join(f"{line})" for line in body.split(")") if line.strip())
    text = f"x = MatMul(x0, w)\n{lines}\ny1 = MatMul(y, w)"
    model = parser.parse_model(
        f'<ir_version: 7, opset_import: ["": 14]> g (float[N, 5, 8] x0) => (float[N, 5, 8] y1) <{numbers}> {{ {text} }}'
    )
    rng = np.random.default_rng(0)
    for name, data in {"w": rng.standard_normal((8, 8)), "g": rng.uniform(0.5, 2, 8)}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(data.astype(np.float32), name))
    return model


def optimised(model, path):
    """The operators of a model as ONNX Runtime runs it, and what it computes."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(path), 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((2, 5, 8)).astype(np.float32)
    return Counter(node.op_type for node in onnx.load(path).graph.node), session.run(None, {"x0": x})[0]


@pytest.mark.parametrize("name", FORMS)
def test_it_is_found_after_simplifying_and_fusing(name, tmp_path):
    kernel, body = FORMS[name]
    model = between_products(body)
    before, want = optimised(model, tmp_path / "before.onnx")
    assert before[kernel] == (0 if "only now" in name else 1)
    graph = go.load(model)
    go.optimize(graph, "simplify,fuse,simplify,fuse")
    after, got = optimised(go.to_onnx(graph), tmp_path / "after.onnx")
    assert after == {"MatMul": 2, kernel: 1}
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    assert not go.optimize(graph, "simplify,fuse").modified
