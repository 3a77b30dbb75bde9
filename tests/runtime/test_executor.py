import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

from graphopt.analysis import propagate
from graphopt.errors import DataError, PassError, UnsupportedOperatorError
from graphopt.ir import DType, Graph, Node, TensorType
from graphopt.models import ZOO, build
from graphopt.runtime import run, values_of
from graphopt.runtime.compare import compare
from tests.zoo import captured

FLOAT = DType.FLOAT32


def small() -> Graph:
    """``y = x * scale + b``; scale has a default."""
    graph = Graph()
    x = graph.add_input("x", TensorType.make(FLOAT, (2,)))
    scale = graph.add_input("scale", TensorType.make(FLOAT, ()), default=torch.tensor(3.0))
    b = graph.add_constant(torch.tensor([10.0, 20.0]), "b")
    product = graph.add("Mul", x, scale, name="product")
    graph.add_output(graph.add("Add", product, b, name="sum"), "y")
    propagate(graph)
    return graph


X = torch.tensor([1.0, 2.0])


@pytest.mark.parametrize("name", ZOO)
def test_zoo_as_eager(name):
    module, args = build(name)
    graph = captured(name)
    inputs = [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, torch.Tensor)]
    with torch.no_grad():
        want = pytree.tree_leaves(module(*args))
    assert compare(run(graph, inputs), want).within(1e-5)


@pytest.mark.parametrize("inputs", [[X], {"x": X}, [X, torch.tensor(3.0)], {"scale": torch.tensor(3.0), "x": X}, (X,)])
def test_inputs_by_position_and_by_name(inputs):
    assert run(small(), inputs)[0].tolist() == [13.0, 26.0]


def test_numpy_arrays_do_too():
    array = np.array([1.0, 2.0], dtype=np.float32)
    array.flags.writeable = False
    assert run(small(), [array])[0].tolist() == [13.0, 26.0]


def test_defaults_can_be_overridden():
    assert run(small(), {"x": X, "scale": torch.tensor(0.0)})[0].tolist() == [10.0, 20.0]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [([], "input 'x' is missing; the graph's inputs are: x, scale"), ({"scale": X}, "input 'x' is missing"),
     ({"x": X, "z": X}, "no input 'z'; its inputs are: x, scale"), ([X, X, X], "3 inputs given, the graph has 2")],
)  # fmt: skip
def test_inputs_that_do_not_fit(inputs, words):
    with pytest.raises(DataError, match=words):
        run(small(), inputs)


def test_failure_names_the_node():
    with pytest.raises(PassError, match=r"RuntimeError while executing: .*\(at Mul 'product'\); the inputs do not fit"):
        run(small(), [torch.ones(2), torch.ones(3)])


def test_unknown_operator_names_the_node():
    graph = small()
    graph.add_output(graph.append(Node("Secret", [graph.outputs[0]], domain="my.domain", name="node7")).output, "z")
    with pytest.raises(UnsupportedOperatorError, match=r"my\.domain::Secret.*node7"):
        run(graph, [X])


def test_hook_sees_every_node_and_may_replace_results():
    seen = []

    def hook(node, results):
        seen.append((node.op, results[0].tolist()))
        return (results[0] * 2,) if node.op == "Mul" else results

    assert run(small(), [X], hook=hook)[0].tolist() == [16.0, 32.0]
    assert seen == [("Mul", [3.0, 6.0]), ("Add", [16.0, 32.0])]


def test_constants_can_be_replaced_for_one_run():
    graph = small()
    (b,) = graph.constants
    assert run(graph, [X], constants={b: torch.zeros(2)})[0].tolist() == [3.0, 6.0]
    assert run(graph, [X])[0].tolist() == [13.0, 26.0]


def test_values_in_between():
    graph = small()
    product, total = (node.output for node in graph.nodes)
    (b,) = graph.constants
    found = values_of(graph, [X], [product, total, b, *graph.inputs])
    assert found[product].tolist() == [3.0, 6.0]
    assert found[total].tolist() == [13.0, 26.0]
    assert found[b] is b.data
    assert found[graph.inputs[0]] is X
    assert float(found[graph.inputs[1]]) == 3.0


def test_outputs_may_be_inputs_constants_and_repeated():
    graph = small()
    y = graph.outputs[0]
    graph.set_outputs([graph.inputs[0], *graph.constants, y, y], ["a", "b", "c", "d"])
    a, b, c, d = run(graph, [X])
    assert a is X
    assert b.tolist() == [10.0, 20.0]
    assert c is d


def test_tensors_are_dropped_after_their_last_use():
    import weakref

    graph = Graph()
    value = graph.add_input("x", TensorType.make(FLOAT, (1000,)))
    for _ in range(6):
        value = graph.add("Neg", value)
    graph.add_output(value, "y")
    alive = []

    def hook(node, results):
        alive.append(weakref.ref(results[0]))
        assert sum(each() is not None for each in alive) <= 3
        return results

    run(graph, [torch.ones(1000)], hook=hook)


def test_no_gradients_are_recorded_and_inputs_are_not_written():
    weight = torch.ones(2, requires_grad=True)
    graph = small()
    (b,) = graph.constants
    b.data = weight
    x = X.clone()
    (y,) = run(graph, [x])
    assert not y.requires_grad
    assert torch.equal(x, X)
