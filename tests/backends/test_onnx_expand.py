"""Graphs at opsets that lack their operators: written out in older ones, computing the same."""

from functools import cache

import numpy as np
import onnx
import onnxruntime as ort_api
import pytest
import torch
from torch.utils import _pytree as pytree

import graphopt as go
from graphopt.backends.onnx_expand import expanded
from graphopt.backends.onnx_expansions import EXPANSIONS
from graphopt.backends.onnx_opset import expressible
from graphopt.errors import UnsupportedOperatorError
from graphopt.ir import DType, Graph, Node, TensorType, difference
from graphopt.models import build
from graphopt.runtime import run
from graphopt.runtime.compare import compare
from graphopt.runtime.ort import OrtSession
from tests.onnx_cases import cases, same, value_of
from tests.zoo import captured

# Of ONNX's own tests those of operators that are written out, a few of each.
NAMES = (
    "attention_3d", "attention_4d", "attention_4d_attn_mask", "attention_4d_causal",
    "attention_4d_gqa", "attention_4d_softcap", "attention_4d_with_past_and_present", "blackmanwindow",
    "castlike_FLOAT_to_DOUBLE", "castlike_DOUBLE_to_FLOAT16",
    "gelu_default_1", "gelu_tanh_1", "group_normalization_epsilon", "group_normalization_example", "hannwindow",
    "hardswish", "layer_normalization_2d_axis0", "layer_normalization_3d_axis_negative_1_epsilon",
    "layer_normalization_4d_axis1", "layer_normalization_default_axis", "mish",
    "reduce_l2_keep_dims_example", "reduce_sum_square_default_axes_keepdims_random", "rms_normalization_2d_axis0",
    "rms_normalization_3d_axis_negative_2_epsilon", "rotary_embedding", "rotary_embedding_interleaved",
    "rotary_embedding_no_position_ids", "shape_clip_end", "shape_end_1", "shape_start_1", "shape_start_1_end_2",
    "shape_start_negative_1", "swiglu", "swish", "tril", "tril_neg", "tril_zero", "triu", "triu_one_row", "triu_pos",
)  # fmt: skip
# An operator of an expansion may be younger than 13 in turn, with nothing to make it from.
LOWEST = {"swiglu": 18}


@cache
def graphs():
    return {name: go.load(case.model) for name, case in cases("node").items() if name in NAMES}


def late(graph, opset):
    return [node for node in graph.walk() if not expressible(node) >> opset & 1]


def ort(model, graph, inputs):
    feed = {v.name: x.numpy() if isinstance(x, torch.Tensor) else x for v, x in zip(graph.inputs, inputs, strict=False)}
    return OrtSession(model).run(feed)


@pytest.mark.parametrize("name", NAMES)
def test_onnx_own_cases_at_an_older_opset(name):
    case, graph = cases("node")[name], graphs()[name]
    opset = LOWEST.get(name, 13)
    assert late(graph, opset)
    text = str(graph)
    model = go.to_onnx(graph, opset)
    assert str(graph) == text
    assert model.opset_import[0].version == opset
    inputs, outputs = case.data[0]
    got = ort(model, graph, [value_of(each) for each in inputs])
    for mine, theirs in zip(got, outputs, strict=True):
        same(value_of(mine), value_of(theirs), max(case.rtol, 1e-4), max(case.atol, 1e-5), name)


AGES = {
    "mobilenet_v3": (13,), "efficientnet": (13, 17, 20, 23), "convnext": (13, 15, 17, 19), "vit": (13, 16, 19, 22),
    "swin": (13, 17), "mlp_mixer": (13,), "bert": (13, 17), "gpt": (13, 20, 22),
}  # fmt: skip


@pytest.mark.parametrize(("name", "opset"), [(name, opset) for name, opsets in AGES.items() for opset in opsets])
def test_the_zoo_at_every_age(name, opset):
    module, args = build(name)
    graph = captured(name)
    assert late(graph, opset)
    with torch.no_grad():
        want = [leaf for leaf in pytree.tree_leaves(module(*args)) if isinstance(leaf, torch.Tensor)]
    model = go.to_onnx(graph, opset)
    onnx.checker.check_model(model, full_check=True)
    got = OrtSession(model).run(pytree.tree_leaves(args))
    assert compare([torch.from_numpy(array) for array in got], want).within(1e-4)
    assert not late(go.load(model), opset)


@pytest.mark.parametrize(("approximate", "fused"), [("none", "Gelu"), ("tanh", "FastGelu")])
def test_onnx_runtime_computes_a_gelu_that_was_written_out_in_one_kernel(tmp_path, approximate, fused):
    layers = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU(approximate=approximate), torch.nn.Linear(8, 8))
    model = go.to_onnx(go.capture(layers.eval(), (torch.zeros(2, 8),)), 17)
    assert fused not in {node.op_type for node in model.graph.node}
    options = ort_api.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort_api.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert fused in {node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node}


def test_nothing_is_written_out_unasked():
    graph = captured("efficientnet")
    model = go.to_onnx(graph)
    assert "Swish" in {node.op_type for node in model.graph.node}
    assert expanded(graph, 24) is graph


def test_dynamic_sizes_stay_dynamic():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.group = torch.nn.LayerNorm(8), torch.nn.GroupNorm(2, 8)

        def forward(self, x):
            q = self.norm(x)
            y = torch.nn.functional.scaled_dot_product_attention(q[:, None], q[:, None], q[:, None], is_causal=True)
            return torch.tril(self.group(y[:, 0].transpose(1, 2)), -1)

    module = Net().eval()
    graph = go.capture(module, (torch.randn(2, 5, 8),), dynamic={"x": {0: "batch", 1: "seq"}})
    model = go.to_onnx(graph, 13)
    for shape in ((2, 5, 8), (1, 1, 8), (3, 11, 8)):
        x = torch.randn(shape)
        with torch.no_grad():
            want = module(x)
        got = torch.from_numpy(OrtSession(model).run([x])[0])
        assert torch.allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("op", ["LayerNormalization", "GroupNormalization"])
def test_a_large_mean_costs_no_precision(op):
    """ONNX's functions subtract the squared mean from the mean of squares, and get noise here."""
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, (2, 4, 64)))
    scale = torch.ones(4) if op == "GroupNormalization" else torch.ones(64)
    attributes = {"num_groups": 2} if op == "GroupNormalization" else {"axis": -1}
    node = graph.append(Node(op, [x, graph.add_constant(scale), graph.add_constant(scale * 0)], attributes))
    graph.add_output(node.output, "y")
    given = torch.randn(2, 4, 64) + 3000
    want = torch.nn.functional.layer_norm(given.double(), (64,)) if op == "LayerNormalization" else (
        torch.nn.functional.group_norm(given.double(), 2)
    )  # fmt: skip
    got = torch.from_numpy(OrtSession(go.to_onnx(graph, 13)).run([given])[0])
    assert (got - want).abs().max() < 2e-2


@pytest.mark.parametrize("stash", [1, 10])
def test_statistics_in_the_precision_that_is_asked_for(stash):
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT16, (3, 8)))
    scale = graph.add_constant(torch.ones(8, dtype=torch.float16))
    node = Node("LayerNormalization", [x, scale], {"stash_type": stash, "axis": 1}, 3)
    for index, value in enumerate(graph.append(node).outputs):
        value.type = TensorType.make(DType(stash) if index else DType.FLOAT16, (3, 1) if index else (3, 8))
        graph.add_output(value, f"y{index}")
    given = torch.randn(3, 8).half()
    got = OrtSession(go.to_onnx(graph, 14)).run([given])
    for mine, theirs in zip(got, run(graph, [given]), strict=True):
        assert torch.allclose(torch.from_numpy(mine), theirs, atol=5e-3)
        assert torch.from_numpy(mine).dtype == theirs.dtype


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_cumulative_products(axis, exclusive, reverse):
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, ("n", 3, 4)))
    node = Node("CumProd", [x, graph.add_constant(torch.tensor(axis))], {"exclusive": exclusive, "reverse": reverse})
    graph.add_output(graph.append(node).output, "y")
    given = torch.randn(2, 3, 4)
    got = torch.from_numpy(OrtSession(go.to_onnx(graph, 13)).run([given])[0])
    assert torch.allclose(got, run(graph, [given])[0], atol=1e-6)


def test_bodies_are_expanded_too():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, (2, 3)))
    condition = graph.add_input("c", TensorType.make(DType.BOOL, ()))
    branches = {}
    for name, op in (("then_branch", "Gelu"), ("else_branch", "Swish")):
        body = Graph(name)
        body.add_output(body.add(op, x), f"{name}_y")
        branches[name] = body
    graph.add_output(graph.add("If", condition, **branches), "y")
    model = go.to_onnx(graph, 13)
    given = torch.randn(2, 3)
    for flag, want in ((True, torch.nn.functional.gelu(given)), (False, torch.nn.functional.silu(given))):
        got = OrtSession(model).run({"x": given, "c": np.array(flag)})[0]
        assert torch.allclose(torch.from_numpy(got), want, atol=1e-6)


def test_what_cannot_be_written_out_is_named():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.INT32, (2, 3)))
    y = graph.add("Gelu", graph.add("Cast", graph.add("BitwiseNot", x, name="flip"), to=1), name="act")
    graph.add_output(y, "y")
    before = graph.clone()
    with pytest.raises(UnsupportedOperatorError, match=r"opset 17 cannot express .*BitwiseNot 'flip'") as raised:
        go.to_onnx(graph, 17)
    assert "Gelu" not in str(raised.value)
    assert difference(graph, before, provenance=True) is None


def test_parameters_and_modules_are_still_known():
    graph = captured("bert")
    model = go.to_onnx(graph, 13)
    read = go.load(model)
    written = {v.parameter.name for v in read.parameters}
    assert written == {v.parameter.name for v in graph.parameters if v.uses}
    assert {node.origin.module for node in read.walk()} == {node.origin.module for node in graph.walk()}


def test_the_rules_are_for_operators_of_onnx():
    assert all(onnx.defs.has(op) for op in EXPANSIONS)


def test_a_node_that_is_not_needed_any_more():
    """The shape of what came late is known: what made it is swept before its own turn."""
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, (2, 3)))
    graph.add_output(graph.add("Shape", graph.add("Mish", x), start=1), "y")
    assert OrtSession(go.to_onnx(graph, 13)).run([torch.ones(2, 3)])[0].tolist() == [3]
