"""Damaged files: whatever is wrong with one, only graphopt's own errors come out, and no memory is eaten."""

import contextlib
import random
import resource

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

import graphopt as go
from graphopt.errors import GraphoptError, LoadError, ShapeError, UnsupportedOperatorError
from graphopt.ops.definition import departure
from graphopt.runtime import run
from tests.frontends.damage import damaged_bytes, damaged_fields
from tests.onnx_models import branch, info, model, node, tensor
from tests.zoo import captured

BOOL, INT64 = onnx.TensorProto.BOOL, onnx.TensorProto.INT64
#: Anything beyond is a size out of the file that was believed, in kilobytes.
MEMORY = 700_000


def odd_model():
    """Bodies that read around them, a local function, a sequence, strings, sparse and narrow weights, metadata."""
    body = helper.make_graph(
        [node("Add", "state x", "next"), node("Identity", "going", "on")], "body",
        [info("i", [], INT64), info("going", [], BOOL), info("state", ["n", 3])],
        [info("on", [], BOOL), info("next", ["n", 3])],
    )  # fmt: skip
    double = helper.make_function(
        "mine", "Double", ["a"], ["b"], [node("Add", "a a", "b")], [helper.make_opsetid("", 21)]
    )
    sparse = helper.make_sparse_tensor(tensor("s", np.ones(2, np.float32)), tensor("i", np.array([0, 3])), [2, 3])
    narrow = helper.make_tensor("q", onnx.TensorProto.INT4, [3], [1, -2, 3])
    nodes = [
        node("If", "c", "y", then_branch=branch("t", "Relu", "x"), else_branch=branch("e", "Mul", "x w")),
        node("Loop", "k _ y", "z", body=body),
        helper.make_node("Double", ["z"], ["d"], domain="mine"),
        node("Constant", "", "sp", sparse_value=sparse),
        node("DequantizeLinear", "q scale", "dq"),
        node("SequenceConstruct", "d dq", "items"),
        node("SequenceAt", "items zero", "first"),
        node("Constant", "", "text", value_strings=["a", "b"]),
    ]
    proto = model(
        nodes, [info("c", [], BOOL), info("x", ["n", 3]), info("k", [], INT64)], ["first", "text", "sp"],
        [tensor("w", np.ones(3, np.float32)), narrow, tensor("scale", np.float32(0.5)), tensor("zero", np.int64(0))],
        opset=21, ir_version=10, domains=["mine"],
    )  # fmt: skip
    proto.functions.append(double)
    proto.metadata_props.add(key="k", value="v")
    return proto.SerializeToString()


def zoo_file(name):
    return go.to_onnx(captured(name, "batch")).SerializeToString()


@pytest.fixture(scope="module")
def files():
    return [odd_model(), *map(zoo_file, ["lenet", "gru_classifier"])]


@pytest.mark.parametrize("damage", [damaged_bytes, damaged_fields])
def test_only_errors_of_ours_come_out(files, damage):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seen = {"loaded": 0, "refused": 0}
    for seed in range(100):
        rng = random.Random(seed)
        data = damage(files[0 if seed % 2 else rng.randrange(len(files))], rng)
        try:
            graph = go.load(data)
            graph.verify()
        except GraphoptError:
            seen["refused"] += 1
            continue
        seen["loaded"] += 1
        for leave in (str, go.to_onnx, go.to_torch):
            with contextlib.suppress(GraphoptError):
                leave(graph)
    assert min(seen.values()) > 10, f"the damage says nothing: {seen}"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY


# -- what it has found


def raised(proto, *parts, error=LoadError, then=lambda graph: None):
    with pytest.raises(error) as found:
        then(go.load(proto))
    for part in parts:
        assert part in str(found.value), str(found.value)


def relu(**changes):
    proto = model([node("Relu", "x", "y", name="r")], [info("x", [2])], [info("y", [2])])
    for path, value in changes.items():
        setattr(proto if hasattr(proto, path) else proto.graph, path, value)
    return proto


@pytest.mark.parametrize("what", [b"op_type", b"name", b"domain", b"dim_param"])
def test_texts_that_are_not_utf8(what):
    proto = relu()
    proto.graph.node[0].op_type = "op_type"
    proto.graph.node[0].name = "xxname"
    proto.graph.node[0].domain = "domain"
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "dim_param"
    data = proto.SerializeToString()
    assert what in data
    raised(data.replace(what, b"\xff" * len(what)), "no", "the file is malformed")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (node("BatchNormalization", "x x x x", "y"), "has 4 inputs, 5 belong there"),
        (node("Relu", "x x", "y"), "has 2 inputs, 1 belong there"),
        (node("Conv", "x _ x", "y"), "has no input 'W' at position 1"),
        (node("Concat", "_ x", "y", axis=0), "has no input 'inputs' at position 0"),
        (node("Concat", "x x", "y"), "has no attribute 'axis'"),
        (node("Concat", "x x", "y", axis="0"), "'axis' of Concat is not of the kind INT"),
        (node("Transpose", "x", "y", perm=[0.5]), "'perm' of Transpose is not of the kind INTS"),
        (node("Relu", "x", "y z"), "has 2 outputs, 1 belong there"),
    ],
)
def test_nodes_that_are_not_as_defined(broken, message):
    broken.name = "culprit"
    raised(model([broken], [info("x", [2, 2])], ["y"], opset=21), message, "'culprit'", "malformed")


def test_graphs_made_by_hand_are_looked_at_too():
    graph = go.load(relu())
    (only,) = graph.nodes
    assert departure(only) is None
    only.attributes["alpha"] = 2
    with pytest.raises(ShapeError, match="'alpha', which is not known"):
        go.to_torch(graph)
    with pytest.raises(UnsupportedOperatorError, match="'alpha', which is not known"):
        run(graph, [torch.ones(2)])
    with pytest.raises(UnsupportedOperatorError, match="no opset can express"):
        go.to_onnx(graph)


def test_an_attribute_that_nobody_knows():
    shrink = node("Shrink", "x", "y", lamBd=1.0)
    raised(model([shrink], [info("x", [2])], ["y"]), "lamBd", error=ShapeError, then=go.to_torch)


def test_old_operators_that_are_not_as_they_were_defined():
    raised(model([node("Slice", "x", "y", axes=[0])], [info("x", [2])], ["y"], opset=9), "opset 9", "starts")
    raised(model([node("Relu", "x", "y")], [info("x", [2])], ["y"], opset=-3), "opset -3", "the first is 1")


def test_sizes_beyond_all_bounds():
    huge = model([node("Expand", "x s", "y")], [info("x", [2]), info("s", [1 << 40], INT64)], ["y"])
    assert go.to_torch(go.load(huge)) is not None
    relu_of_all = model([node("Relu", "x", "y")], [info("x", [1 << 31])], ["y"])
    report = go.optimize(go.load(relu_of_all), "simplify")
    assert report is not None
    zero = node("Conv", "x w", "y", strides=[0, 1])
    weights = [tensor("w", np.ones((1, 1, 1, 1), np.float32))]
    raised(model([zero], [info("x", [1, 1, 4, 4])], ["y"], weights), "Conv", error=ShapeError, then=go.to_torch)


def test_recurrent_weights_that_do_not_fit():
    w, r = (tensor(n, np.ones((1, 8, 2), np.float32)) for n in "wr")
    sizes = [info("x", None)], ["y"], [w, r]
    graph = go.load(model([node("LSTM", "x w r", "y", hidden_size=2)], *sizes))
    module = go.to_torch(graph)
    with pytest.raises((GraphoptError, RuntimeError), match=r"do not fit|must be"):
        module(torch.zeros(3, 1, 7))
