"""Types of control flow: what is known inside and outside of bodies, as loops go on and edits come."""

import numpy as np
import onnx
import pytest
import torch

import graphopt as go
from graphopt.analysis.shapes import propagate, propagate_all
from graphopt.errors import ShapeError
from graphopt.ir import UNKNOWN, DType, Graph, Node, SequenceType, TensorType
from graphopt.ir import dims as D
from graphopt.ops import record_of
from graphopt.runtime import run

N = D.symbol("n")
INT, BOOL = TensorType(DType.INT64, ()), TensorType(DType.BOOL, ())


def floats(*shape):
    return TensorType.make(DType.FLOAT32, shape)


def branch(make, *kinds):
    """A body: `make` adds nodes to it, given its inputs, and returns its outputs."""
    body = Graph("body")
    values = [body.add_input(f"i{i}", kind) for i, kind in enumerate(kinds)]
    for index, value in enumerate(make(body, *values)):
        body.add_output(value, f"o{index}")
    return body


def loop(make, *start, trips=None, states=None, outputs=None):
    """A graph around one Loop over inputs of types `start`."""
    graph = Graph()
    limit = graph.add_constant(torch.tensor(trips)) if trips is not None else graph.add_input("m", INT)
    inputs = [graph.add_input(f"x{i}", kind) for i, kind in enumerate(start)]
    body = branch(make, UNKNOWN, UNKNOWN, *([UNKNOWN] * len(start) if states is None else states))
    node = Node("Loop", [limit, None, *inputs], {"body": body}, outputs or len(body.outputs) - 1)
    graph.append(node)
    for index, value in enumerate(node.outputs):
        graph.add_output(value, f"y{index}")
    return graph, node, body


def test_branches_of_an_if_have_in_common():
    graph = Graph()
    condition, x = graph.add_input("c", BOOL), graph.add_input("x", floats(N, 3))
    taken = branch(lambda b: [b.add("Relu", x)])
    other = branch(lambda b: [b.add("Concat", x, x, axis=0)])
    y = graph.add("If", condition, then_branch=taken, else_branch=other)
    graph.add_output(y)
    propagate(graph)
    assert y.type == floats(None, 3)
    assert taken.outputs[0].type == floats(N, 3)
    assert other.outputs[0].type == floats(2 * N, 3)


def test_edits_outside_and_inside_reach_the_other_side():
    graph = Graph()
    condition, x = graph.add_input("c", BOOL), graph.add_input("x", floats(2, 3))
    taken, other = (branch(lambda b: [b.add("Relu", x)]) for _ in range(2))
    y = graph.add("If", condition, then_branch=taken, else_branch=other)
    last = graph.add("Neg", y)
    graph.add_output(last)
    propagate(graph)
    assert y.type == last.type == floats(2, 3)
    x.type = floats(5, 3)
    assert propagate(graph) > 0
    assert y.type == last.type == floats(5, 3)
    (relu,) = other
    other.set_input(0, other.add("Transpose", relu.output))
    propagate(graph)
    assert y.type == floats(None, None)
    assert propagate(graph) == 0


def test_branches_of_different_length():
    graph = Graph()
    x = graph.add_input("x", floats(2))
    one, two = branch(lambda b: [b.add("Relu", x)]), branch(lambda b: [b.add("Relu", x), x])
    node = graph.append(Node("If", [graph.add_input("c", BOOL)], {"then_branch": one, "else_branch": two}))
    with pytest.raises(ShapeError, match="one branch returns 1 values, the other 2"):
        record_of(node).infer(node)
    lost = graph.append(Node("If", [graph.inputs[0]], {"then_branch": one}))
    with pytest.raises(ShapeError, match="no body 'else_branch'"):
        record_of(lost).infer(lost)


def test_what_a_loop_keeps_is_known_inside():
    graph, node, body = loop(lambda b, i, c, x: [c, b.add("Relu", x), b.add("Neg", x)], floats(N, 3), trips=4)
    propagate(graph)
    assert [value.type for value in body.inputs] == [INT, BOOL, floats(N, 3)]
    assert [value.type for value in node.outputs] == [floats(N, 3), floats(4, N, 3)]
    assert propagate(graph) == 0


def test_what_a_loop_grows_is_not():
    graph, node, body = loop(lambda b, i, c, x: [c, b.add("Concat", x, x, axis=0)], floats(2, 3), trips=3)
    propagate(graph)
    assert body.inputs[2].type == floats(None, 3)
    assert body.outputs[1].type == floats(None, 3)
    assert node.output.type == floats(None, 3)
    x = torch.ones(2, 3)
    assert tuple(run(graph, [x])[0].shape) == (16, 3)


def test_what_changes_rank_has_none():
    def unsqueeze(body, step, going, x):
        return [going, body.add("Unsqueeze", x, body.add_constant(torch.tensor([0])))]

    graph, node, body = loop(unsqueeze, floats(2), trips=3)
    propagate(graph)
    assert body.inputs[2].type == TensorType(DType.FLOAT32)
    assert node.output.type == TensorType(DType.FLOAT32)


def test_what_is_widened_later_is_forgotten_inside():
    """A loop is first inferred with what comes in; an edit then makes it grow."""
    graph, node, body = loop(lambda b, i, c, x: [c, b.add("Relu", b.add("Neg", x))], floats(2, 3))
    propagate(graph)
    neg, relu = body
    assert neg.output.type == floats(2, 3)
    body.set_input(1, body.add("Concat", relu.output, relu.output, axis=1))
    propagate(graph)
    assert neg.output.type == relu.output.type == floats(2, None)
    assert node.output.type == floats(2, None)
    propagate_all(graph)
    assert neg.output.type == floats(2, None)


def test_rounds_are_counted_where_only_the_limit_decides():
    def until(body, step, going, x):
        return [body.add("Less", step, body.add_constant(torch.tensor(2))), x, x]

    graph, node, _ = loop(until, floats(3), trips=5)
    propagate(graph)
    assert node.outputs[1].type == floats(None, 3)
    assert tuple(run(graph, [torch.ones(3)])[1].shape) == (3, 3)
    graph, node, _ = loop(lambda b, i, c, x: [b.add("Identity", c), x, x], floats(3), trips=-2)
    propagate(graph)
    assert node.outputs[1].type == floats(0, 3)
    assert tuple(run(graph, [torch.ones(3)])[1].shape) == (0, 3)
    graph, node, _ = loop(lambda b, i, c, x: [c, x, x], floats(3))
    propagate(graph)
    assert node.outputs[1].type == floats(None, 3)


def test_loops_inside_loops():
    def outer(body, step, going, x):
        inner = branch(lambda b, i, c, y: [c, b.add("Concat", y, x, axis=0)], UNKNOWN, UNKNOWN, UNKNOWN)
        limit = body.add_constant(torch.tensor(2))
        return [going, body.add("Relu", body.add("Loop", limit, None, x, body=inner))]

    graph, node, body = loop(outer, floats(1, 3), trips=2)
    propagate(graph)
    assert node.output.type == floats(None, 3)
    (inner,) = (each for each in body if each.op == "Loop")
    assert inner.attributes["body"].outputs[1].type == floats(None, 3)
    assert propagate(graph) == 0
    assert tuple(run(graph, [torch.ones(1, 3)])[0].shape) == (9, 3)


def test_a_loop_may_carry_a_sequence():
    def grow(body, step, going, items):
        return [going, body.add("SequenceInsert", items, body.add_constant(torch.ones(2, 3)))]

    graph, node, _ = loop(grow, SequenceType(floats(None, 3)), trips=2)
    propagate(graph)
    assert node.output.type == SequenceType(floats(None, 3))
    assert len(run(graph, [[torch.zeros(1, 3)]])[0]) == 3


def test_a_body_with_another_number_of_inputs():
    with pytest.raises(ShapeError, match="the body takes 4 inputs, 3 are given"):
        propagate(loop(lambda b, i, c, x, y: [c, x], floats(2), states=[UNKNOWN] * 2, outputs=1)[0])


def scan(axes, out_axes, sequences, state):
    graph = Graph()
    inputs = [graph.add_input(f"x{i}", kind) for i, kind in enumerate([state, *sequences])]
    body = branch(lambda b, s, *parts: [(t := b.add("Add", s, parts[0])), t], *[UNKNOWN] * len(inputs))
    attributes = {
        "body": body,
        "num_scan_inputs": len(sequences),
        "scan_input_axes": axes,
        "scan_output_axes": out_axes,
    }
    node = graph.append(Node("Scan", inputs, attributes, 2))
    for index, value in enumerate(node.outputs):
        graph.add_output(value, f"y{index}")
    return graph, node, body


@pytest.mark.parametrize(
    ("axes", "out_axes", "stacked"), [((0,), (0,), (N, 3)), ((0,), (1,), (3, N)), ((0,), (-1,), (3, N))]
)
def test_scan(axes, out_axes, stacked):
    graph, node, body = scan(axes, out_axes, [floats(N, 3)], floats(3))
    propagate(graph)
    assert [value.type for value in body.inputs] == [floats(3), floats(3)]
    assert [value.type for value in node.outputs] == [floats(3), floats(*stacked)]
    state, rows = run(graph, [torch.zeros(3), torch.ones(4, 3)])
    assert state.tolist() == [4, 4, 4]
    assert tuple(rows.shape) == tuple(D.substitute(d, {"n": 4}) for d in stacked)


def test_scan_over_another_axis():
    graph, node, body = scan((1, -1), (0,), [floats(3, 5), floats(2, 2, N)], floats(3))
    propagate(graph)
    assert [value.type for value in body.inputs] == [floats(3), floats(3), floats(2, 2)]
    assert node.outputs[1].type == floats(5, 3)
    graph, node, _ = scan((0,), (0,), [TensorType(DType.FLOAT32)], floats(3))
    propagate(graph)
    assert node.outputs[1].type == TensorType(DType.FLOAT32)


def test_sequence_map():
    graph = Graph()
    items = graph.add_input("x", SequenceType(floats(None, 3)))
    extra = graph.add_input("e", floats(1, 3))
    body = branch(lambda b, x, e: [b.add("Add", x, e), b.add("Shape", x)], UNKNOWN, UNKNOWN)
    node = graph.append(Node("SequenceMap", [items, extra], {"body": body}, 2))
    for value in node.outputs:
        graph.add_output(value)
    propagate(graph)
    assert [value.type for value in body.inputs] == [floats(None, 3), floats(1, 3)]
    assert node.outputs[0].type == SequenceType(floats(None, 3))
    assert node.outputs[1].type == SequenceType(TensorType(DType.INT64, (2,)))
    sums, shapes = run(graph, [[torch.zeros(2, 3), torch.ones(4, 3)], torch.ones(1, 3)])
    assert [tuple(each.shape) for each in sums] == [(2, 3), (4, 3)]
    assert [each.tolist() for each in shapes] == [[2, 3], [4, 3]]


def test_types_agree_with_onnx_shape_inference():
    """A loop and a branch from a file: what ONNX infers outside, the rules infer as well."""
    text = """<ir_version: 8, opset_import: ["" : 18]>
    g (float[2, 3] x, bool c) => (float[?, ?] kept, float[?, ?, ?] rows, float[?, ?] either) {
        m = Constant <value = int64 {5}> ()
        yes = Constant <value = bool {1}> ()
        kept, rows = Loop (m, yes, x) <body = b (int64 i, bool go, float[2, 3] s) => (bool going, float[2, 3] t,
            float[2, 3] u) { going = Identity (go)  t = Relu (s)  u = Neg (t) }>
        either = If (c) <then_branch = t () => (float[2, 3] p) { p = Relu (x) },
                         else_branch = e () => (float[2, 3] q) { q = Neg (x) }>
    }"""
    from graphopt import load

    model = onnx.parser.parse_model(text)
    graph = load(model)
    propagate(graph)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for mine, theirs in zip(graph.outputs, inferred.graph.output, strict=True):
        sizes = [d.dim_value if d.HasField("dim_value") else None for d in theirs.type.tensor_type.shape.dim]
        assert all(a == b for a, b in zip(mine.shape, sizes, strict=True) if b is not None)
    assert graph.outputs[1].type == floats(5, 2, 3)
    assert np.asarray(run(graph, [torch.ones(2, 3), torch.tensor(True)])[1]).shape == (5, 2, 3)


def test_a_loop_that_starts_with_an_optional_hands_out_what_its_body_returns():
    text = """<ir_version: 8, opset_import: ["" : 18]>
    m (int64 trip, bool go, optional(seq(float)) start) => (seq(float) last) {
        last = Loop(trip, go, start) <body = b (int64 i, bool c, optional(seq(float)) carried)
            => (bool again, seq(float) longer) {
            again = Identity(c)
            x = Constant<value = float {1.0}>()
            longer = SequenceConstruct(x)
        }>
    }"""
    graph = go.load(onnx.parser.parse_model(text))
    propagate_all(graph)
    assert str(graph.outputs[0].type).startswith("seq(")
    go.to_onnx(graph)
