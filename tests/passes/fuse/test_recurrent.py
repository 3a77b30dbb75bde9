"""Recurrent networks from primitives: unrolled, and in the bodies of Scan and Loop, against ONNX Runtime."""

import numpy as np
import onnx
import onnx.parser
import pytest
import torch

import graphopt as go
from graphopt.runtime.compare import compare
from graphopt.runtime.executor import run
from graphopt.runtime.ort import OrtSession
from tests.passes.fuse.cell_cases import gru, lstm
from tests.passes.rule_cases import Draft

T, B, IN, H = 4, 2, 5, 3


def unrolled(kind, axis=0, stack=0, others=False):
    """A network written out step by step over x [T, B, IN] or [B, T, IN]; returns its states stacked, and the last."""
    d = Draft()
    gates = 4 if kind is lstm else 3
    x = d.input(*((T, "n", IN) if axis == 0 else ("n", T, IN)))
    w, r, b = d.weight(gates * H, IN), d.weight(gates * H, H), d.weight(gates * H)
    h, c, states = d.input("n", H), d.input("n", H) if kind is lstm else None, []
    for t in range(T):
        step = d.Gather(x, d.constant(torch.tensor(t)), axis=axis)
        if kind is lstm:
            h, c = lstm(d, step, h, c, w, r, b, H)
        else:
            h = gru(d, step, h, w, r, b, b)
        states.append(h)
    if stack is not None:
        d.output(d.Concat(*(d.Unsqueeze(state, [stack]) for state in states), axis=stack))
    if others:
        d.output(d.Relu(states[1]))
    d.output(h)
    if kind is lstm:
        d.output(c)
    return d.graph


def checked(graph, pipeline="simplify,fuse,simplify"):
    before = graph.clone()
    go.optimize(graph, pipeline)
    inputs = [torch.randn([2 if not isinstance(e, int) else e for e in v.shape]) for v in before.inputs]
    assert compare(run(graph, inputs), run(before, inputs)).within(2e-6)
    feeds = {v.name: x for v, x in zip(before.inputs, inputs, strict=True) if v.uses}
    want, got = (OrtSession(go.to_onnx(g), optimize=False).run(feeds) for g in (before, graph))
    for mine, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    return [node.op for node in graph.walk()]


@pytest.mark.parametrize("kind", [lstm, gru])
@pytest.mark.parametrize(("axis", "stack", "others"), [(0, 0, False), (1, 1, False), (0, None, True), (1, 0, True)])
def test_unrolled(kind, axis, stack, others):
    ops = checked(unrolled(kind, axis, stack, others))
    assert ops.count("LSTM" if kind is lstm else "GRU") == 1
    assert "Sigmoid" not in ops
    assert "Concat" not in ops
    assert len(ops) <= 10 + others * 3


def test_a_step_that_reads_what_an_earlier_one_gave_stays_a_step():
    d = Draft()
    w, r, b = d.weight(4 * H, H), d.weight(4 * H, H), d.weight(4 * H)
    x, h, c = (d.input("n", H) for _ in range(3))
    for _ in range(3):
        h, c = lstm(d, x, h, c, w, r, b, H)
        x = d.Relu(h)
    d.output(h, c)
    assert checked(d.graph).count("LSTM") == 3


def test_steps_with_other_weights_and_cells_that_are_read_stay_apart():
    d = Draft()
    h, c, x = d.input("n", H), d.input("n", H), d.input("n", IN)
    for _ in range(2):
        h, c = lstm(d, x, h, c, d.weight(4 * H, IN), d.weight(4 * H, H), d.weight(4 * H), H)
    d.output(h, c)
    assert checked(d.graph).count("LSTM") == 2
    d = Draft()
    h, c, x = d.input("n", H), d.input("n", H), d.input("n", IN)
    w, r, b = d.weight(4 * H, IN), d.weight(4 * H, H), d.weight(4 * H)
    for _ in range(2):
        h, c = lstm(d, x, h, c, w, r, b, H)
        d.output(d.Neg(c))
    d.output(h)
    assert checked(d.graph).count("LSTM") == 2


def body(kind, states):
    """The body of a loop, as a graph of ONNX: states and a step in, states and the hidden state out."""
    d = Draft()
    gates = 4 if kind is lstm else 3
    h, *cell = [d.input("B", H) for _ in range(states)]
    x = d.input("B", IN)
    w, r, b = d.weight(gates * H, IN), d.weight(gates * H, H), d.weight(gates * H)
    h, *cell = lstm(d, x, h, cell[0], w, r, b, H) if kind is lstm else [gru(d, x, h, w, r, b, b)]
    d.output(h, *cell, d.Identity(h))
    return go.to_onnx(d.graph, opset=18).graph


def in_scan(kind, **attributes):
    states = 2 if kind is lstm else 1
    rows = ["B", "T", IN] if attributes.get("scan_input_axes") == [1] else ["T", "B", IN]
    names = ["h", "c"][:states]
    node = onnx.helper.make_node(
        "Scan", [*names, "x"], [*("hn", "cn")[:states], "y"], body=body(kind, states), num_scan_inputs=1, **attributes
    )
    info = onnx.helper.make_tensor_value_info
    inputs = [*(info(n, 1, ["B", H]) for n in names), info("x", 1, rows)]
    outputs = [*(info(n, 1, ["B", H]) for n in ("hn", "cn")[:states]), info("y", 1, ["P", "Q", H])]
    return _model([node], inputs, outputs)


def in_loop(kind, limit):
    states = 2 if kind is lstm else 1
    inner = body(kind, states)
    names = ["h", "c"][:states]
    step, flag = onnx.helper.make_tensor_value_info("i", 7, []), onnx.helper.make_tensor_value_info("go", 9, [])
    x = inner.input[states].name
    inner.node.insert(0, onnx.helper.make_node("Gather", ["x", "i"], [x], axis=0))
    inner.node.append(onnx.helper.make_node("Identity", ["go"], ["on"]))
    carried = list(inner.input)[:states]
    del inner.input[:]
    inner.input.extend([step, flag, *carried])
    results = [onnx.helper.make_tensor_value_info("on", 9, []), *inner.output]
    del inner.output[:]
    inner.output.extend(results)
    loop = onnx.helper.make_node("Loop", ["n", "", *names], [*("hn", "cn")[:states], "y"], body=inner)
    info = onnx.helper.make_tensor_value_info
    nodes = [loop]
    constants = []
    if limit is None:
        zero = onnx.helper.make_tensor("zero", 7, [], [0])
        constants.append(zero)
        shape = onnx.helper.make_node("Shape", ["x"], ["s"])
        nodes = [shape, onnx.helper.make_node("Gather", ["s", "zero"], ["n"], axis=0), loop]
    else:
        constants.append(onnx.helper.make_tensor("n", 7, [], [limit]))
    inputs = [*(info(n, 1, ["B", H]) for n in names), info("x", 1, ["T", "B", IN])]
    outputs = [*(info(n, 1, ["B", H]) for n in ("hn", "cn")[:states]), info("y", 1, ["T", "B", H])]
    return _model(nodes, inputs, outputs, constants)


def _model(nodes, inputs, outputs, constants=()):
    graph = onnx.helper.make_graph(nodes, "g", inputs, outputs, list(constants))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def same(model):
    graph = go.load(model)
    go.optimize(graph, "simplify,fuse,simplify")
    rng = np.random.default_rng(0)
    sizes = {"B": B, "T": 9}
    feeds = {
        value.name: rng.standard_normal([sizes.get(str(e), e) for e in value.shape]).astype(np.float32)
        for value in go.load(model).inputs
    }
    want, got = (OrtSession(each, optimize=False).run(feeds) for each in (model, go.to_onnx(graph)))
    for mine, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    return [node.op for node in graph.walk()]


@pytest.mark.parametrize("kind", [lstm, gru])
@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"scan_input_directions": [1], "scan_output_directions": [1]},
        {"scan_input_axes": [1], "scan_output_axes": [1]},
    ],
)
def test_scans(kind, attributes):
    ops = same(in_scan(kind, **attributes))
    assert "Scan" not in ops
    assert ops.count("LSTM" if kind is lstm else "GRU") == 1


def test_a_scan_that_collects_the_other_way_round_stays():
    assert "Scan" in same(in_scan(lstm, scan_output_directions=[1]))


@pytest.mark.parametrize("kind", [lstm, gru])
def test_loops_over_the_whole_sequence(kind):
    ops = same(in_loop(kind, None))
    assert "Loop" not in ops
    assert ops.count("LSTM" if kind is lstm else "GRU") == 1


def test_a_loop_over_a_part_of_an_open_sequence_stays():
    assert "Loop" in same(in_loop(gru, 8))


def test_parameters_of_a_module_stay():
    cell = torch.nn.LSTMCell(IN, H).eval()
    graph = go.capture(cell, (torch.randn(B, IN), (torch.randn(B, H), torch.randn(B, H))))
    go.optimize(graph, "simplify,fuse")
    assert set(go.to_torch(graph).state_dict()) == set(cell.state_dict())
