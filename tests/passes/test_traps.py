"""Traps: ONNX models on which simplifiers have been wrong, and their kin, through the whole of `simplify,fuse`."""

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt as go
from graphopt.runtime.ort import OrtSession

PIPELINE = "simplify,fuse,simplify"


def model(text, **constants):
    """A model from ONNX's text form; `constants` become initializers."""
    made = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 18]>\n' + text)
    for name, array in constants.items():
        made.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    onnx.checker.check_model(made, full_check=True)
    return made


def same(before, feeds, pipeline=PIPELINE):
    """Optimises, compares in ONNX Runtime with its own optimisations off, and returns the graph and the model."""
    graph = go.load(before)
    go.optimize(graph, pipeline, check=False)
    after = go.to_onnx(graph)
    for feed in feeds if isinstance(feeds, list) else [feeds]:
        want = OrtSession(before, optimize=False).run(feed)
        got = OrtSession(after, optimize=False).run(feed)
        for mine, theirs in zip(got, want, strict=True):
            assert mine.dtype == theirs.dtype
            assert mine.shape == theirs.shape
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    assert [o.name for o in after.graph.output] == [o.name for o in before.graph.output]
    return graph, after


def ops(graph):
    return [node.op for node in graph.walk()]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("first", "second"), [((0, 1), (2, 3)), ((2, 3), (0, 1)), ((-1, 1), (0, 6)), ((1, -1), (0, 2))]
)
def test_clip_of_clip(first, second):
    numbers = {name: np.float32(n) for name, n in zip("abcd", (*first, *second), strict=True)}
    before = model("m (float[N, 4] x) => (float[N, 4] y) { h = Clip(x, a, b) y = Clip(h, c, d) }", **numbers)
    graph, _ = same(before, {"x": 3 * normal(5, 4)})
    assert ops(graph) == ["Clip"]


@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_a_vector_on_the_last_axis_is_no_number_per_channel_though_as_long(op):
    text = f"m (float[N, 4, 4, 4] x) => (float[N, 4, 4, 4] y) {{ h = Conv(x, w) y = {op}(h, c) }}"
    graph, _ = same(model(text, w=normal(4, 4, 1, 1), c=normal(4, seed=1)), {"x": normal(2, 4, 4, 4)})
    assert ops(graph) == ["Conv", op]


def test_a_zero_pad_is_not_what_a_max_pool_pads_with():
    text = """m (float[N, 2, 4, 4] x) => (float[N, 2, M, K] y)
    { h = Pad(x, pads) y = MaxPool<kernel_shape = [3, 3]>(h) }"""
    before = model(text, pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    graph, _ = same(before, {"x": -1 - np.abs(normal(2, 2, 4, 4))})
    assert ops(graph) == ["Pad", "MaxPool"]


@pytest.mark.parametrize("attributes", ["", "count_include_pad = 1,", "ceil_mode = 1, strides = [2, 2],"])
def test_a_zero_pad_counts_in_an_average(attributes):
    text = f"""m (float[N, 2, 5, 5] x) => (float[N, 2, M, K] y)
    {{ h = Pad(x, pads) y = AveragePool<{attributes} kernel_shape = [3, 3]>(h) }}"""
    same(model(text, pads=np.array([0, 0, 1, 1, 0, 0, 1, 1])), {"x": normal(2, 2, 5, 5)})


def _norm(channels):
    names = ("scale", "bias", "mean", "var")
    return {name: np.abs(normal(channels, seed=i)) + 0.5 for i, name in enumerate(names)}


def test_batch_normalization_before_a_padded_convolution_stays():
    text = """m (float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] y)
    { h = BatchNormalization(x, scale, bias, mean, var) y = Conv<pads = [1, 1, 1, 1]>(h, w) }"""
    graph, _ = same(model(text, w=normal(3, 3, 3, 3), **_norm(3)), {"x": normal(2, 3, 4, 4)})
    assert ops(graph) == ["BatchNormalization", "Conv"]


def test_weights_shared_by_a_fused_and_another_convolution():
    text = """m (float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] y, float[N, 3, 4, 4] z)
    { h = Conv(x, w) y = BatchNormalization(h, scale, bias, mean, var) r = Relu(x) z = Conv(r, w) }"""
    same(model(text, w=normal(3, 3, 1, 1), **_norm(3)), {"x": normal(2, 3, 4, 4)})


def test_an_output_between_convolution_and_batch_normalization():
    text = """m (float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] y, float[N, 3, 4, 4] h)
    { h = Conv(x, w) y = BatchNormalization(h, scale, bias, mean, var) }"""
    graph, _ = same(model(text, w=normal(3, 3, 1, 1), **_norm(3)), {"x": normal(2, 3, 4, 4)})
    assert ops(graph) == ["Conv", "BatchNormalization"]


def test_an_initializer_that_callers_may_override_is_no_constant():
    text = "m (float[N, 3] x, float[3] c) => (float[N, 3] y) { y = Mul(x, c) }"
    before = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 18]>\n' + text)
    before.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "c"))
    feeds = [{"x": normal(2, 3)}, {"x": normal(2, 3), "c": normal(3, seed=1)}]
    graph = go.load(before)
    go.optimize(graph, PIPELINE, check=False)
    session, reference = OrtSession(go.to_onnx(graph), optimize=False), OrtSession(before, optimize=False)
    want, got = reference.run({**feeds[1]}), session.run({**feeds[1]})
    np.testing.assert_array_equal(got[0], want[0])
    assert ops(graph) == ["Mul"]


def test_the_mask_of_a_dropout():
    text = "m (float[N, 3] x) => (float[N, 3] y, bool[N, 3] mask) { h, mask = Dropout(x) y = Relu(h) }"
    same(model(text), {"x": normal(2, 3)})


def test_an_expand_of_open_dimensions_keeps_what_it_may_stretch():
    """Expand to the shape of another input: where that is larger than x, the result is, too."""
    text = "m (float[A, 3] x, float[B, 3] z) => (float[C, 3] y) { s = Shape(z) h = Expand(x, s) y = Relu(h) }"
    feeds = [{"x": normal(1, 3), "z": normal(4, 3)}, {"x": normal(4, 3), "z": normal(1, 3)}]
    same(model(text), feeds)


def test_an_expand_before_an_addition_keeps_what_it_may_stretch():
    text = "m (float[A, 3] x, float[B, 3] z) => (float[C, 3] y) { s = Shape(z) h = Expand(x, s) y = Add(h, x) }"
    same(model(text), [{"x": normal(1, 3), "z": normal(4, 3)}, {"x": normal(4, 3), "z": normal(1, 3)}])


def test_names_of_open_dimensions_stay():
    text = """m (float[batch, length, 4] tokens) => (float[batch, length, 4] y)
    { s = Shape(tokens) h = Reshape(tokens, s) i = Identity(h) y = Relu(i) }"""
    _, after = same(model(text), {"tokens": normal(2, 3, 4)})
    for value in (*after.graph.input, *after.graph.output):
        names = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert names == ["batch", "length", 4]


def _branch(name, value):
    tensor = numpy_helper.from_array(np.full((2,), value, np.float32), name)
    output = helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])
    return helper.make_graph([], f"branch_{name}", [], [output], [tensor])


@pytest.mark.parametrize("known", [True, False])
def test_branches_made_of_initializers_alone(known):
    branch = helper.make_node("If", ["cond"], ["h"], then_branch=_branch("t", 1.0), else_branch=_branch("e", 2.0))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])]
    initializers = []
    if known:
        initializers.append(numpy_helper.from_array(np.array(False), "cond"))
    else:
        inputs.append(helper.make_tensor_value_info("cond", TensorProto.BOOL, []))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    graph = helper.make_graph([branch, helper.make_node("Add", ["x", "h"], ["y"])], "g", inputs, [y], initializers)
    before = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    feeds = [{"x": normal(2)} if known else {"x": normal(2), "cond": np.array(truth)} for truth in (True, False)]
    after, _ = same(before, feeds)
    assert ops(after) == (["Add"] if known else ["If", "Add"])


def test_a_small_file_does_not_fold_to_gigabytes():
    text = "m () => (float[A, B] y) { y = ConstantOfShape(s) }"
    before = model(text, s=np.array([20000, 20000]))
    graph = go.load(before)
    go.optimize(graph, PIPELINE, check=False)
    assert len(go.to_onnx(graph).SerializeToString()) < 2000


@pytest.mark.parametrize("spread", ["Expand(c, s)", "Tile(c, s)"])
def test_what_only_repeats_numbers_stays(spread):
    text = f"m (float[512, 512] x) => (float[512, 512] y) {{ h = {spread} i = Neg(h) y = Add(x, i) }}"
    before = model(text, c=np.ones((1, 1), np.float32), s=np.array([512, 512]))
    _, after = same(before, {"x": normal(512, 512)})
    assert len(after.SerializeToString()) < 2000


def test_cycles_are_refused():
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "b")]
    cyclic = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:]))
    with pytest.raises(go.GraphoptError, match=r"cycle|before|order"):
        go.load(cyclic)


def test_random_numbers_are_not_shared_nor_folded():
    text = """m (float[2] x) => (float[2] y) {
      a = RandomUniform<shape = [2], seed = 1.0>() b = RandomUniform<shape = [2]>() h = Add(a, b) y = Add(h, x) }"""
    graph = go.load(model(text))
    go.optimize(graph, PIPELINE, check=False)
    assert ops(graph).count("RandomUniform") == 2


@pytest.mark.parametrize(("opset", "left"), [(None, ["Sigmoid", "Mul"]), (24, ["Swish"])])
def test_recognition_does_not_raise_the_opset_unasked(opset, left):
    """onnxscript and others hand a runtime operators that it has never heard of."""
    before = model("m (float[N, 3] x) => (float[N, 3] y) { h = Sigmoid(x) y = Mul(x, h) }")
    graph, after = same(before, {"x": normal(2, 3)}, "fuse" if opset is None else f"fuse{{opset={opset}}}")
    assert ops(graph) == left
    assert after.opset_import[0].version == (opset or 18)


def test_what_a_rule_left_alone_for_the_opset_is_said():
    graph = go.load(model("m (float[N, 3] x) => (float[N, 3] y) { h = Sigmoid(x) y = Mul(x, h) }"))
    report = go.optimize(graph, "fuse", check=False)
    notes = " ".join(note for entry in report.passes for note in entry.notes)
    assert "Swish needs opset 24; opset=24 allows it" in notes


def test_an_operator_that_the_graph_needs_already_opens_the_way_for_others():
    before = model("m (float[N, 3] x) => (float[N, 3] y) { e = Erf(d) h = Sigmoid(x) y = Mul(x, h) }", d=normal(3))
    before.opset_import[0].version = 24
    graph = go.load(before)
    go.optimize(graph, "fuse", check=False)
    assert "Swish" in ops(graph)


def test_integer_division_is_not_turned_into_a_multiplication():
    before = model("m (int32[N] x) => (int32[N] y) { h = Div(x, a) y = Mul(h, b) }", a=np.int32(2), b=np.int32(2))
    same(before, {"x": np.arange(-5, 6, dtype=np.int32)})


def test_a_weight_read_as_an_output_is_kept():
    text = "m (float[N, 3] x) => (float[N, 3] y, float[3, 3] t) { t = Transpose(w) y = MatMul(x, t) }"
    same(model(text, w=normal(3, 3)), {"x": normal(2, 3)})


def test_half_precision_is_not_rounded_twice():
    """float16 -> float32 -> float16 loses nothing, float32 -> float16 -> float32 does."""
    text = """m (float[N] x, float16[N] z) => (float[N] y, float16[N] v)
    { h = Cast<to = 10>(x) y = Cast<to = 1>(h) i = Cast<to = 1>(z) v = Cast<to = 10>(i) }"""
    graph, _ = same(model(text), {"x": normal(5), "z": normal(5).astype(np.float16)})
    assert ops(graph).count("Cast") >= 2


def test_parallel_layers_that_share_a_weight_stay_apart():
    text = """m (float[N, 4] x) => (float[N, 4] y) {
      a = MatMul(x, w) b = Add(a, p) c = MatMul(x, w) d = Add(c, q) e = Mul(b, d) f = MatMul(e, w) y = Add(f, p) }"""
    constants = {"w": normal(4, 4), "p": normal(4, seed=1), "q": normal(4, seed=2)}
    same(model(text, **constants), {"x": normal(2, 4)})
