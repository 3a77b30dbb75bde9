"""What ONNX files may hold besides plain nodes: it arrives, and to_onnx gives it back."""

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

import graphopt as go
from graphopt.backends.onnx_model import to_onnx
from graphopt.errors import LoadError
from graphopt.frontends.load import load
from graphopt.ir import UNKNOWN, DType, Graph, OptionalType, SequenceType, TensorType
from graphopt.ir.literals import EmptyList, SparseTensor, TypedTensor
from tests.onnx_models import branch, info, model, node, tensor
from tests.onnx_same import assert_close, assert_same, run

BOOL, INT64, STRING = onnx.TensorProto.BOOL, onnx.TensorProto.INT64, onnx.TensorProto.STRING
X = np.array([[1.0, -2.0, 3.0]], dtype=np.float32)


def around(proto, check=True):
    """Loads, writes and loads again; asserts that nothing changed and returns the first graph."""
    if check:
        onnx.checker.check_model(proto, full_check=True)
    graph = load(proto)
    written = to_onnx(graph)
    if check:
        onnx.checker.check_model(written, full_check=True)
    assert_same(graph, load(written))
    return graph


# -- bodies


def test_if_reads_values_around_it_at_any_depth():
    inner = helper.make_graph(
        [node("If", "c", "t", then_branch=branch("p", "Relu", "h"), else_branch=branch("q", "Mul", "h w"))],
        "then", [], [info("t")], [],
    )  # fmt: skip
    other = helper.make_graph([node("Add", "x k", "e")], "else", [], [info("e")], [tensor("k", np.float32(2))])
    nodes = [node("Exp", "x", "h"), node("If", "c", "y", then_branch=inner, else_branch=other)]
    inputs = [info("c", [], BOOL), info("x", [1, 3])]
    proto = model(nodes, inputs, [info("y", [1, 3])], [tensor("w", np.float32(3))])
    graph = around(proto)
    exp, conditional = graph.nodes
    then = conditional.attributes["then_branch"]
    assert isinstance(then, Graph)
    assert then.owner is conditional
    (nested,) = then.nodes
    (mul,) = nested.attributes["else_branch"].nodes
    assert mul.inputs[0] is exp.output
    assert mul.inputs[1] is next(iter(graph.constants))
    for flag in (True, False):
        assert_close(run(proto, np.array(flag), X), run(to_onnx(graph), np.array(flag), X))


def test_loop_with_state_and_scan_output():
    body = helper.make_graph(
        [node("Add", "state step", "next"), node("Identity", "cond_in", "cond_out"), node("Identity", "next", "row")],
        "body",
        [info("i", [], INT64), info("cond_in", [], BOOL), info("state", [3])],
        [info("cond_out", [], BOOL), info("next", [3]), info("row", [3])],
    )
    nodes = [node("Loop", "n _ x", "last rows", body=body)]
    proto = model(nodes, [info("n", [], INT64), info("x", [3])], [info("last", [3]), info("rows", [None, 3])],
                  [tensor("step", np.ones(3, np.float32))])  # fmt: skip
    graph = around(proto)
    (loop,) = graph.nodes
    assert loop.inputs[1] is None
    feeds = np.array(4), np.zeros(3, np.float32)
    assert_close(run(proto, *feeds), run(to_onnx(graph), *feeds))


def test_scan():
    body = helper.make_graph([node("Add", "s v", "t"), node("Mul", "t v", "u")], "body",
                             [info("s", [2]), info("v", [2])], [info("t", [2]), info("u", [2])])  # fmt: skip
    nodes = [node("Scan", "s0 x", "s1 y", body=body, num_scan_inputs=1)]
    proto = model(nodes, [info("s0", [2]), info("x", [5, 2])], [info("s1", [2]), info("y", [5, 2])])
    graph = around(proto)
    feeds = np.zeros(2, np.float32), np.arange(10, dtype=np.float32).reshape(5, 2)
    assert_close(run(proto, *feeds), run(to_onnx(graph), *feeds))


def test_a_body_may_return_a_value_from_outside_or_its_input():
    body = helper.make_graph([], "body", [info("i", [], INT64), info("c", [], BOOL), info("s", [3])],
                             [info("c", [], BOOL), info("s", [3])])  # fmt: skip
    graph = load(model([node("Loop", "n _ x", "y", body=body)], [info("n", [], INT64), info("x", [3])],
                       [info("y", [3])]))  # fmt: skip
    written = to_onnx(graph)
    onnx.checker.check_model(written, full_check=True)
    assert_close(run(written, np.array(2), X[0]), [X[0]])
    assert_same(graph, load(written))


# -- types


def test_sequences_optionals_and_their_attributes():
    element = helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [2])
    sequence = helper.make_sequence_type_proto(element)
    nodes = [
        node("SequenceConstruct", "x x", "s"),
        node("Optional", "", "empty", type=sequence),
        node("OptionalHasElement", "empty", "has"),
        node("SequenceAt", "s i", "y"),
    ]
    outputs = [onnx.ValueInfoProto(name="s", type=sequence), info("has", [], BOOL), info("y", [2])]
    graph = around(model(nodes, [info("x", [2]), info("i", [], INT64)], outputs))
    assert graph.outputs[0].type == SequenceType(TensorType(DType.FLOAT32, (2,)))
    optional = list(graph)[1]
    assert optional.attributes["type"] == SequenceType(TensorType(DType.FLOAT32, (2,)))
    assert optional.output.type in (UNKNOWN, OptionalType(SequenceType(TensorType(DType.FLOAT32, (2,)))))


def test_strings():
    nodes = [node("Constant", "", "s", value_strings=["b", "é"]), node("Equal", "x s", "y")]
    graph = around(model(nodes, [info("x", [2], STRING)], [info("y", [2], BOOL)], opset=19))
    (constant,) = graph.constants
    assert list(constant.strings) == ["b", "é"]


@pytest.mark.parametrize(
    "dtype", [DType.INT4, DType.UINT4, DType.FLOAT8E4M3FN, DType.FLOAT8E5M2, DType.BFLOAT16], ids=str
)
def test_quantized_weights(dtype):
    weight = helper.make_tensor("w", int(dtype), [3, 2], [0, 1, 2, 3, 1, 2])
    nodes = [node("Cast", "w", "f", to=int(onnx.TensorProto.FLOAT)), node("MatMul", "x f", "y")]
    proto = model(nodes, [info("x", [1, 3])], [info("y", [1, 2])], [weight], opset=21, ir_version=10)
    graph = around(proto)
    (constant,) = graph.constants
    assert constant.dtype is dtype
    assert_close(run(proto, X), run(to_onnx(graph), X))


def test_a_narrow_tensor_in_an_attribute():
    one = helper.make_tensor("v", onnx.TensorProto.INT4, [1], [-3])
    proto = model([node("ConstantOfShape", "n", "y", value=one)], [info("n", [1], INT64)],
                  [info("y", [None], onnx.TensorProto.INT4)], opset=21, ir_version=10)  # fmt: skip
    (fill,) = around(proto)
    assert isinstance(fill.attributes["value"], TypedTensor)
    assert fill.attributes["value"].data.tolist() == [-3]


def test_unknown_ranks_and_nameless_dimensions():
    nodes = [node("Relu", "x", "h"), node("Neg", "h", "y"), node("Abs", "z", "w")]
    hidden = info("h", None)
    proto = model(nodes, [info("x", None), info("z", ["batch size", None, "2*n"])], [info("y"), "w"],
                  value_info=[hidden])  # fmt: skip
    graph = load(proto)
    written = to_onnx(graph)  # the checker would not take it: it wants a rank on every input and output
    # Only shape inference could add something: the last output's shape.
    again = load(written)
    assert str(again.outputs[1].type) == 'float32["batch size", ?, 2*n]'
    assert_same(again, load(to_onnx(again)))
    x, z = graph.inputs
    assert x.type == TensorType(DType.FLOAT32)
    assert z.type == TensorType.make(DType.FLOAT32, ('"batch size"', '"?0"', "2*n"))
    assert next(iter(graph)).output.type == TensorType(DType.FLOAT32)
    assert_close(run(to_onnx(graph), X, np.ones((1, 2, 4), np.float32)), [-np.maximum(X, 0), np.ones((1, 2, 4), "f")])


@pytest.mark.parametrize("name", ["n", "p2o.DynamicDimension.0", "batch size", "2*n", "1st", "tokens@0", '"a + b"'])
def test_names_of_dimensions_come_back_as_they_were(name):
    proto = model([node("Relu", "x", "y")], [info("x", [name, 3])], [info("y", [name, 3])])
    written = to_onnx(load(proto))
    for value in (*written.graph.input, *written.graph.output):
        assert [dim.dim_param for dim in value.type.tensor_type.shape.dim] == [name, ""]


def test_sizes_that_nobody_has_named_are_equal_to_themselves():
    """HardSwish is recognised only where the shape is known to stay as it is."""
    three, six, zero = (onnx.numpy_helper.from_array(np.float32(n), name) for n, name in ((3, "c"), (6, "s"), (0, "o")))
    nodes = [node("Add", "x c", "a"), node("Clip", "a o s", "b"), node("Mul", "x b", "m"), node("Div", "m s", "h"),
             node("Add", "h y", "z")]  # fmt: skip
    given = [info("x", [None, 3, -1, "?0"]), info("y", [None, 3, 2, 2])]
    proto = model(nodes, given, ["z"], [three, six, zero])
    graph = load(proto)
    assert [str(value.type) for value in graph.inputs] == [
        'float32["?1", 3, "?2", "?0"]', 'float32["?3", 3, 2, 2]'
    ]  # fmt: skip
    go.optimize(graph, "simplify,fuse")
    assert [each.op for each in graph] == ["HardSwish", "Add"]
    written = to_onnx(graph)
    for value, wanted in zip(written.graph.input, ([None, 3, None, None], [None, 3, 2, 2]), strict=True):
        sizes = [getattr(d, d.WhichOneof("value") or "", None) for d in value.type.tensor_type.shape.dim]
        assert sizes == wanted
    x, y = np.linspace(-5, 5, 24, dtype=np.float32).reshape(2, 3, 2, 2), np.ones((1, 3, 2, 2), np.float32)
    assert_close(run(written, x, y), [x * np.clip(x + 3, 0, 6) / 6 + y])


# -- constants


def test_constant_nodes_become_constants():
    nodes = [
        node("Constant", "", "a", value_float=2.5),
        node("Constant", "", "b", value_ints=[3, 1]),
        node("Constant", "", "c", value=tensor("t", np.float32([[1, 2, 3]]))),
        node("Mul", "x a", "h"), node("Add", "h c", "g"), node("Reshape", "g b", "y"),
    ]  # fmt: skip
    proto = model(nodes, [info("x", [1, 3])], [info("y", [3, 1])])
    graph = around(proto)
    assert [n.op for n in graph] == ["Mul", "Add", "Reshape"]
    assert {v.name: v.data.tolist() for v in graph.constants} == {"a": 2.5, "b": [3, 1], "c": [[1, 2, 3]]}
    assert_close(run(proto, X), run(to_onnx(graph), X))


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("initializer", [True, False])
def test_sparse_tensors(linear, initializer):
    indices = [1, 5] if linear else [[0, 1], [1, 2]]
    sparse = helper.make_sparse_tensor(tensor("w", np.float32([7, 8])), tensor("w_indices", np.int64(indices)), [2, 3])
    nodes = [node("Add", "x w", "y")]
    if initializer:
        proto = model(nodes, [info("x", [2, 3])], [info("y", [2, 3])], sparse_initializer=[sparse])
    else:
        sparse.values.name = sparse.indices.name = ""
        nodes.insert(0, node("Constant", "", "w", sparse_value=sparse))
        proto = model(nodes, [info("x", [2, 3])], [info("y", [2, 3])])
    # ONNX's checker lets no operator read a sparse initializer, which is why ours becomes a Constant node.
    graph = around(proto, check=not initializer)
    onnx.checker.check_model(to_onnx(graph), full_check=True)
    held = next(iter(graph)).attributes["sparse_value"]
    assert isinstance(held, SparseTensor)
    assert held.values.tolist() == [7, 8]
    x = np.ones((2, 3), np.float32)
    assert_close(run(proto, x), run(to_onnx(graph), x))


def test_initializers_that_are_inputs_can_be_overridden():
    w = tensor("w", np.float32([1, 2, 3]))
    nodes = [node("Mul", "x w", "y")]
    proto = model(nodes, [info("x", [1, 3]), info("w", [3])], [info("y", [1, 3])], [w])
    graph = around(proto)
    assert [v.name for v in graph.inputs] == ["x", "w"]
    assert not graph.inputs[1].is_constant
    assert graph.inputs[1].data.tolist() == [1, 2, 3]
    assert_close(run(to_onnx(graph), X, np.float32([0, 0, 2])), [np.float32([[0, 0, 6]])])


def test_before_version_4_initializers_had_to_be_inputs():
    w = tensor("w", np.float32([1, 2, 3]))
    proto = model([node("Mul", "x w", "y")], [info("x", [1, 3]), info("w", [3])], [info("y", [1, 3])], [w],
                  opset=8, ir_version=3)  # fmt: skip
    graph = around(proto)
    assert [v.name for v in graph.inputs] == ["x"]


# -- what surrounds the graph


def test_metadata_survives():
    proto = model([node("Relu", "x", "h", name="act", doc_string="about the node"), node("Neg", "h", "y")],
                  [info("x", [1, 3])], [info("y", [1, 3])], value_info=[info("h", [1, 3])])  # fmt: skip
    proto.producer_name, proto.producer_version, proto.domain = "maker", "1.2", "org.example"
    proto.model_version, proto.doc_string, proto.ir_version = 7, "about the model", 11
    proto.graph.doc_string = "about the graph"
    for owner in (proto, proto.graph, proto.graph.node[0], proto.graph.value_info[0], proto.graph.input[0]):
        owner.metadata_props.add(key="k", value=type(owner).__name__)
    proto.graph.input[0].doc_string = "about the input"
    proto.graph.quantization_annotation.add(tensor_name="h").quant_parameter_tensor_names.add(
        key="SCALE_TENSOR", value="x"
    )
    proto.training_info.add().algorithm.name = "sgd"
    graph = around(proto)
    written = to_onnx(graph)
    assert written.ir_version == 11
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string", "metadata_props",
                 "training_info"):  # fmt: skip
        assert getattr(written, name) == getattr(proto, name)
    for name in ("name", "doc_string", "metadata_props", "input", "output", "value_info", "quantization_annotation"):
        assert getattr(written.graph, name) == getattr(proto.graph, name)
    assert written.graph.node[:] == proto.graph.node[:]


def test_device_configurations_survive():
    proto = model([node("Relu", "x", "y")], [info("x", [1])], [info("y", [1])], ir_version=11)
    if "configuration" not in onnx.ModelProto.DESCRIPTOR.fields_by_name:
        pytest.skip("this onnx has none")
    proto.configuration.add(name="two", num_devices=2)
    proto.graph.node[0].device_configurations.add(configuration_id="two", pipeline_stage=1)
    written = to_onnx(around(proto))
    assert written.configuration == proto.configuration
    assert written.graph.node[0].device_configurations == proto.graph.node[0].device_configurations


def test_unknown_domains_are_carried_with_every_kind_of_attribute():
    body = branch("b", "Relu", "x")
    attributes = {
        "i": 3, "f": 0.1, "s": "text", "raw": b"\xff\xfe", "ints": [1, 2], "floats": [1.0, 2.0],
        "strings": ["a", b"\xff"], "t": tensor("", np.int8([1])), "ts": [tensor("", np.float32([1, 2]))], "g": body,
        "tp": helper.make_tensor_type_proto(1, [1, "n"]),
    }  # fmt: skip
    custom = node("Frobnicate", "x _ x _", "y _ z", name="n", domain="com.example", **attributes)
    for name, kind in (("no_ints", "INTS"), ("no_floats", "FLOATS"), ("no_strings", "STRINGS")):
        custom.attribute.add(name=name, type=onnx.AttributeProto.AttributeType.Value(kind))
    custom.attribute.add(name="tps", type=onnx.AttributeProto.TYPE_PROTOS).type_protos.add()
    proto = model([custom], [info("x", [1])], [info("y", [1]), info("z", [1])], domains=["com.example"])
    graph = around(proto)
    (kept,) = graph.nodes
    assert kept.attributes["f"] == 0.1  # and not 0.10000000149011612, though a file holds single precision
    assert kept.attributes["raw"] == b"\xff\xfe"
    assert kept.attributes["strings"] == ("a", b"\xff")
    assert kept.attributes["no_floats"] == ()
    assert isinstance(kept.attributes["no_floats"], EmptyList)
    assert kept.inputs[1] is None
    written = to_onnx(graph).graph.node[0]
    assert list(written.input) == ["x", "", "x", ""]
    assert list(written.output) == ["y", "", "z"]
    for mine, theirs in zip(written.attribute, custom.attribute, strict=True):
        if theirs.type != onnx.AttributeProto.GRAPH:
            assert mine == theirs


def test_local_functions_are_kept_or_inlined():
    function = helper.make_function(
        "local", "Twice", ["a"], ["b"], [node("Add", "a a", "b")], [helper.make_opsetid("", 18)]
    )
    nodes = [node("Twice", "x", "h", domain="local"), node("Relu", "h", "y")]
    proto = model(nodes, [info("x", [1, 3])], [info("y", [1, 3])], domains=["local"])
    proto.functions.append(function)
    graph = around(proto)
    assert [(n.domain, n.op) for n in graph] == [("local", "Twice"), ("", "Relu")]
    assert_close(run(to_onnx(graph), X), run(proto, X))
    assert [n.op for n in load(proto, inline=True)] == ["Add", "Relu"]


def test_the_long_name_of_the_standard_domain():
    proto = model([node("Relu", "x", "y", domain="ai.onnx")], [info("x", [1])], [info("y", [1])])
    proto.opset_import[0].domain = "ai.onnx"
    (relu,) = load(proto)
    assert relu.domain == ""


def test_an_attribute_of_unknown_kind():
    proto = model([node("Op", "x", "y", domain="d")], [info("x", [1])], ["y"], domains=["d"])
    proto.graph.node[0].attribute.add(name="what")
    with pytest.raises(LoadError, match="attribute 'what' has kind 0"):
        load(proto)


def test_constants_share_the_bytes_of_the_message():
    proto = model([node("Add", "x w", "y")], [info("x", [4])], [info("y", [4])], [tensor("w", np.float32([1] * 4))])
    (weight,) = load(proto).constants
    assert weight.data.dtype is torch.float32
    assert weight.data.data_ptr() % 4 == 0
