"""Choices followed through what exporters write around them; held to numpy on a stack that is cut by hand."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import graphopt as go
from graphopt.analysis.coupling import ChannelCoupling
from graphopt.analysis.shapes import propagate_all
from graphopt.runtime import run
from graphopt.runtime.ort import OrtSession

RNG = np.random.default_rng(0)
X = RNG.standard_normal((7, 5)).astype(np.float32)
ROUTER = RNG.standard_normal((5, 6)).astype(np.float32)
STACK = RNG.standard_normal((6, 5, 4)).astype(np.float32)
ROWS = RNG.standard_normal((3, 6, 4)).astype(np.float32)
NUMBER = np.array([0, 1, 2, 0, 1, 2, 0])
KEPT = [0, 2, 3, 5]
for faint in (1, 4):
    ROUTER[:, faint] *= 1e-3
    STACK[faint] *= 1e-3
    ROWS[:, faint] *= 1e-3


def loaded(*nodes, **constants):
    """A router [5, 6] that chooses one of six for each of seven inputs (`chosen`), and what `nodes` do with it."""
    shared = {"router": ROUTER, "one": np.array([1]), "last": np.array([-1]), **constants}
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "router"], ["scores"]),
         helper.make_node("TopK", ["scores", "one"], ["best", "place"]),
         helper.make_node("Squeeze", ["place", "last"], ["chosen"]), *nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [7, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.asarray(data), name) for name, data in shared.items()],
    )  # fmt: skip
    return go.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9))


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def exported(stack, columns=("chosen",)):
    """What torch.onnx writes for ``stack[columns]``: all columns brought to one shape, side by side, GatherND."""
    wide = [node("Expand", f"{each} shape", f"wide{i}") for i, each in enumerate(columns)]
    ends = [node("Unsqueeze", f"wide{i} last", f"column{i}") for i, _ in enumerate(columns)]
    return [
        node("Max", " ".join(columns), "largest"), node("Shape", "largest", "shape"), *wide, *ends,
        node("Concat", " ".join(f"column{i}" for i, _ in enumerate(columns)), "beside", axis=-1),
        node("Cast", "beside", "at", to=TensorProto.INT64), node("GatherND", f"{stack} at", "found"),
    ]  # fmt: skip


PRODUCT = [node("Unsqueeze", "x one", "row"), node("MatMul", "row found", "y")]


def chosen(router):
    return (X @ router).argmax(1)


def stacked():
    return loaded(*exported("stack"), *PRODUCT, stack=STACK), {"router": {1: KEPT}, "stack": {0: KEPT}}, np.einsum(
        "nd,ndf->nf", X, STACK[KEPT][chosen(ROUTER[:, KEPT])]
    )[:, None]  # fmt: skip


def with_a_constant_column():
    """``rows[number, chosen]``: the second column alone is a choice."""
    graph = loaded(*exported("rows", ("number", "chosen")), node("Identity", "found", "y"), rows=ROWS, number=NUMBER)
    return graph, {"router": {1: KEPT}, "rows": {1: KEPT}}, ROWS[:, KEPT][NUMBER, chosen(ROUTER[:, KEPT])]


def joined():
    """Two choices end to end look up one stack."""
    graph = loaded(
        node("Concat", "chosen chosen", "both", axis=0), node("Gather", "stack both", "found"),
        node("Concat", "x x", "twice", axis=0), node("Unsqueeze", "twice one", "row"), node("MatMul", "row found", "y"),
        stack=STACK,
    )  # fmt: skip
    want = np.einsum("nd,ndf->nf", X, STACK[KEPT][chosen(ROUTER[:, KEPT])])[:, None]
    return graph, {"router": {1: KEPT}, "stack": {0: KEPT}}, np.concatenate([want, want])


def written():
    """Shares are written to their places by ScatterND, and weigh all of the stack."""
    graph = loaded(
        node("Unsqueeze", "chosen last", "second"), node("Concat", "first second", "at", axis=-1),
        node("Squeeze", "best last", "share"), node("ScatterND", "empty at share", "gates"),
        node("MatMul", "gates table", "y"),
        first=np.arange(7)[:, None], empty=np.zeros((7, 6), np.float32), table=STACK[:, 0],
    )  # fmt: skip
    best = (X @ ROUTER[:, KEPT]).max(1, keepdims=True)
    kept = {"router": {1: KEPT}, "table": {0: KEPT}, "empty": {1: KEPT}}
    return graph, kept, best * STACK[KEPT, 0][chosen(ROUTER[:, KEPT])]


@pytest.mark.parametrize("case", [stacked, with_a_constant_column, joined, written])
def test_choices_are_followed(case):
    graph, kept, want = case()
    report = go.optimize(graph, "prune-channels{ratio=0.34,kinds=[experts]}")  # held to the masked original
    assert report.kept == kept
    x = torch.from_numpy(X)
    np.testing.assert_allclose(run(graph, [x])[0], want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(OrtSession(go.to_onnx(graph)).run([x])[0], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("nodes", [
    [node("Max", "chosen one", "at"), node("Gather", "stack at", "found"), *PRODUCT],
    [node("Concat", "chosen one", "at", axis=0), node("Gather", "stack at", "found"),
     node("Gather", "x one", "few"), node("Unsqueeze", "few one", "row"), node("MatMul", "row found", "y")],
    [node("Max", "chosen one", "largest"), node("Shape", "largest", "shape"), node("Expand", "largest shape", "at"),
     node("Gather", "stack at", "found"), *PRODUCT],
    [*exported("rows", ("number", "chosen"))[:-1], node("Transpose", "at", "turned"),
     node("Transpose", "turned", "back"), node("GatherND", "rows back", "y")],
], ids=["with another number", "beside another number", "of which the shape is read as well", "in columns that move"],
)  # fmt: skip
def test_numbers_that_may_be_others_keep_all(nodes):
    graph = loaded(*nodes, stack=STACK, rows=ROWS, number=NUMBER)
    propagate_all(graph)
    coupling = ChannelCoupling(graph)
    assert all(len(group) != 6 for group in coupling.groups)
    assert any("computes with the numbers" in reason for reason in coupling.frozen_by())
