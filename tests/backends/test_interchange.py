"""What the zoo does not have, through onnx_ir and onnx-graphsurgeon. The zoo itself goes through in test_capture."""

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from onnx import helper

import graphopt as go
from graphopt.errors import SaveError
from graphopt.ir import difference
from graphopt.runtime import run
from tests.frontends.test_load_damaged import odd_model
from tests.interchange import through_other_libraries
from tests.onnx_models import branch, info, model, node, tensor

BOOL = onnx.TensorProto.BOOL


def nested():
    """Bodies in bodies that read values two graphs further out."""
    inner = helper.make_graph(
        [node("If", "c", "t", then_branch=branch("p", "Relu", "h"), else_branch=branch("q", "Mul", "h w"))],
        "then", [], [info("t")],
    )  # fmt: skip
    nodes = [node("Exp", "x", "h"), node("If", "c", "y", then_branch=inner, else_branch=branch("e", "Add", "h k"))]
    weights = [tensor("w", np.float32(3)), tensor("k", np.arange(3, dtype=np.float32))]
    return model(nodes, [info("c", [], BOOL), info("x", ["n", 3])], [info("y", ["n", 3])], weights)


def foreign():
    """Operators of domains that nobody here knows, with every kind of attribute."""
    odd = node("Thing", "x", "h", i=1, f=0.5, s="text", ints=[1, 2], floats=[0.5], t=tensor("t", np.ones(2)))
    odd.domain = "somebody.else"
    odd.metadata_props.add(key="node", value="kept")
    proto = model(
        [odd, node("Relu", "h", "y")], [info("x", ["n", 3])], [info("y", ["n", 3])], domains=["somebody.else"]
    )
    proto.metadata_props.add(key="model", value="kept")
    return proto


def dense(proto):
    """Without what neither library can hold."""
    del proto.graph.output[2]
    proto.graph.node.remove(next(n for n in proto.graph.node if "sp" in n.output))
    return proto


@pytest.mark.parametrize("proto", [nested(), foreign(), dense(onnx.load_from_string(odd_model()))],
                         ids=["nested", "foreign", "odd"])  # fmt: skip
def test_onnx_ir_loses_nothing(proto):
    graph = go.load(proto)
    converted = go.to_onnx_ir(graph)
    assert [key[1] for key in converted.functions] == [function.name for function in proto.functions]
    assert dict(converted.metadata_props) == {entry.key: entry.value for entry in proto.metadata_props}
    assert difference(graph, go.load(converted), provenance=True) is None


def test_domains_that_nobody_knows_go_through_both():
    through_other_libraries(go.load(foreign()))


def test_bodies_through_graphsurgeon_compute_the_same():
    graph = go.load(nested())
    back = go.load(go.to_graphsurgeon(graph))
    x = torch.randn(2, 3)
    for flag in (True, False):
        inputs = {"c": torch.tensor(flag), "x": x}
        assert torch.equal(run(graph, inputs)[0], run(back, inputs)[0])


def test_functions_through_graphsurgeon():
    graph = go.load(dense(onnx.load_from_string(odd_model())))
    back = go.load(go.to_graphsurgeon(graph))
    assert [n.op for n in back.nodes if n.domain == "mine"] == ["Double"]
    assert [n.op for n in go.load(go.to_onnx(back), inline=True).nodes if n.domain] == []


@pytest.mark.parametrize("convert", [go.to_onnx_ir, go.to_graphsurgeon])
def test_sparse_tensors_are_refused_where_they_would_be_lost(convert):
    with pytest.raises(SaveError, match="has no sparse tensors"):
        convert(go.load(odd_model()))


def test_external_weights_stay_external(tmp_path):
    graph = go.load(nested())
    go.save(graph, tmp_path / "m.onnx", external=True)
    lazily = onnx_ir.load(tmp_path / "m.onnx")
    assert difference(graph, go.load(lazily)) is None
