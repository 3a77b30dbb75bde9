"""Contents of small tensors: whatever a rule claims, with names bound to numbers, is what the operator computes."""

import itertools
import operator

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphopt.ir import DType, Graph, Node, TensorType
from graphopt.ir import dims as D
from graphopt.ops import execute, record_of
from graphopt.ops.infer import object_array

N, M = D.symbol("n"), D.symbol("m")
EXPRESSIONS = [N, M, N + 1, 2 * N, 4 * N + 2, N * M, N - 3, -N, sympy.floor(N / 2), N + M]


def node_of(op, contents, dtypes=None, **attributes):
    """A node over inputs whose contents are the given lists of numbers, expressions and None."""
    graph = Graph()
    values = []
    for index, items in enumerate(contents):
        shape = () if not isinstance(items, list) else (len(items),)
        dtype = dtypes[index] if dtypes else DType.INT64
        value = graph.add_input(f"x{index}", TensorType(dtype, shape))
        value.known = object_array(items if isinstance(items, list) else [items], shape)
        values.append(value)
    return graph.append(Node(op, values, attributes))


def claimed(op, *contents, dtypes=None, **attributes):
    node = node_of(op, contents, dtypes, **attributes)
    known = record_of(node).evaluate(node)[0]
    return None if known is None else list(known.flat)


def bind(items, binding):
    return [D.substitute(i, binding) for i in items]


BINARY = [
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Mod",
    "Max",
    "Min",
    "Equal",
    "Less",
    "LessOrEqual",
    "Greater",
    "GreaterOrEqual",
    "Sum",
]
UNARY = ["Neg", "Abs", "Sign", "Floor", "Ceil", "Identity"]
ELEMENTS = st.one_of(st.integers(-7, 7), st.sampled_from(EXPRESSIONS))


def assert_true_for_all_sizes(op, contents, **attributes):
    claims = claimed(op, *contents, **attributes)
    if claims is None:
        return
    for n, m in itertools.product([0, 1, 2, 5, 8], [0, 1, 7]):
        binding = {"n": n, "m": m}
        numbers = [bind(items, binding) for items in contents]
        node = node_of(op, numbers, **attributes)
        for at, claim in enumerate(claims):
            if claim is None:
                continue
            column = [torch.tensor([items[at if len(items) > 1 else 0]]) for items in numbers]
            if op in ("Div", "Mod") and column[1].item() == 0:
                continue
            got = execute(node, column)[0]
            assert D.substitute(claim, binding) == int(got), (op, contents, claim, binding)


@pytest.mark.parametrize("op", BINARY)
@given(data=st.data())
def test_binary(op, data):
    pairs = data.draw(st.lists(st.tuples(ELEMENTS, ELEMENTS), min_size=1, max_size=3))
    assert_true_for_all_sizes(op, [list(side) for side in zip(*pairs, strict=True)])


@pytest.mark.parametrize("op", UNARY)
@given(items=st.lists(ELEMENTS, min_size=1, max_size=3))
def test_unary(op, items):
    assert_true_for_all_sizes(op, [items])


@given(a=st.lists(ELEMENTS, min_size=2, max_size=2), b=ELEMENTS)
def test_fmod(a, b):
    assert_true_for_all_sizes("Mod", [a, [b]], fmod=1)


@pytest.mark.parametrize("axes", [[0], []])
@pytest.mark.parametrize("op", ["ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin"])
@given(items=st.lists(ELEMENTS, min_size=1, max_size=4))
def test_reductions(op, axes, items):
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.INT64, (len(items),)))
    x.known = object_array(items)
    node = graph.append(Node(op, [x, graph.add_constant(torch.tensor(axes, dtype=torch.int64))], {"keepdims": 0}))
    (known,) = record_of(node).evaluate(node)
    if known is None:
        return
    assert known.shape == ()
    binding = {"n": 5, "m": 7}
    want = execute(node, [torch.tensor(bind(items, binding)), torch.tensor(axes, dtype=torch.int64)])[0]
    assert D.substitute(known.item(), binding) == int(want)


# -- what must be decided, not only claimed truly


def test_useful_answers():
    assert claimed("Div", [4 * N, N * M, 2 * N + 4], [4, M, 2]) == [N, N, N + 2]
    assert claimed("Div", [N], [2]) == [sympy.floor(N / 2)]
    assert claimed("Equal", [N, N + 1, N, N], [N, 0, -1, 4]) == [1, 0, 0, None]
    assert claimed("Less", [N, N], [0, N + 1]) == [0, 1]
    assert claimed("Max", [N, N], [0, M]) == [N, sympy.Max(N, M)]
    assert claimed("Mod", [7, N], [4, 4]) == [3, sympy.Mod(N, 4)]
    assert claimed("Pow", [N, 3], [2, 4]) == [N**2, 81]
    assert claimed("Div", [N - 3], [2]) is None  # rounds to either side


def test_truth_values_decide_with_one_operand():
    logic = {"dtypes": [DType.BOOL, DType.BOOL]}
    values = [0, 0, 0, 1, 1, 1, None, None, None], [0, 1, None] * 3
    assert claimed("And", *values, **logic) == [0, 0, 0, 0, 1, None, 0, None, None]
    assert claimed("Or", *values, **logic) == [0, 1, None, 1, 1, 1, None, 1, None]
    assert claimed("Xor", *values, **logic) == [0, 1, None, 1, 0, None, None, None, None]
    assert claimed("Not", [0, 1, None], dtypes=[DType.BOOL]) == [1, 0, None]


def test_where():
    kinds = {"dtypes": [DType.BOOL, DType.INT64, DType.INT64]}
    assert claimed("Where", [1, 0, None, None], [N, N, N, N], [M, M, N, M], **kinds) == [N, M, N, None]
    assert claimed("Where", [1, 1], [N, 4], [None, None], **kinds) == [N, 4]


def test_clip():
    assert claimed("Clip", [5, N, -2], 0, 4) == [4, sympy.Min(4, N), 0]


def test_unknown_elements_stay_unknown():
    assert claimed("Add", [N, None], [1, 1]) == [N + 1, None]
    assert claimed("Add", [None, None], [1, 1]) is None


def test_constants_and_values_of_known_shape_join():
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.INT64, (2,)))
    condition = graph.add_constant(torch.tensor([True, False]))
    node = graph.append(Node("Where", [condition, graph.add_constant(torch.tensor([3, 4])), x]))
    assert list(record_of(node).evaluate(node)[0]) == [3, None]


def test_results_out_of_range_of_the_type_are_not_claimed():
    assert claimed("Mul", [100, 2], [100, 2], dtypes=[DType.INT8, DType.INT8]) == [None, 4]
    assert claimed("Sub", [1], [2], dtypes=[DType.UINT8, DType.UINT8]) is None


@pytest.mark.parametrize("target", [DType.INT64, DType.INT32, DType.BOOL, DType.FLOAT32])
def test_cast(target):
    want = {DType.BOOL: [None, 1, 0, 1]}.get(target, [N, N + 1, 0, 5])
    assert claimed("Cast", [N, N + 1, 0, 5], to=int(target)) == want


def test_cast_drops_what_does_not_fit():
    assert claimed("Cast", [200, 5], to=int(DType.INT8)) == [None, 5]
    assert claimed("Cast", [N, 5], to=int(DType.FLOAT8E4M3FN)) is None


def test_float_detour():
    """floor(float(n) * 0.5) as exporters write the extents of an interpolation."""
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.INT64, (2,)))
    x.known = object_array([N, 7])
    value = x
    for op, other, attributes in [
        ("Cast", None, {"to": 1}),
        ("Mul", torch.tensor(0.5), {}),
        ("Floor", None, {}),
        ("Cast", None, {"to": 7}),
    ]:
        others = [] if other is None else [graph.add_constant(other)]
        node = graph.append(Node(op, [value, *others], attributes))
        value = node.output
        value.type = record_of(node).infer(node)[0]
        value.known = record_of(node).evaluate(node)[0]
    assert list(value.known) == [sympy.floor(N / 2), 3]


def test_inexact_float_products_are_not_claimed():
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.FLOAT32, (2,)))
    x.known = object_array([N, 10])
    node = graph.append(Node("Mul", [x, graph.add_constant(torch.tensor(0.1))]))
    assert list(record_of(node).evaluate(node)[0]) == [None, 1]  # float32(10 * float32(0.1)) is 1
    node = graph.append(Node("Div", [x, graph.add_constant(torch.tensor(0.0))]))
    assert record_of(node).evaluate(node)[0] is None


def test_float_data_is_left_alone():
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.FLOAT32, (2,)))
    node = graph.append(Node("Mul", [x, graph.add_constant(torch.tensor([0.1, 0.2]))]))
    assert record_of(node).evaluate(node) == [None]


def test_large_results_are_not_tracked():
    graph = Graph()
    a, b = graph.add_constant(torch.arange(1000)), graph.add_constant(torch.arange(1000)[:, None])
    node = graph.append(Node("Add", [a, b]))
    assert record_of(node).evaluate(node) == [None]


def test_empty_contents_are_known():
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.INT64, (0,)))
    x.known = np.empty(0, object)
    node = graph.append(Node("Add", [x, graph.add_constant(torch.tensor(1))]))
    assert record_of(node).evaluate(node)[0].shape == (0,)


def test_second_operands_broadcast():
    assert claimed("Mul", [N, 2, 3], 2) == [2 * N, 4, 6]
    assert operator.index(claimed("Sum", [1], [2])[0]) == 3
