"""Loops and scans that run a known number of rounds, against ONNX Runtime."""

import numpy as np
import onnx
import onnx.parser
import pytest

import graphopt as go
from graphopt.runtime.ort import OrtSession

HEAD = '<ir_version: 8, opset_import: ["" : 18]>\n'
BODY = """body = b (int64 i, bool c, float[2] s) => (bool d, float[2] t, float[2] u)
  {{ f = Cast<to = 1>(i) t = Add(s, f) v = Mul(t, x) u = Relu(v) d = {condition} }}"""


def loop(limit, start="", condition="Identity(c)", outputs="float[2] y, float[K, 2] z"):
    body = BODY.format(condition=condition)
    return read(f"""m (float[2] x) => ({outputs}) <int64 n = {{{limit}}}, bool on = {{1}}, bool off = {{0}}>
      {{ y, z = Loop<{body}>({"n" if limit is not None else ""}, {start}, x) }}""")


def read(text):
    made = onnx.parser.parse_model(HEAD + text)
    onnx.checker.check_model(made, full_check=True)
    return made


def ops(graph):
    return [node.op for node in graph.walk()]


def same(before, feeds, pipeline="unroll-loops,simplify"):
    graph = go.load(before)
    go.optimize(graph, pipeline)
    want, got = (OrtSession(each, optimize=False).run(feeds) for each in (before, go.to_onnx(graph)))
    for mine, theirs in zip(got, want, strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)
    return graph


X = {"x": np.array([0.5, -2.0], np.float32)}


@pytest.mark.parametrize("limit", [0, 1, 3])
@pytest.mark.parametrize("start", ["", "on"])
def test_a_constant_limit(limit, start):
    graph = same(loop(limit, start), X)
    assert "Loop" not in ops(graph)
    assert ops(graph).count("Relu") == limit


def test_a_condition_that_is_false_at_once():
    graph = same(loop(5, "off"), X)
    assert ops(graph) == ["Identity"] or not ops(graph)


def test_a_condition_that_ends_the_loop_after_one_round():
    graph = same(loop(5, "on", "Not(c)"), X, "unroll-loops")  # c may be false in a later round: it is not known
    assert "Loop" in ops(graph)
    graph = same(loop(5, "on", "Identity(off)"), X)
    assert ops(graph).count("Relu") == 1
    assert "Loop" not in ops(graph)


def test_what_is_too_large_stays():
    assert "Loop" in ops(same(loop(20), X))
    assert "Loop" not in ops(same(loop(20), X, "unroll-loops{nodes=1000}"))


def test_a_limit_that_is_not_known_stays():
    body = "body = b (int64 i, bool c, float[2] s) => (bool d, float[2] t) { t = Neg(s) d = Identity(c) }"
    made = read(f"m (float[2] x, int64 n) => (float[2] y) <bool on = {{1}}> {{ y = Loop<{body}>(n, on, x) }}")
    for rounds in (0, 3):
        assert "Loop" in ops(same(made, {**X, "n": np.int64(rounds)}))


def test_a_condition_that_is_computed_stays():
    graph = same(loop(4, "on", "Less(i, n)"), X)
    assert "Loop" in ops(graph)


def test_no_rounds_that_collect_rows_of_unknown_length_stay():
    made = read("""m (float[N] x) => (float[N] y, float[K, N] z) <int64 n = {0}, bool on = {1}>
      { y, z = Loop<body = b (int64 i, bool c, float[N] s) => (bool d, float[N] t, float[N] u)
        { t = Neg(s) u = Relu(s) d = Identity(c) }>(n, on, x) }""")
    assert "Loop" in ops(same(made, {"x": np.ones(3, np.float32)}))


@pytest.mark.parametrize("attributes", ["", "scan_input_directions = [1], scan_output_directions = [1],",
                                        "scan_input_axes = [1], scan_output_axes = [1],"])  # fmt: skip
@pytest.mark.parametrize("length", [1, 3])
def test_scans(attributes, length):
    shape = f"2, {length}" if "axes" in attributes else f"{length}, 2"
    made = read(f"""m (float[2] h, float[{shape}] x) => (float[2] y, float[A, B] z) {{
      y, z = Scan<{attributes} num_scan_inputs = 1,
        body = b (float[2] s, float[2] e) => (float[2] t, float[2] u) {{ t = Add(s, e) u = Mul(t, h) }}>(h, x) }}""")
    x = np.random.default_rng(0).standard_normal(eval(f"({shape})")).astype(np.float32)
    graph = same(made, {"h": X["x"], "x": x})
    assert "Scan" not in ops(graph)


def test_a_scan_of_open_length_stays():
    made = read("""m (float[2] h, float[L, 2] x) => (float[2] y, float[L, 2] z) {
      y, z = Scan<num_scan_inputs = 1,
        body = b (float[2] s, float[2] e) => (float[2] t, float[2] u) { t = Add(s, e) u = Mul(t, h) }>(h, x) }""")
    assert "Scan" in ops(same(made, {"h": X["x"], "x": np.ones((4, 2), np.float32)}))


def test_loops_within_loops():
    inner = "body = a (int64 j, bool g, float[2] p) => (bool k, float[2] q) { q = Add(p, s) k = Identity(g) }"
    made = read(f"""m (float[2] x) => (float[2] y) <int64 n = {{2}}, bool on = {{1}}> {{
      y = Loop<body = b (int64 i, bool c, float[2] s) => (bool d, float[2] t)
        {{ h = Neg(s) t = Loop<{inner}>(n, on, h) d = Identity(c) }}>(n, on, x) }}""")
    graph = same(made, X)
    assert set(ops(graph)) == {"Neg", "Add"}


def test_what_is_carried_unchanged_is_not_returned_twice():
    made = read("""m (float[2] x) => (float[2] y, float[2] w) <int64 n = {2}, bool on = {1}> {
      y, w = Loop<body = b (int64 i, bool c, float[2] s, float[2] r) => (bool d, float[2] t, float[2] o)
        { t = Neg(s) o = Identity(r) d = Identity(c) }>(n, on, x, x) }""")
    same(made, X)
