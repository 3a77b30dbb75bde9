"""Traps of the rules about loops, quantizers, branches and fixed shapes, and of numbers that are none."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt as go
from graphopt.runtime.ort import OrtSession
from tests.passes.test_traps import PIPELINE, model, normal, ops, same


def overridable(before, name, array):
    """Makes an initializer that is a graph input, too: a caller may give another value."""
    before.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return before


def test_a_number_of_rounds_that_callers_may_override_is_not_known():
    body = "body = b (int64 i, bool c, float[2] s) => (bool d, float[2] t) { t = Neg(s) d = Identity(c) }"
    text = f"m (float[2] x, int64 n) => (float[2] y) {{ y = Loop<{body}>(n, , x) }}"
    before = overridable(onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 18]>\n' + text), "n", np.int64(2))
    graph = go.load(before)
    go.optimize(graph, PIPELINE, check=False)
    after = go.to_onnx(graph)
    for rounds in (0, 1, 2, 3):
        feed = {"x": normal(2), "n": np.int64(rounds)}
        want, got = (OrtSession(each, optimize=False).run(feed)[0] for each in (before, after))
        np.testing.assert_array_equal(got, want)
    assert "Loop" in ops(graph)


def test_a_scale_that_callers_may_override_cancels_nothing():
    text = """m (float[4] x, float s) => (uint8[4] y)
      { q = QuantizeLinear(x, s, z) f = DequantizeLinear(q, s, z) y = QuantizeLinear(f, s, z) }"""
    before = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 18]>\n' + text)
    overridable(before, "s", np.float32(0.1))
    before.graph.initializer.append(numpy_helper.from_array(np.uint8(3), "z"))
    graph = go.load(before)
    go.optimize(graph, PIPELINE, check=False)
    assert len(ops(graph)) == 3


def quantized(bn=""):
    text = f"""m (float[N, 4, 6, 6] x) => (float[N, 4, 3, 3] y)
      {{ q = QuantizeLinear(x, s, z) f = DequantizeLinear(q, s, z) w = DequantizeLinear<axis = 0>(k, t, u)
        a = Conv<pads = [1, 1, 1, 1]>(f, w, b) {bn} r = Relu(h) g = QuantizeLinear(r, s, z)
        d = DequantizeLinear(g, s, z) p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(d)
        v = QuantizeLinear(p, s, z) y = DequantizeLinear(v, s, z) }}"""
    rng = np.random.default_rng(0)
    constants = {
        "s": np.float32(0.05), "z": np.uint8(0), "k": rng.integers(-127, 128, (4, 4, 3, 3)).astype(np.int8),
        "t": np.abs(normal(4)) + np.float32(0.01), "u": np.zeros(4, np.int8), "b": normal(4, seed=3),
    }  # fmt: skip
    if "BatchNormalization" in bn:
        constants |= {n: np.abs(normal(4, seed=i)) + np.float32(0.5) for i, n in enumerate(("o", "e", "m", "c"))}
    return model(text, **constants)


@pytest.mark.parametrize("bn", ["h = Identity(a)", "h = BatchNormalization(a, o, e, m, c)"])
def test_quantized_weights_are_not_dissolved(bn):
    before = quantized(bn)
    graph, after = same(before, {"x": normal(2, 4, 6, 6)})
    sizes = [sum(numpy_helper.to_array(t).nbytes for t in each.graph.initializer) for each in (before, after)]
    assert sizes[1] <= sizes[0]
    kept = [numpy_helper.to_array(t) for t in after.graph.initializer if t.data_type == TensorProto.INT8 and t.dims]
    assert any(array.shape == (4, 4, 3, 3) for array in kept)
    assert ops(graph).count("QuantizeLinear") == 2
    assert "Relu" not in ops(graph)
    assert "BatchNormalization" not in ops(graph)


def test_a_product_with_zero_is_not_zero():
    """Infinity and NaN make NaN of it."""
    before = model("m (float[N] x) => (float[N] y) { h = Mul(x, a) y = Add(h, x) }", a=np.float32(0))
    x = np.array([1, np.inf, -np.inf, np.nan], np.float32)
    graph, after = same(before, {"x": np.ones(4, np.float32)})
    got = OrtSession(after, optimize=False).run({"x": x})[0]
    np.testing.assert_array_equal(np.isnan(got), [False, True, True, True])
    assert "Mul" in ops(graph)


@pytest.mark.parametrize("text", ["h = Sub(x, x) y = Add(h, x)", "h = Div(x, x) y = Add(h, x)"])
def test_a_number_minus_or_over_itself_may_be_none(text):
    before = model(f"m (float[N] x) => (float[N] y) {{ {text} }}")
    x = np.array([1, 0, np.inf, np.nan], np.float32)
    after = same(before, {"x": np.ones(4, np.float32)})[1]
    want, got = (OrtSession(each, optimize=False).run({"x": x})[0] for each in (before, after))
    np.testing.assert_array_equal(got, want)


def test_a_residual_branch_of_one_pixel_is_broadcast_not_added_up():
    text = "m (float[N, 3, 1, 1] x) => (float[N, 3, 3, 3] y) { h = Conv<pads = [1, 1, 1, 1]>(x, w) y = Add(h, x) }"
    graph, _ = same(model(text, w=normal(3, 3, 1, 1)), {"x": normal(2, 3, 1, 1)})
    assert ops(graph) == ["Conv", "Add"]


def test_an_output_returned_twice_and_an_input_returned():
    nodes = [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Identity", ["h"], ["y"]),
             helper.make_node("Identity", ["h"], ["z"]), helper.make_node("Identity", ["x"], ["w"])]  # fmt: skip
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y", "z", "w")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    same(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), {"x": normal(2)})


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_no_rows_at_all(rows):
    text = """m (float[N, 4] x) => (float[N, 4] y, float[M, 2] z)
      { s = Slice(x, a, b, a) t = Slice(x, b, e, a) h = Concat<axis = 0>(s, t) y = Relu(h) z = Reshape(y, p) }"""
    constants = {"a": np.array([0]), "b": np.array([2]), "e": np.array([1 << 62]), "p": np.array([-1, 2])}
    same(model(text, **constants), {"x": normal(rows, 4)})


def test_a_fixed_size_is_not_forgotten_by_the_file():
    before = model("m (float[N, 4] x) => (float[N, 4] y) { s = Shape(x) h = Reshape(x, s) y = Relu(h) }")
    graph = go.load(before)
    go.optimize(graph, "fix-shapes{shapes={N:3}}," + PIPELINE)
    after = go.to_onnx(graph)
    for value in (*after.graph.input, *after.graph.output):
        assert [dim.dim_value for dim in value.type.tensor_type.shape.dim] == [3, 4]
