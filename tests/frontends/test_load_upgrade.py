"""Old operator definitions: ONNX Runtime runs the file as it was and as it comes out, and must see no difference."""

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from graphopt.backends.onnx_model import to_onnx
from graphopt.errors import LoadError
from graphopt.frontends.load import load
from tests.onnx_models import info, model, node, tensor
from tests.onnx_same import assert_close, assert_same, run

RNG = np.random.default_rng(0)
INT64 = onnx.TensorProto.INT64


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def check(proto, *feeds, opset=None, known=True):
    """Compares a file with what comes out of it; returns the loaded graph."""
    graph = load(proto)
    written = to_onnx(graph, opset)
    if known:  # the checker wants a rank on every input and output
        onnx.checker.check_model(written, full_check=True)
    assert_same(graph, load(written))
    assert_close(run(proto, *feeds), run(written, *feeds))
    return graph


def single(opset, op, *feeds, outputs=1, known=True, **attributes):
    """A model of one node over inputs x0, x1, ...; with `known` false nothing says the rank of the first operand."""
    names = [f"x{i}" for i in range(len(feeds))]
    outs = [f"y{i}" for i in range(outputs)]
    nodes = [helper.make_node(op, names, outs, name="it", **attributes)]
    inputs = [info(name, feed.shape, helper.np_dtype_to_tensor_dtype(feed.dtype))
              for name, feed in zip(names, feeds, strict=True)]  # fmt: skip
    if not known:
        inputs[0].type.tensor_type.ClearField("shape")
    outs_info = [onnx.ValueInfoProto(name=name) for name in outs]
    return model(nodes, inputs, outs_info, opset=opset, ir_version=7)


X = array(2, 3, 4, 5)


@pytest.mark.parametrize("opset", [7, 11, 13, 17])
@pytest.mark.parametrize("op", ["ReduceMean", "ReduceL2", "ReduceMax", "ReduceLogSumExp", "ReduceSumSquare"])
@pytest.mark.parametrize("attributes", [{}, {"axes": [1, 3]}, {"axes": [1], "keepdims": 0}])
def test_reductions(opset, op, attributes):
    (reduction,) = check(single(opset, op, X, **attributes), X)
    assert "axes" not in reduction.attributes
    if "axes" in attributes:
        assert reduction.operand(1).data.tolist() == attributes["axes"]


@pytest.mark.parametrize(
    ("op", "x", "attributes"),
    [
        ("ReduceSum", X, {"axes": [-1], "keepdims": 0}),
        ("Squeeze", X[:, :1], {"axes": [1]}),
        ("Squeeze", X[:1, :1], {}),
        ("Unsqueeze", X, {"axes": [0, 3]}),
        ("Split", X, {"axis": 3, "split": [2, 3], "outputs": 2}),
        ("Split", X, {"axis": 2, "outputs": 2}),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_axes_and_sizes(op, x, attributes, known):
    check(single(11, op, x, known=known, **attributes), x, known=known)


@pytest.mark.parametrize("opset", [7, 10])
@pytest.mark.parametrize("attributes", [{"value": 1.5}, {}, {"mode": "edge"}, {"mode": "reflect"}])
def test_pad(opset, attributes):
    check(single(opset, "Pad", X, pads=[0, 0, 1, 2, 0, 0, 0, 1], **attributes), X)


@pytest.mark.parametrize("attributes", [{}, {"min": -0.5}, {"max": 0.5}, {"min": 0.0, "max": 6.0}])
def test_clip(attributes):
    check(single(10, "Clip", X, **attributes), X)


def test_clip_of_doubles_behind_other_nodes():
    """The bounds take the element type that only shape inference knows."""
    x = X.astype(np.float64)
    proto = single(10, "Clip", x, min=-0.5)
    proto.graph.node[0].input[0] = "h"
    proto.graph.node.insert(0, node("Neg", "x0", "h"))
    graph = load(proto)
    assert_close(run(to_onnx(graph), x), [np.maximum(-x, -0.5)])  # ONNX Runtime has no Clip of doubles before opset 11
    assert str(next(iter(graph.constants)).dtype) == "float64"


@pytest.mark.parametrize("attributes", [{}, {"axes": [1, 3]}])
def test_slice(attributes):
    starts, ends = ([1, -3], [3, 100]) if attributes else ([0, 1, 1, -3], [2, 3, 1000, -1])
    check(single(9, "Slice", X, starts=starts, ends=ends, **attributes), X)


def test_top_k():
    check(single(9, "TopK", X, outputs=2, k=2, axis=1), X)


@pytest.mark.parametrize("opset", [7, 10, 11])
def test_dropout(opset):
    (dropout,) = check(single(opset, "Dropout", X, ratio=0.3), X)
    assert dropout.operand(1).data.item() == pytest.approx(0.3)


def test_dropout_mask_used_to_have_the_type_of_the_data():
    proto = single(7, "Dropout", X, outputs=2)
    graph = load(proto)
    assert [n.op for n in graph] == ["Dropout", "Cast"]
    y, mask = run(to_onnx(graph), X)
    assert mask.dtype == np.float32
    np.testing.assert_array_equal(y, X)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("known", [True, False])
def test_softmax_over_flattened_dimensions(op, axis, known):
    graph = check(single(11, op, X, known=known, axis=axis), X, known=known)
    assert len(graph) == (1 if known and axis == 3 else 4)


@pytest.mark.parametrize(("shape", "axis"), [((2, 10), 1), ((2, 10, 1, 1), 1), ((1, 1, 6, 1), 0), ((2, 3, 4), -1)])
def test_softmax_that_was_one_dimensional_stays_one_node(shape, axis):
    x = array(*shape)
    (softmax,) = check(single(11, "Softmax", x, axis=axis), x)
    assert softmax.op == "Softmax"


def test_softmax_finds_its_rank_through_other_nodes():
    """No value_info says that the operand has rank 2."""
    w = tensor("w", array(4, 6))
    nodes = [node("Flatten", "x", "f"), node("MatMul", "f w", "h"), node("Softmax", "h", "y")]
    x = array(2, 2, 2)
    graph = check(model(nodes, [info("x", ["n", 2, 2])], [info("y", ["n", 6])], [w], opset=9, ir_version=4), x)
    assert [n.op for n in graph] == ["Flatten", "MatMul", "Softmax"]


@pytest.mark.parametrize("opset", [7, 9])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample(opset, mode):
    scales = [1.0, 1.0, 2.0, 3.0]
    if opset == 7:
        proto = single(opset, "Upsample", X, mode=mode, scales=scales)
    else:
        proto = single(opset, "Upsample", X, mode=mode)
        proto.graph.node[0].input.append("s")
        proto.graph.initializer.append(tensor("s", np.float32(scales)))
    (resize,) = check(proto, X)
    assert resize.op == "Resize"


@pytest.mark.parametrize("scales", [[1, 1, 2, 1.6], [1, 1, 0.5, 0.6], [1, 1, 0.5, 1]])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_10(mode, scales):
    proto = single(10, "Resize", X, mode=mode)
    proto.graph.node[0].input.append("s")
    proto.graph.initializer.append(tensor("s", np.float32(scales)))
    check(proto, X)


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_11(opset, mode):
    proto = single(opset, "Resize", X, mode=mode, coordinate_transformation_mode="half_pixel")
    proto.graph.node[0].input.extend(["roi", "s"])
    proto.graph.initializer.extend([tensor("roi", np.float32([])), tensor("s", np.float32([1, 1, 2, 1.5]))])
    check(proto, X)


def test_scatter():
    data, indices, updates = array(3, 3), np.int64([[0, 1], [2, 0]]), array(2, 2)
    (scatter,) = check(single(9, "Scatter", data, indices, updates, axis=0), data, indices, updates)
    assert scatter.op == "ScatterElements"


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest", None])
def test_grid_sample(mode):
    grid = RNG.uniform(-1, 1, (2, 4, 4, 2)).astype(np.float32)
    attributes = {} if mode is None else {"mode": mode}
    for opset in (None, 20):
        check(single(16, "GridSample", X, grid, **attributes), X, grid, opset=opset)


def test_roi_align():
    rois, batch = np.float32([[0, 0, 3, 3], [1, 1, 4, 3]]), np.int64([0, 1])
    attributes = {"output_height": 2, "output_width": 2, "sampling_ratio": 2}
    for opset in (None, 13):
        check(single(10, "RoiAlign", X, rois, batch, **attributes), X, rois, batch, opset=opset)


@pytest.mark.parametrize("axis", [None, 1, 2])
def test_dft(axis):
    x = array(1, 4, 6, 1)
    attributes = {} if axis is None else {"axis": axis}
    for opset in (17, 20):
        proto = single(17, "DFT", x, **attributes)
        written = to_onnx(load(proto), opset)
        want = ReferenceEvaluator(proto).run(None, {"x0": x})
        assert_close(want, ReferenceEvaluator(written).run(None, {"x0": x}))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("constant", [True, False])
def test_group_norm(known, constant):
    x, scale, bias = array(2, 6, 3, 3), array(3), array(3)
    proto = single(18, "GroupNormalization", x, scale, bias, known=known, num_groups=3)
    proto.graph.output[0].CopyFrom(info("y0", x.shape))  # ONNX infers none
    if constant:
        for name, each in (("x1", scale), ("x2", bias)):
            proto.graph.initializer.append(tensor(name, each))
        del proto.graph.input[1:]
    feeds = (x,) if constant else (x, scale, bias)
    graph = check(proto, *feeds, opset=21, known=known)
    assert len(graph) == 1 if constant and known else len(graph) > 1


def batch_norm(opset, x, shape, outputs=1, **attributes):
    return single(opset, "BatchNormalization", x, array(*shape), array(*shape), array(*shape),
                  np.abs(array(*shape)) + 1, outputs=outputs, **attributes)  # fmt: skip


@pytest.mark.parametrize("opset", [7, 9, 14])
def test_batch_norm(opset):
    feeds = [X, array(3), array(3), array(3), np.abs(array(3)) + 1]
    proto = single(opset, "BatchNormalization", *feeds, epsilon=1e-3)
    (norm,) = check(proto, *feeds)
    assert norm.op == "BatchNormalization"


def test_batch_norm_per_activation():
    feeds = [X, *(array(3, 4, 5) for _ in range(3)), np.abs(array(3, 4, 5)) + 1]
    proto = single(8, "BatchNormalization", *feeds, spatial=0, epsilon=1e-3)
    x, scale, bias, mean, variance = feeds
    want = (x - mean) / np.sqrt(variance + 1e-3) * scale + bias
    np.testing.assert_allclose(run(to_onnx(load(proto)), *feeds)[0], want, rtol=1e-5, atol=1e-5)


def test_batch_norm_in_training():
    proto = batch_norm(9, X, (3,), outputs=5)
    with pytest.raises(LoadError, match="no saved statistics"):
        load(proto)
    del proto.graph.output[3:]
    (norm,) = load(proto)
    assert norm.attributes["training_mode"] == 1
    assert [v.name for v in norm.outputs] == ["y0", "y1", "y2"]


def test_scan_over_a_batch():
    body = helper.make_graph([node("Add", "s v", "t"), node("Neg", "t", "u")], "body",
                             [info("s", [2]), info("v", [2])], [info("t", [2]), info("u", [2])])  # fmt: skip
    scan = helper.make_node("Scan", ["", "s0", "x"], ["s1", "y"], body=body, num_scan_inputs=1, directions=[1])
    proto = model([scan], [info("s0", [3, 2]), info("x", [3, 5, 2])], [info("s1", [3, 2]), info("y", [3, 5, 2])],
                  opset=8, ir_version=3)  # fmt: skip
    feeds = array(3, 2), array(3, 5, 2)
    assert_close(run(proto, *feeds), run(to_onnx(load(proto)), *feeds))
    scan.input[0] = "lengths"
    proto = model([scan], [info("lengths", [3], INT64), info("s0", [3, 2]), info("x", [3, 5, 2])], ["y"], opset=8)
    with pytest.raises(LoadError, match="sequence_lens"):
        load(proto)


def test_adapters_reach_into_bodies():
    then = helper.make_graph([node("ReduceMean", "x", "t", axes=[1])], "then", [], [info("t")])
    other = helper.make_graph([node("Clip", "x", "c", min=0.0), node("ReduceMax", "c", "e", axes=[1])], "else", [],
                              [info("e")])  # fmt: skip
    x = array(2, 3)
    flag = info("flag", [], onnx.TensorProto.BOOL)
    proto = model([node("If", "flag", "y", then_branch=then, else_branch=other)], [flag, info("x", [2, 3])],
                  [info("y", [2, 1])], opset=10, ir_version=5)  # fmt: skip
    for value in (True, False):
        check(proto, np.array(value), x)


def test_opsets_before_7_are_converted_by_onnx():
    proto = single(6, "Add", X, array(4, 5), broadcast=1)
    proto.graph.output[0].CopyFrom(info("y0", X.shape))
    y = array(4, 5)
    assert_close(run(to_onnx(load(proto)), X, y), [X + y])
    proto.graph.node[0].op_type = "Nonsense"
    with pytest.raises(LoadError, match="opset 6, and onnx cannot convert it"):
        load(proto)


@pytest.mark.parametrize("opset", [27, 28])
def test_opsets_beyond_the_canonical_one_pass_through(opset):
    if opset > onnx.defs.onnx_opset_version():
        pytest.skip("this onnx does not know it")
    graph = load(single(opset, "Relu", X))
    assert to_onnx(graph).opset_import[0].version == 18
