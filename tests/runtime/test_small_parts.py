"""Comparison, sample inputs, ONNX Runtime sessions, timing."""

import math
import time

import numpy as np
import pytest
import torch

import graphopt as go
from graphopt.errors import DataError, UnsupportedOperatorError
from graphopt.ir import DType, Graph, Node, SequenceType, TensorType
from graphopt.pipeline.instruments import equivalence
from graphopt.runtime import samples
from graphopt.runtime.compare import Difference, compare, difference
from graphopt.runtime.executor import run
from graphopt.runtime.ort import OrtSession, kernel_counts
from graphopt.runtime.samples import example_inputs, runnable_inputs
from graphopt.runtime.timing import median_seconds, medians

# -- compare


def test_difference_in_figures():
    found = difference(torch.tensor([1.0, 2.5, -4.0]), torch.tensor([1.0, 2.0, -4.0]))
    assert found.max_abs == 0.5
    assert found.max_rel == 0.125
    assert found.sqnr == pytest.approx(10 * math.log10(21 / 0.25))
    assert found.within(0.125)
    assert not found.within(0.12)


@pytest.mark.parametrize(
    ("got", "want", "equal"),
    [([math.nan, 1], [math.nan, 1], True), ([math.inf], [math.inf], True), ([math.inf], [-math.inf], False),
     ([math.nan], [1.0], False), ([1.0], [math.nan], False), ([math.inf], [1.0], False), ([0.0], [0.0], True),
     ([], [], True)],
)  # fmt: skip
def test_special_numbers(got, want, equal):
    found = difference(torch.tensor(got), torch.tensor(want))
    assert found.within(1e-6) == equal
    assert found == Difference(0.0, 0.0, math.inf) or not equal


def test_zero_reference_is_measured_absolutely():
    assert difference(torch.tensor([0.25]), torch.tensor([0.0])) == Difference(0.25, 0.25, -math.inf)


@pytest.mark.parametrize("other", [torch.ones(3), torch.ones(2, 1), torch.ones(2, dtype=torch.float64)])
def test_shapes_and_element_types_count(other):
    found = difference(other, torch.ones(2))
    assert not found.shapes_equal
    assert not found.within(math.inf)


def test_other_element_types():
    assert difference(torch.tensor([True, False]), torch.tensor([True, True])).max_abs == 1
    assert difference(torch.tensor([1, 5]), torch.tensor([1, 4])).max_abs == 1
    assert difference(torch.tensor([1 + 2j]), torch.tensor([1 + 2.5j])).max_abs == 0.5
    assert difference(torch.tensor([1.0]).half(), torch.tensor([1.0]).half()).max_abs == 0


def test_the_worst_output_counts():
    found = compare([torch.tensor([1.0]), torch.tensor([3.0])], [torch.tensor([1.0]), torch.tensor([2.0])])
    assert (found.max_abs, found.max_rel) == (1.0, 0.5)
    assert compare(["a"], ["a"]).within(0)
    assert not compare([["a"]], [["b"]]).within(1)
    assert compare([], []).within(0)
    with pytest.raises(ValueError, match="longer"):
        compare([torch.ones(1)], [torch.ones(1)] * 2)


# -- sample inputs


def with_inputs(*types, **kwargs):
    graph = Graph()
    for number, kind in enumerate(types):
        graph.add_input(f"x{number}", kind, **kwargs)
    return graph


def test_samples_fit_the_types():
    graph = with_inputs(
        TensorType.make(DType.FLOAT32, ("n", 3, "2*n + 1")), TensorType.make(DType.INT32, ("n",)),
        TensorType.make(DType.BOOL, (2,)), TensorType.make(DType.FLOAT16, (None, 1)), TensorType(DType.FLOAT64, None),
        TensorType(),
    )  # fmt: skip
    x, ids, mask, half, free, unknown = example_inputs(graph, sizes={"n": 5})
    assert x.shape == (5, 3, 11)
    assert ids.shape == (5,)
    assert ids.dtype == torch.int32
    assert set(ids.tolist()) <= {0, 1}
    assert mask.all()
    assert (half.shape, half.dtype) == ((2, 1), torch.float16)
    assert (free.shape, free.dtype) == ((), torch.float64)
    assert unknown.dtype == torch.float32
    assert example_inputs(graph)[0].shape == (2, 3, 5)


def test_samples_repeat_and_use_defaults():
    graph = with_inputs(TensorType.make(DType.FLOAT32, (4,)))
    assert torch.equal(example_inputs(graph, 1)[0], example_inputs(graph, 1)[0])
    assert not torch.equal(example_inputs(graph, 1)[0], example_inputs(graph, 2)[0])
    default = torch.arange(4.0)
    (given,) = example_inputs(with_inputs(TensorType.make(DType.FLOAT32, (4,)), default=default))
    assert given is default


@pytest.mark.parametrize("kind", [TensorType(DType.STRING, (2,)), SequenceType(TensorType(DType.FLOAT32, (2,)))])
def test_no_samples_for_what_is_no_tensor_of_numbers(kind):
    with pytest.raises(DataError, match=r"input 'x0' is .*nothing can be made up.*give data"):
        example_inputs(with_inputs(kind))


# -- ONNX Runtime


def relu_twice():
    graph = with_inputs(TensorType.make(DType.FLOAT32, ("n", 3)))
    w = graph.add_constant(torch.eye(3), "w")
    graph.add_output(graph.add("Relu", graph.add("MatMul", graph.add("Identity", graph.inputs[0]), w)), "y")
    return go.to_onnx(graph)


X = torch.tensor([[1.0, -2.0, 3.0]])


def test_session_runs_files_bytes_and_models(tmp_path):
    model = relu_twice()
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    for source in (model, path, str(path), path.read_bytes()):
        session = OrtSession(source)
        assert session.input_names == ["x0"]
        for inputs in ([X], [X.numpy()], {"x0": X.numpy()}):
            np.testing.assert_array_equal(session.run(inputs)[0], [[1, 0, 3]])


def test_session_errors():
    session = OrtSession(relu_twice())
    with pytest.raises(DataError, match="input 'x0' is missing; the model's inputs are: x0"):
        session.run({})
    with pytest.raises(DataError, match="ONNX Runtime cannot run the model on these inputs"):
        session.run([X.double()])
    graph = with_inputs(TensorType.make(DType.FLOAT32, (3,)))
    graph.add_output(graph.append(Node("Secret", [graph.inputs[0]], domain="my.domain")).output, "y")
    graph.outputs[0].type = graph.inputs[0].type
    graph.model.domains["my.domain"] = 1
    with pytest.raises(UnsupportedOperatorError, match=r"ONNX Runtime refuses the model: .*Secret"):
        OrtSession(go.to_onnx(graph))


def test_kernels_are_those_after_optimisation():
    counts = kernel_counts(relu_twice())
    assert counts["MatMul"] == 1
    assert counts["Identity"] == 0


# -- timing


def test_median_is_the_middle_and_functions_take_turns(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    calls = []
    found = medians({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3, warmup=1)
    assert calls == ["a", "b", "a", "b", "a", "b", "a", "b"]
    assert found == {"a": 1, "b": 1}


def test_median_of_a_sleep():
    assert 0.001 <= median_seconds(lambda: time.sleep(0.001), repeats=3, warmup=0) < 0.1


# -- sample inputs that a graph runs on


def windowed(kind, size=20):
    """A convolution over windows of `size`, unpadded."""
    graph = Graph()
    x = graph.add_input("x", kind)
    graph.add_output(graph.add("Conv", x, graph.add_constant(torch.ones(1, 1, size))), "y")
    return graph


@pytest.mark.parametrize(
    ("shape", "found"),
    [(("n", 1, "m"), (2, 1, 32)), ((None, 1, None), (2, 1, 32)), ((3, 1, "m"), (3, 1, 32)),
     (("n", 1, "n"), (32, 1, 32)), (("n", 1, "m + 5"), (2, 1, 37)), (("n", 1, 25), (2, 1, 25))],
)  # fmt: skip
def test_inputs_are_as_large_as_the_graph_needs(shape, found):
    made = runnable_inputs(windowed(TensorType.make(DType.FLOAT32, shape)))
    assert made.inputs[0].shape == found
    assert made.results[0].shape == (found[0], 1, found[2] - 19)
    assert str(made) == ("" if found[2] == 25 else f"x {list(found)}")


def squeezed(kind):
    """Drops the rows, which must have been 35 to 70 to have shrunk to one."""
    graph = Graph()
    x = graph.add_input("x", kind)
    kernel = graph.add_constant(torch.ones(1, 1, 3, 2))
    narrow = graph.add("Conv", graph.add("Conv", x, kernel, strides=[4, 1]), kernel, strides=[3, 1])
    last = graph.add("Conv", narrow, kernel, strides=[3, 1])
    graph.add_output(graph.add("Squeeze", last, graph.add_constant(torch.tensor([2]))), "y")
    return graph


@pytest.mark.parametrize("shape", [("n", 1, "h", "w"), ("n", 1, None, "w"), (None, 1, None, None)])
def test_a_size_that_the_graph_wants_exactly_is_found(shape):
    made = runnable_inputs(squeezed(TensorType.make(DType.FLOAT32, shape)))
    assert made.inputs[0].shape == (2, 1, 48, 128)
    assert made.results[0].shape == (2, 1, 125)
    assert str(made) == "x [2, 1, 48, 128]"


def test_what_shape_rules_refuse_is_not_run(monkeypatch):
    runs = []
    monkeypatch.setattr(samples, "run", lambda graph, inputs: runs.append(inputs) or run(graph, inputs))
    runnable_inputs(squeezed(TensorType.make(DType.FLOAT32, ("n", 1, "h", "w"))))
    assert len(runs) == 2  # the smallest, and the one that fits


def test_what_fits_no_inputs_is_tried_once(monkeypatch):
    graph = windowed(TensorType.make(DType.FLOAT32, ("n", 1, "m")), 5000)
    graph.add_output(graph.add("Identity", graph.outputs[0]), "z")
    searches = []
    search = equivalence.runnable_inputs
    monkeypatch.setattr(equivalence, "runnable_inputs", lambda *args: searches.append(args) or search(*args))
    report = go.optimize(graph, "eliminate-identity,eliminate-dead,eliminate-identity")
    assert len(searches) == 1
    assert report.passes[0].checks["equivalence"]["summary"].startswith("unchecked: RuntimeError while executing")


def test_sizes_that_are_given_are_kept():
    made = runnable_inputs(windowed(TensorType.make(DType.FLOAT32, ("n", 1, "m"))), sizes={"n": 1})
    assert made.inputs[0].shape == (1, 1, 32)
    with pytest.raises(go.GraphoptError, match="Conv"):
        runnable_inputs(windowed(TensorType.make(DType.FLOAT32, ("n", 1, "m"))), sizes={"n": 1, "m": 5})


@pytest.mark.parametrize(("shape", "size"), [((1, 1, 5), 20), (("n", 1, "m"), 5000)])
def test_a_graph_that_runs_with_no_size_says_what_it_said_first(shape, size):
    with pytest.raises(go.GraphoptError, match=r"while executing.*Conv"):
        runnable_inputs(windowed(TensorType.make(DType.FLOAT32, shape), size))


def test_checks_say_which_sizes_they_took():
    graph = windowed(TensorType.make(DType.FLOAT32, ("n", 1, "m")))
    graph.add_output(graph.add("Identity", graph.outputs[0]), "z")
    (entry,) = go.optimize(graph, "eliminate-identity").passes
    assert entry.checks["equivalence"]["summary"] == "exact to 0.0e+00 on x [2, 1, 32]"


def test_inputs_are_tried_only_up_to_a_size():
    kind = TensorType.make(DType.FLOAT32, ("n", "m", "k", "l", "o"))
    graph = Graph()
    x = graph.add_input("x", kind)
    graph.add_output(graph.add("MatMul", x, graph.add_constant(torch.ones(7, 7))), "y")
    with pytest.raises(go.GraphoptError):
        runnable_inputs(graph)
