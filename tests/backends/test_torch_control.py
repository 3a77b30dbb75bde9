"""If, Loop and Scan in emitted modules, against the executor."""

import copy
import pickle

import pytest
import torch
from torch import nn

from graphopt.backends import to_torch, update_from
from graphopt.frontends.capture import capture
from graphopt.ir import DType, Graph, Node, TensorType
from graphopt.runtime import run

FLOAT = TensorType.make(DType.FLOAT32, (3,))
BOOL, INT = TensorType(DType.BOOL, ()), TensorType(DType.INT64, ())


def check(graph, *feeds):
    module = to_torch(graph)
    for twin in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        for feed in feeds:
            got = twin(*feed)
            for mine, theirs in zip(got if isinstance(got, tuple) else (got,), run(graph, feed), strict=True):
                torch.testing.assert_close(mine, theirs)
    return module


def branch(name, op, outer, constant):
    body = Graph(name)
    body.add_output(body.add(op, outer, body.add_constant(constant, "weights.w")), "y")
    return body


def test_if_reads_values_from_outside():
    graph = Graph()
    condition, x = graph.add_input("condition", BOOL), graph.add_input("x", FLOAT)
    doubled = graph.add("Mul", x, graph.add_constant(torch.tensor(2.0)))
    branches = {
        "then_branch": branch("then", "Add", doubled, torch.randn(3)),
        "else_branch": branch("else", "Sub", x, torch.randn(3)),
    }
    graph.add_output(graph.append(Node("If", [condition], branches)).output, "y")
    x = torch.randn(3)
    module = check(graph, [torch.tensor(True), x], [torch.tensor(False), x])
    assert "self.if_0(" in module.code


def test_weights_inside_bodies_train_and_come_back():
    graph = Graph()
    condition, x = graph.add_input("condition", BOOL), graph.add_input("x", FLOAT)
    inner = branch("then", "Mul", x, torch.ones(3))
    branches = {"then_branch": inner, "else_branch": branch("else", "Sub", x, torch.ones(3))}
    graph.add_output(graph.append(Node("If", [condition], branches)).output, "y")
    module = to_torch(graph)
    assert sorted(module.state_dict()) == ["if_0.else_branch.weights.w", "if_0.then_branch.weights.w"]
    module(torch.tensor(True), torch.randn(3)).sum().backward()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter.add_(1.0)
    update_from(graph, module)
    assert next(iter(inner.constants)).data.tolist() == [2.0] * 3
    sample = torch.randn(3)
    assert torch.equal(module(torch.tensor(True), sample), run(graph, [torch.tensor(True), sample])[0])


def loop(limit_known=True):
    graph = Graph()
    trips, x = graph.add_input("trips", INT), graph.add_input("x", FLOAT)
    body = Graph("body")
    step, going, state = body.add_input("step", INT), body.add_input("going", BOOL), body.add_input("state", FLOAT)
    grown = body.add("Add", state, x)
    total = body.add("ReduceSum", grown, keepdims=0)
    small = body.add("Less", total, body.add_constant(torch.tensor(100.0)))
    again = body.add("And", small, going)
    for value, name in ((again, "again"), (grown, "grown"), (body.add("Cast", step, to=DType.FLOAT32), "at")):
        body.add_output(value, name)
    node = graph.append(Node("Loop", [trips if limit_known else None, None, x], {"body": body}, 2))
    for index, value in enumerate(node.outputs):
        graph.add_output(value, f"y{index}")
    return graph


@pytest.mark.parametrize("trips", [0, 1, 4, 1000])
def test_loop(trips):
    check(loop(), [torch.tensor(trips), torch.ones(3)])


def test_loop_until_its_condition_fails():
    check(loop(limit_known=False), [torch.tensor(0), torch.ones(3)])


@pytest.mark.parametrize("backwards", [0, 1])
def test_scan(backwards):
    graph = Graph()
    state = graph.add_input("state", FLOAT)
    rows = graph.add_input("rows", TensorType.make(DType.FLOAT32, (3, 5)))
    body = Graph("body")
    s, row = body.add_input("s", FLOAT), body.add_input("row", FLOAT)
    body.add_output(body.add("Add", s, row), "sum")
    body.add_output(body.add("Mul", s, row), "product")
    attributes = {
        "body": body, "num_scan_inputs": 1, "scan_input_axes": (1,), "scan_input_directions": (backwards,),
        "scan_output_axes": (1,), "scan_output_directions": (backwards,),
    }  # fmt: skip
    node = graph.append(Node("Scan", [state, rows], attributes, 2))
    for index, value in enumerate(node.outputs):
        graph.add_output(value, f"y{index}")
    check(graph, [torch.randn(3), torch.randn(3, 5)])


def test_bodies_inside_bodies():
    graph = Graph()
    condition, x = graph.add_input("condition", BOOL), graph.add_input("x", FLOAT)
    outer = Graph("then")
    inner = {"then_branch": branch("a", "Add", x, torch.ones(3)), "else_branch": branch("b", "Mul", x, torch.ones(3))}
    outer.add_output(outer.append(Node("If", [condition], inner)).output, "y")
    branches = {"then_branch": outer, "else_branch": branch("else", "Sub", x, torch.ones(3))}
    graph.add_output(graph.append(Node("If", [condition], branches)).output, "y")
    check(graph, [torch.tensor(True), torch.randn(3)], [torch.tensor(False), torch.randn(3)])


def test_captured_branches_keep_the_layers_keys():
    class Choice(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, flag, x):
            return torch.cond(flag, lambda x: self.left(x) + 1, lambda x: self.right(x) - 1, (x,))

    net, x = Choice(), torch.randn(2, 3)
    graph = capture(net, (torch.tensor(True), x))
    module = to_torch(graph)
    assert list(module.state_dict()) == list(net.state_dict())
    for flag in (True, False):
        torch.testing.assert_close(module(torch.tensor(flag), x), net(torch.tensor(flag), x))
