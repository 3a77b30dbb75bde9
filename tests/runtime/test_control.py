"""If, Loop and Scan against ONNX Runtime."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import graphopt as go
from graphopt.errors import UnsupportedOperatorError
from graphopt.ir import Graph, Node
from graphopt.runtime import run
from graphopt.runtime.compare import compare
from graphopt.runtime.ort import OrtSession

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
X = np.arange(6, dtype=np.float32).reshape(3, 2) - 2


def value(name, kind=FLOAT, shape=None):
    return helper.make_tensor_value_info(name, kind, shape)


def constant(name, number, dtype):
    return numpy_helper.from_array(np.array(number, dtype=dtype), name)


def model(nodes, inputs, outputs, initializers=()):
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(made, full_check=True)
    return made


def check(made, *inputs):
    want = [torch.from_numpy(each) for each in OrtSession(made).run(inputs)]
    got = run(go.load(made), inputs)
    assert [tuple(each.shape) for each in got] == [tuple(each.shape) for each in want]
    assert compare(got, want).within(1e-6)
    return got


@pytest.mark.parametrize("condition", [True, False])
def test_if_takes_one_branch_and_reads_values_around_it(condition):
    branches = {
        name: helper.make_graph([helper.make_node(op, ["h"], [name])], name, [], [value(name)])
        for name, op in (("then_branch", "Exp"), ("else_branch", "Neg"))
    }
    made = model(
        [helper.make_node("Abs", ["x"], ["h"]), helper.make_node("If", ["c"], ["y"], **branches)],
        [value("c", BOOL, []), value("x", FLOAT, [3, 2])], [value("y", FLOAT, [3, 2])],
    )  # fmt: skip
    check(made, np.array(condition), X)


def loop_body():
    """state + i * x, going on while the state's sum is below a limit; also gives the state of each turn."""
    return helper.make_graph(
        [
            helper.make_node("Cast", ["i"], ["fi"], to=FLOAT),
            helper.make_node("Mul", ["fi", "x"], ["step"]),
            helper.make_node("Add", ["state", "step"], ["next"]),
            helper.make_node("ReduceSum", ["next"], ["sum"], keepdims=0),
            helper.make_node("Less", ["sum", "limit"], ["on"]),
            helper.make_node("Identity", ["next"], ["turn"]),
        ],
        "body", [value("i", INT, []), value("going", BOOL, []), value("state", FLOAT, [3, 2])],
        [value("on", BOOL, []), value("next", FLOAT, [3, 2]), value("turn", FLOAT, [3, 2])],
    )  # fmt: skip


@pytest.mark.parametrize("count", [0, 1, 4, 7])
@pytest.mark.parametrize("limit", [-50.0, 20.0, 1e9])
def test_loop(count, limit):
    made = model(
        [helper.make_node("Loop", ["n", "", "x"], ["last", "turns"], body=loop_body())],
        [value("n", INT, []), value("x", FLOAT, [3, 2])],
        [value("last", FLOAT, [3, 2]), value("turns", FLOAT, [None, 3, 2])],
        [constant("limit", limit, np.float32)],
    )
    check(made, np.array(count), np.abs(X) + 1)


@pytest.mark.parametrize("start", [True, False])
def test_loop_without_a_count_goes_on_while_the_condition_holds(start):
    made = model(
        [helper.make_node("Loop", ["", "c", "x"], ["last", "turns"], body=loop_body())],
        [value("c", BOOL, []), value("x", FLOAT, [3, 2])],
        [value("last", FLOAT, [3, 2]), value("turns", FLOAT, [None, 3, 2])],
        [constant("limit", 60.0, np.float32)],
    )
    _, turns = check(made, np.array(start), np.abs(X) + 1)
    assert (len(turns) > 1) == start


SCANS = [
    {}, {"scan_input_directions": [1]}, {"scan_output_directions": [1]}, {"scan_input_axes": [1]},
    {"scan_output_axes": [1]}, {"scan_input_axes": [-1], "scan_output_axes": [-1]},
]  # fmt: skip


def scan(attributes, rows=3):
    body = helper.make_graph(
        [helper.make_node("Add", ["state", "row"], ["next"]), helper.make_node("Exp", ["next"], ["turn"])],
        "body", [value("state", FLOAT, [2]), value("row", FLOAT, [2])],
        [value("next", FLOAT, [2]), value("turn", FLOAT, [2])],
    )  # fmt: skip
    shape = [2, rows] if attributes.get("scan_input_axes") else [rows, 2]
    out = [2, rows] if attributes.get("scan_output_axes") else [rows, 2]
    made = model(
        [helper.make_node("Scan", ["s", "x"], ["last", "turns"], body=body, num_scan_inputs=1, **attributes)],
        [value("s", FLOAT, [2]), value("x", FLOAT, shape)], [value("last", FLOAT, [2]), value("turns", FLOAT, out)],
    )  # fmt: skip
    return made, np.linspace(-1, 1, 2 * rows, dtype=np.float32).reshape(shape)


STATE = np.array([0.5, -0.5], dtype=np.float32)


@pytest.mark.parametrize("attributes", SCANS)
def test_scan(attributes):
    made, x = scan(attributes)
    check(made, STATE, x)


@pytest.mark.parametrize("attributes", SCANS)
def test_scan_of_nothing(attributes):
    made, x = scan(attributes, rows=0)  # ONNX Runtime divides by zero
    last, turns = run(go.load(made), [STATE, x])
    assert last.tolist() == STATE.tolist()
    assert list(turns.shape) == ([2, 0] if attributes.get("scan_output_axes") else [0, 2])


def test_nested_bodies():
    inner = helper.make_graph(
        [helper.make_node("Add", ["state", "x"], ["t"])], "inner", [], [value("t", FLOAT, [3, 2])]
    )
    other = helper.make_graph(
        [helper.make_node("Sub", ["state", "x"], ["e"])], "other", [], [value("e", FLOAT, [3, 2])]
    )
    body = helper.make_graph(
        [
            helper.make_node("Mod", ["i", "two"], ["odd"]),
            helper.make_node("Cast", ["odd"], ["flag"], to=BOOL),
            helper.make_node("If", ["flag"], ["next"], then_branch=inner, else_branch=other),
            helper.make_node("Identity", ["going"], ["on"]),
        ],
        "body", [value("i", INT, []), value("going", BOOL, []), value("state", FLOAT, [3, 2])],
        [value("on", BOOL, []), value("next", FLOAT, [3, 2])],
    )  # fmt: skip
    made = model(
        [helper.make_node("Mul", ["z", "z"], ["x"]), helper.make_node("Loop", ["n", "", "x"], ["last"], body=body)],
        [value("n", INT, []), value("z", FLOAT, [3, 2])], [value("last", FLOAT, [3, 2])],
        [constant("two", 2, np.int64)],
    )  # fmt: skip
    check(made, np.array(5), X)


def test_other_operators_with_bodies_are_refused():
    graph = Graph()
    body = Graph("body")
    body.add_output(body.add_constant(torch.ones(1)), "r")
    graph.add_output(graph.append(Node("Repeat", [], {"body": body}, domain="my.domain")).output, "y")
    with pytest.raises(UnsupportedOperatorError, match="Repeat with a body"):
        run(graph, [])
