"""The passes of `simplify` that are not made of rules, and the alias."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphopt.analysis import propagate
from graphopt.backends.onnx_model import to_onnx
from graphopt.ir import DType, Graph, Parameter, Signature, TensorType
from graphopt.ops.builder import Builder
from graphopt.pipeline import Context, run_pipeline
from graphopt.pipeline.instruments import Verify
from graphopt.runtime.compare import compare
from graphopt.runtime.executor import run
from graphopt.runtime.ort import OrtSession
from graphopt.runtime.samples import example_inputs
from tests.passes.rule_cases import Draft


def apply(draft, pipeline):
    graph = draft.graph
    propagate(graph)
    before, text = graph.clone(), str(graph)
    report = run_pipeline(graph, pipeline, Context(graph), [Verify()])
    assert report.modified == (str(graph) != text)
    assert graph.output_names == before.output_names
    for seed in range(2):
        inputs = example_inputs(before, seed, {"n": 3})
        assert compare(run(graph, inputs), run(before, inputs)).within(1e-5)
    return report


def ops(draft):
    return [node.op for node in draft.graph.walk()]


# -- resolve-shapes


def test_shape_of_a_static_tensor_is_a_constant():
    d = Draft()
    x = d.input(2, 3)
    size = d.Gather(d.Shape(x), d.constant(1))
    d.output(d.Reshape(x, d.Concat(d.Unsqueeze(size, [0]), d.constant([2]), axis=0)), size)
    apply(d, "resolve-shapes,eliminate-dead")
    assert ops(d) == ["Reshape"]


def test_reshape_with_one_symbolic_dimension():
    d = Draft()
    x = d.input("n", 3, 4)
    batch = d.Slice(d.Shape(x), [0], [1])
    d.output(d.Reshape(x, d.Concat(batch, d.constant([12]), axis=0)))
    report = apply(d, "resolve-shapes,eliminate-dead")
    assert ops(d) == ["Reshape"]
    assert next(iter(d.graph)).operand(1).data.tolist() == [-1, 12]
    assert report.of("resolve-shapes").counts["reshapes"] == 1


def test_reshape_with_several_symbolic_dimensions():
    d = Draft()
    x = d.input("n", "m", 6, 4)
    shape = d.Concat(d.Slice(d.Shape(x), [0], [2]), d.constant([24]), axis=0)
    d.output(d.Reshape(x, shape))
    swapped = d.Concat(d.Slice(d.Shape(x), [1], [2]), d.Slice(d.Shape(x), [0], [1]), d.constant([24]), axis=0)
    d.output(d.Reshape(x, swapped))
    apply(d, "resolve-shapes,share-subexpressions,eliminate-dead")
    first, second = (node for node in d.graph if node.op == "Reshape")
    assert first.operand(1).data.tolist() == [0, 0, 24]
    assert not second.operand(1).is_constant


def test_reshape_that_takes_zeros_for_zeros():
    d = Draft()
    x = d.input("n", "m", 4)
    start, end = d.Shape(x, start=0, end=1), d.Shape(x, start=1, end=2)
    d.output(d.Reshape(x, d.Concat(start, d.constant([-1]), axis=0), allowzero=1))
    d.output(d.Reshape(x, d.Concat(start, end, d.constant([2, 2]), axis=0), allowzero=1))
    apply(d, "resolve-shapes,eliminate-dead")
    first, second = d.graph
    assert (first.op, second.op) == ("Reshape", "Reshape")
    assert second.operand(1).data.tolist() == [0, 0, 2, 2]
    assert "allowzero" not in second.attributes


def test_reshape_to_nothing_is_left():
    d = Draft()
    x = d.input("n", 0, 4)
    batch = d.Slice(d.Shape(x), [0], [1])
    d.output(d.Reshape(x, d.Concat(batch, d.constant([0]), axis=0)))
    apply(d, "resolve-shapes")
    assert "Shape" in ops(d)


def test_large_index_vectors_stay_computed():
    d = Draft()
    rows = d.Range(d.constant(0), d.Gather(d.Shape(d.input(1000, 2)), d.constant(0)), d.constant(1))
    d.output(d.Add(rows, rows))
    apply(d, "simplify")
    assert "Range" in ops(d)


# -- eliminate-dead


def test_dead_nodes_and_constants_go_and_parameters_stay():
    d = Draft()
    x = d.input("n", 3)
    d.Neg(d.Abs(d.Add(x, d.weight(3))))
    d.Add(x, d.weight(3, name="unused"))
    d.full(1)
    d.output(d.Relu(x))
    report = apply(d, "eliminate-dead")
    assert report.of("eliminate-dead").counts == {"nodes": 4, "constants": 2}
    assert [value.parameter.name for value in d.graph.constants] == ["unused"]
    apply(d, "eliminate-dead{parameters=true}")
    assert not d.graph.constants


def test_dead_code_in_bodies():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, (2,)))
    condition = graph.add_input("c", TensorType.make(DType.BOOL, ()))
    outer = Builder(graph)
    only_dead_code_reads_it = outer.Abs(x)
    bodies = []
    for _ in range(2):
        b = Builder(Graph("body"))
        b.Neg(only_dead_code_reads_it)
        b.graph.add_output(b.Relu(x))
        bodies.append(b.graph)
    graph.add_output(outer("If", condition, then_branch=bodies[0], else_branch=bodies[1]))
    d = Draft()
    d.graph = graph
    apply(d, "eliminate-dead")
    assert ops(d) == ["If", "Relu", "Relu"]


# -- share-subexpressions


def test_equal_computations_are_shared():
    d = Draft()
    x, y = d.input("n", 3), d.input("n", 3)
    a = d.Softmax(d.Add(x, y), axis=-1)
    b = d.Softmax(d.Add(y, x))
    d.output(d.Relu(a), d.Relu(b), d.Neg(b))
    report = apply(d, "share-subexpressions")
    assert ops(d) == ["Add", "Softmax", "Relu", "Neg"]
    assert report.of("share-subexpressions").counts == {"shared": 3}


def test_unequal_computations_are_not_shared():
    d = Draft()
    x, y = d.input("n", 3), d.input("n", 3)
    values = [d.Sub(x, y), d.Sub(y, x), d.Softmax(x, axis=0), d.Softmax(x), d.LeakyRelu(x, alpha=1.0), d.LeakyRelu(x)]
    values += [d.Elu(x, alpha=0.5), d.Elu(x, alpha=0.25), d.Cast(x, to=1), d.Cast(x, to=11)]
    d.output(*values)
    assert not apply(d, "share-subexpressions").modified


def test_tensors_that_look_alike_in_print_are_not_shared():
    d = Draft()
    shape = d.Shape(d.input("n", 3))
    numbers = [torch.tensor([1.0 + 1e-6]), torch.tensor([1.0 + 2e-6])]
    assert str(numbers[0]) == str(numbers[1])
    d.output(*(d.ConstantOfShape(shape, value=number) for number in numbers))
    assert not apply(d, "share-subexpressions").modified


def test_random_numbers_and_training_are_not_shared():
    d = Draft()
    x = d.input(3, 2)
    noise = [d.RandomNormalLike(x) for _ in range(2)]
    vectors = [d.weight(2, positive=True) for _ in range(4)]
    trained = [d.BatchNormalization(x, *vectors, training_mode=1, outputs=3)[0] for _ in range(2)]
    d.output(*(d.Mul(n, d.full(0)) for n in noise), *trained)
    assert not apply(d, "share-subexpressions").modified


def test_bodies_share_with_what_is_around_them_only():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, (2,)))
    condition = graph.add_input("c", TensorType.make(DType.BOOL, ()))
    outer = Builder(graph)
    around = outer.Abs(x)
    bodies = []
    for _ in range(2):
        b = Builder(Graph("body"))
        b.graph.add_output(b.Add(b.Abs(x), b.Neg(x)))
        bodies.append(b.graph)
    out = outer("If", condition, then_branch=bodies[0], else_branch=bodies[1])
    graph.add_output(outer.Add(out, around))
    graph.add_output(outer.Neg(x))
    d = Draft()
    d.graph = graph
    apply(d, "share-subexpressions")
    assert ops(d) == ["Abs", "If", "Neg", "Add", "Neg", "Add", "Add", "Neg"]


# -- share-constants


def test_equal_small_constants_are_one():
    d = Draft()
    x = d.input("n", 4)
    d.output(d.Add(d.Reshape(x, [-1, 2, 2]), d.full(1)), d.Mul(d.Reshape(x, [-1, 2, 2]), d.full(1)))
    report = apply(d, "share-constants")
    assert report.of("share-constants").counts == {"shared": 2}
    assert len(d.graph.constants) == 2


def test_constants_that_may_become_unequal_stay_apart():
    d = Draft()
    x = d.input("n", 4)
    for _ in range(2):
        d.output(d.Add(x, d.full(0, 4)))
        d.output(d.Add(x, d.constant(torch.tensor(1.0), parameter=Parameter(f"p{_}"))))
    d.output(d.Add(x, d.full(1)), d.Cast(d.full(1, dtype=torch.float64), to=1), d.Add(x, d.full(1, 1)))
    assert not apply(d, "share-constants").modified
    assert apply(d, "share-constants{vectors=true}").of("share-constants").counts == {"shared": 1}


def test_bodies_that_return_what_is_around_them_are_written():
    d = Draft()
    bodies = []
    for number in (1.0, 2.0):
        body = Draft()
        body.output(body.full(number), body.Identity(d.graph.inputs[0] if d.graph.inputs else d.input(2)))
        bodies.append(body.graph)
    outs = d("If", d.input(dtype=DType.BOOL), then_branch=bodies[0], else_branch=bodies[1], outputs=2)
    d.output(*outs, d.Add(d.full(1), d.full(2)))
    before = to_onnx(d.graph)
    apply(d, "simplify")
    inputs = example_inputs(d.graph)
    for mine, theirs in zip(OrtSession(to_onnx(d.graph)).run(inputs), OrtSession(before).run(inputs), strict=True):
        assert (mine == theirs).all()


# -- inline-if


def _if(condition_of):
    d = Draft()
    x = d.input(2)
    bodies = []
    for op in ("Relu", "Neg"):
        body = Draft()
        weight = body.full(2)
        body.graph.add_output(body(op, body.Mul(d.Abs(x), weight)))
        body.graph.add_output(d.graph.inputs[0])
        bodies.append(body.graph)
    outs = d("If", condition_of(d), then_branch=bodies[0], else_branch=bodies[1], outputs=2)
    d.output(*outs)
    return d


@pytest.mark.parametrize(("condition", "taken"), [(True, "Relu"), (False, "Neg")])
def test_if_with_constant_condition(condition, taken):
    d = _if(lambda d: d.full(condition, dtype=torch.bool))
    apply(d, "inline-if,eliminate-dead")
    assert ops(d) == ["Abs", "Mul", taken]
    assert d.graph.outputs[1] is d.graph.inputs[0]


def test_if_with_condition_known_from_shapes():
    d = _if(lambda d: d.Equal(d.Gather(d.Shape(d.graph.inputs[0]), d.constant(0)), d.constant(2)))
    apply(d, "simplify")
    assert ops(d) == ["Abs", "Mul", "Relu"]


def test_if_with_computed_condition_stays_and_inlining_can_be_undone():
    d = _if(lambda d: d.input(dtype=DType.BOOL))
    assert not apply(d, "inline-if").modified
    d = _if(lambda d: d.full(True, dtype=torch.bool))
    propagate(d.graph)
    text = str(d.graph)
    with d.graph.transaction() as journal:
        run_pipeline(d.graph, "simplify", Context(d.graph))
        journal.rollback()
    assert str(d.graph) == text
    d.graph.verify()


def test_nested_ifs():
    inner = _if(lambda d: d.full(False, dtype=torch.bool))
    outer = Draft()
    x = outer.input(2)
    inner.graph.inputs[0].replace_uses(x)
    inner.graph.remove_input(inner.graph.inputs[0])
    other = Draft()
    other.graph.add_output(x)
    other.graph.add_output(x)
    condition = outer.full(True, dtype=torch.bool)
    outer.output(*outer("If", condition, then_branch=inner.graph, else_branch=other.graph, outputs=2))
    apply(outer, "inline-if,eliminate-dead")
    assert ops(outer) == ["Abs", "Mul", "Neg"]


# -- dropout in captured modules


def test_dropout_of_a_captured_module_stays_unless_asked():
    d = Draft()
    d.output(d.Relu(d.Dropout(d.Relu(d.input("n", 3)), d.full(0.5), d.full(False, dtype=torch.bool))))
    d.graph.signature = Signature(None, None, (), ())
    report = apply(d, "simplify")
    assert ops(d) == ["Relu", "Dropout", "Relu"]
    assert "may be trained" in report.of("eliminate-identity").notes[0]
    apply(d, "simplify{dropout=true}")
    assert ops(d) == ["Relu"]


# -- all of it, on random chains

UNARY = {
    "Identity": lambda d, x: d.Identity(x),
    "Relu": lambda d, x: d.Relu(x),
    "Neg": lambda d, x: d.Neg(x),
    "Mul1": lambda d, x: d.Mul(x, d.full(1)),
    "Mul": lambda d, x: d.Mul(x, d.full(0.5)),
    "Add0": lambda d, x: d.Add(d.full(0, 1), x),
    "Add": lambda d, x: d.Add(x, d.full(2)),
    "Double": lambda d, x: d.Cast(d.Cast(x, to=DType.FLOAT64), to=DType.FLOAT32),
    "Half": lambda d, x: d.Cast(d.Cast(x, to=DType.FLOAT16), to=DType.FLOAT32),
    "Flat": lambda d, x: d.Reshape(d.Reshape(x, [-1]), d.Shape(x)),
    "Turn": lambda d, x: d.Transpose(x, perm=[1, 0, 2]),
    "Roll": lambda d, x: d.Transpose(x, perm=[1, 2, 0]),
    "Widen": lambda d, x: d.Squeeze(d.Unsqueeze(d.Unsqueeze(x, [0]), [-1]), [0, -1]),
    "Slice": lambda d, x: d.Slice(x, [0], [1 << 60], [1]),
    "Back": lambda d, x: d.Slice(x, [-1], [-(1 << 60)], [2], [-1]),
    "Pad": lambda d, x: d.Slice(d.Pad(d.Pad(x, [1, 0, 0, 0, 0, 0]), [1, 0, 0, 0, 0, 0]), [2], [1 << 60], [0]),
    "Twice": lambda d, x: d.Add(d.Abs(x), d.Abs(x)),
}


@given(st.lists(st.sampled_from(sorted(UNARY)), max_size=12), st.booleans(), st.sets(st.integers(0, 11), max_size=2))
def test_random_chains(names, static, returned):
    d = Draft()
    x = d.input(2 if static else "n", 3, 4)
    for place, name in enumerate(names):
        x = UNARY[name](d, x)
        if place in returned:
            d.output(x)
    d.output(d.Relu(x))
    apply(d, "simplify")
    assert not run_pipeline(d.graph, "simplify", Context(d.graph)).modified, "simplify leaves nothing for itself"
    apply(d, "fuse")


def test_if_whose_branches_are_constants_alone():
    d = Draft()
    bodies = []
    for number in (1.0, 2.0):
        body = Graph("body")
        body.add_output(body.add_constant(torch.full((2,), number)))
        bodies.append(body)
    condition = d.full(False, dtype=torch.bool)
    d.output(d.Add(d.input(2), d("If", condition, then_branch=bodies[0], else_branch=bodies[1])))
    apply(d, "simplify")
    assert ops(d) == ["Add"]
    assert [value.data.tolist() for value in d.graph.constants] == [[2.0, 2.0]]
