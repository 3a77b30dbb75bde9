"""Relations and shrink rules of view, index and shape operators, checked by running the operators."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir import DType, Graph, Node, TensorType
from graphopt.ops import record_of
from graphopt.ops.refinement import refine
from graphopt.ops.update import infer_node
from tests.ops.relations import Case, Edit, check_origins, check_shrink


def array(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def ints(*items):
    return np.array(items, dtype=np.int64)


FAR = 2**31 - 1
# op, inputs, steering inputs, outputs, attributes
CASES = {
    "reshape-split": ("Reshape", [array(2, 24, 3), ints(2, 2, 3, 4, 3)], [1], 1, {}),
    "reshape-merge": ("Reshape", [array(2, 3, 4, 5), ints(2, 12, 5)], [1], 1, {}),
    "reshape-flatten": ("Reshape", [array(2, 3, 4, 5), ints(0, -1)], [1], 1, {}),
    "reshape-regroup": ("Reshape", [array(6, 4, 5), ints(3, 8, 5)], [1], 1, {}),
    "reshape-copy": ("Reshape", [array(4, 6), ints(0, 2, -1)], [1], 1, {}),
    "reshape-copy-of-another": ("Reshape", [array(8, 4, 3), ints(2, 0, -1)], [1], 1, {}),
    "reshape-ones": ("Reshape", [array(1, 6, 1, 4), ints(6, 1, 2, 2, 1)], [1], 1, {}),
    "reshape-stuck": ("Reshape", [array(4, 6, 5), ints(6, 4, 5)], [1], 1, {}),
    "flatten": ("Flatten", [array(2, 3, 4)], [], 1, {"axis": 1}),
    "flatten-left": ("Flatten", [array(2, 3, 4)], [], 1, {"axis": 2}),
    "squeeze": ("Squeeze", [array(3, 1, 4), ints(1)], [1], 1, {}),
    "unsqueeze": ("Unsqueeze", [array(3, 4), ints(1, -1)], [1], 1, {}),
    "transpose": ("Transpose", [array(2, 3, 4)], [], 1, {"perm": (2, 0, 1)}),
    "depth-to-space": ("DepthToSpace", [array(2, 12, 2, 3)], [], 1, {"blocksize": 2}),
    "depth-to-space-crd": ("DepthToSpace", [array(2, 12, 2, 3)], [], 1, {"blocksize": 2, "mode": "CRD"}),
    "space-to-depth": ("SpaceToDepth", [array(2, 3, 4, 6)], [], 1, {"blocksize": 2}),
    "space-to-depth crd": ("SpaceToDepth", [array(2, 3, 4, 6)], [], 1, {"blocksize": 2, "mode": "CRD"}),
    "concat": ("Concat", [array(2, 3), array(2, 4), array(2, 1)], [], 1, {"axis": 1}),
    "split": ("Split", [array(2, 9), ints(2, 3, 4)], [1], 3, {"axis": 1}),
    "split-evenly": ("Split", [array(2, 9)], [], 3, {"axis": -1, "num_outputs": 3}),
    "slice": ("Slice", [array(6, 7), ints(1, -3), ints(-1, FAR)], [1, 2], 1, {}),
    "slice-all": ("Slice", [array(6, 7), ints(0, 1), ints(FAR, 3), ints(1, 0)], [1, 2, 3], 1, {}),
    "slice-back": ("Slice", [array(6, 7), ints(-1, 4), ints(-FAR, 1), ints(0, 1), ints(-1, -1)], [1, 2, 3, 4], 1, {}),
    "slice-step": ("Slice", [array(6, 7), ints(0), ints(FAR), ints(0), ints(2)], [1, 2, 3, 4], 1, {}),
    "slice-int32": ("Slice", [array(6, 7), np.array([1], np.int32), np.array([5], np.int32)], [1, 2], 1, {}),
    "gather": ("Gather", [array(5, 6), ints(4, 0, -3, 0)], [1], 1, {"axis": 1}),
    "gather-int32": ("Gather", [array(5, 6), np.array([4, 2], np.int32)], [1], 1, {}),
    "gather-one": ("Gather", [array(5, 6, 3), np.array(2)], [1], 1, {"axis": 1}),
    "gather-matrix": ("Gather", [array(5, 6), ints([1, 2], [3, 4])], [1], 1, {"axis": 0}),
    "gather-dynamic": ("Gather", [array(5, 6), ints([1, 2], [3, 4])], [], 1, {"axis": 0}),
    "gather-elements": ("GatherElements", [array(3, 4), ints([0, 2, 1, 0], [1, 1, 0, 2])], [], 1, {"axis": 0}),
    "gather-nd": ("GatherND", [array(3, 4, 5), ints([[0], [1]], [[3], [1]], [[2], [2]])], [], 1, {"batch_dims": 1}),
    "gather-nd-rows": ("GatherND", [array(5, 6), ints([4], [0], [-3], [0])], [1], 1, {}),
    "scatter-elements": ("ScatterElements", [array(3, 4), ints([0, 2, 1, 0], [1, 1, 0, 2]), array(2, 4)], [], 1, {}),
    "scatter-nd": ("ScatterND", [array(3, 4, 5), ints([0], [2]), array(2, 4, 5)], [], 1, {}),
    "tensor-scatter": ("TensorScatter", [array(2, 3, 6, 4), array(2, 3, 2, 4), ints(0, 3)], [], 1, {}),
    "expand": ("Expand", [array(1, 3, 1, 4), ints(2, 1, 5, 4)], [1], 1, {}),
    "expand-rank": ("Expand", [array(3, 1), ints(2, 3, 4)], [1], 1, {}),
    "expand-short": ("Expand", [array(2, 3, 4), ints(4)], [1], 1, {}),
    "tile": ("Tile", [array(2, 3, 1), ints(3, 1, 4)], [1], 1, {}),
    "pad": ("Pad", [array(2, 3, 4), ints(0, 2, 0, 0, 3, 1)], [1], 1, {}),
    "pad-axes": ("Pad", [array(2, 3, 4), ints(1, 2), None, ints(-2)], [1, 3], 1, {}),
    "pad-crop": ("Pad", [array(2, 6, 4), ints(0, -2, 0, 0, -1, 0)], [1], 1, {}),
    "pad-edge": ("Pad", [array(2, 6, 4), ints(0, 0, 1, 0, 0, 1)], [1], 1, {"mode": "edge"}),
    "center-crop-pad": ("CenterCropPad", [array(3, 4, 6), ints(3, 6, 4)], [1], 1, {}),
    "resize-scales": ("Resize", [array(2, 3, 4, 4), None, np.array([1, 1, 2, 2], np.float32)], [2], 1, {}),
    "resize-sizes": ("Resize", [array(2, 3, 4, 4), None, None, ints(2, 3, 8, 6)], [3], 1, {}),
    "resize-axes": ("Resize", [array(2, 3, 4, 4), None, None, ints(8, 6)], [3], 1, {"axes": (2, 3)}),
    "reverse-sequence": ("ReverseSequence", [array(4, 3, 2), ints(1, 2, 4)], [], 1, {}),
    "trilu": ("Trilu", [array(3, 4, 4)], [], 1, {}),
    "one-hot": ("OneHot", [ints([0, 1, 2], [2, 2, 0]), np.array(3), ints(0, 1)], [1, 2], 1, {"axis": 1}),
    "compress": ("Compress", [array(3, 4, 2), np.array([True, False, True])], [1], 1, {"axis": 1}),
    "constant-of-shape": ("ConstantOfShape", [ints(3, 4)], [0], 1, {}),
    "col2im": ("Col2Im", [array(2, 12, 9), ints(4, 4), ints(2, 2)], [1, 2], 1, {}),
    "grid-sample": ("GridSample", [array(2, 3, 4, 4), array(2, 3, 3, 2)], [], 1, {}),
}  # fmt: skip
COMPUTES = {
    "one-hot",
    "col2im",
    "grid-sample",
    "constant-of-shape",
}  # results that are not elements of the input


@pytest.mark.parametrize("name", [n for n in CASES if n not in COMPUTES])
def test_relation_is_where_elements_come_from(name):
    op, arrays, steering, outputs, attributes = CASES[name]
    moved = [i for i, a in enumerate(arrays) if a is not None and i not in steering and a.dtype == np.float32]
    for source in moved:
        relation = check_origins(op, arrays, steering, outputs, source=source, **attributes)
        assert relation.axes or relation.selections


@pytest.mark.parametrize("name", CASES)
def test_shrunk_operator_computes_the_pruned_result(name):
    op, arrays, steering, outputs, attributes = CASES[name]
    pruned = sum(check_shrink(op, arrays, steering, outputs, seed=seed, **attributes) for seed in range(8))
    assert pruned > 0


@pytest.mark.parametrize("name", [n for n in CASES if n != "grid-sample"])
def test_every_dimension_is_related_or_frozen_with_a_reason(name):
    op, arrays, steering, outputs, attributes = CASES[name]
    case = Case(op, arrays, steering, outputs, **attributes)
    relation = case.relation
    for (value, dim), axes in relation.axes.items():
        assert int(np.prod([a.size for a in axes], dtype=int)) == value.shape[dim]
    assert all(relation.frozen.values())


@pytest.mark.parametrize(
    ("shape", "target", "source_axes", "target_axes"),
    [(("b", 128, 7, 7), (-1, 6272), [None, [128], [7], [7]], [None, [128, 7, 7]]),
     (("b", "s", 768), (0, 0, 12, 64), [None, None, [12, 64]], [None, None, [12], [64]]),
     (("b", "s", 12, 64), (0, 0, -1), [None, None, [12], [64]], [None, None, [12, 64]]),
     (("b", "s", 768), (-1, 768), [None, None, [768]], [None, [768]]),
     (("b", 12, "s", 64), (-1, "s", 64), [None, [], None, [64]], [None, None, [64]]),
     ((None, 768), (-1, 12, 64), [None, [12, 64]], [None, [12], [64]]),
     (("b", 24, "h", "w"), (0, 2, 12, "h", "w"), [None, [2, 12], None, None], [None, [2], [12], None, None]),
     ((16, None, 4), (2, 8, -1, 4), [[2, 8], None, [4]], [[2], [8], None, [4]]),
     (("s", "b", 768), ("s", "12*b", 64), [None, None, [64]], [None, None, [64]])],
)  # fmt: skip
def test_reshape_relation_with_symbols(shape, target, source_axes, target_axes):
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, shape))
    if all(isinstance(d, int) for d in target):
        y = graph.add("Reshape", x, graph.add_constant(torch.tensor(target)))
    else:
        steer = graph.add_input("shape", TensorType.make(DType.INT64, (len(target),)))
        steer.known = np.array(TensorType.make(DType.INT64, target).shape, dtype=object)
        y = graph.add("Reshape", x, steer)
    infer_node(y.producer)
    relation = record_of(y.producer).relate(y.producer)

    def free(value):
        return [
            None if (value, d) not in relation.axes else
            [a.size for a in relation.axes[value, d] if a.label not in relation.frozen] for d in range(value.rank)
        ]  # fmt: skip

    assert free(x) == source_axes
    assert free(y) == target_axes


FACTORS = st.lists(st.sampled_from([1, 2, 2, 3, 4]), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(FACTORS, st.randoms(use_true_random=False), st.integers(0, 99))
def test_any_reshape(factors, random, seed):
    """Two random groupings of the same factors, in the same or another order."""

    def grouped(numbers):
        shape = [1]
        for number in numbers:
            if random.random() < 0.5:
                shape.append(1)
            shape[-1] *= number
        return shape

    source = grouped(factors)
    if random.random() < 0.3:
        random.shuffle(factors)
    case = "Reshape", [array(*source), ints(*grouped(factors))], [1]
    check_origins(*case)
    check_shrink(*case, seed=seed)


def test_refinement_of_shapes_that_do_not_nest():
    found = refine((4, 6, 5), (6, 4, 5))
    assert [f.size for f in found.factors] == [5]
    assert found.ragged_source == found.ragged_target == {0, 1}


@pytest.mark.parametrize("seed", range(6))
def test_reshape_by_a_shape_that_is_partly_known(seed):
    """[batch, 12] -> [batch, seq-like run-time sizes ...]: numbers are adapted, what runs at run time is left alone."""
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, ("a", "b", 12)))
    shape = graph.add("Shape", x)
    infer_node(shape.producer)
    first = graph.add("Slice", shape, graph.add_constant(torch.tensor([0])), graph.add_constant(torch.tensor([2])))
    infer_node(first.producer)
    target = graph.add("Concat", first, graph.add_constant(torch.tensor([3, 4])), axis=0)
    infer_node(target.producer)
    node = graph.append(Node("Reshape", [x, target]))
    infer_node(node)
    run_partly_known(graph, node, x, torch.randn(2, 5, 12), seed)


def run_partly_known(graph, node, x, data, seed):
    case = Case.__new__(Case)
    case.graph, case.node, case.env = graph, node, {x: data}
    graph.add_output(node.output)
    edit = Edit(case, np.random.default_rng(seed))
    want = edit.cut(node.output, case.run()[node.output])
    record_of(node).shrink(node, edit)
    torch.testing.assert_close(case.run({x: edit.cut(x, data)})[node.output], want)
    return edit


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("op", ["Expand", "Reshape"])
def test_vectors_with_several_run_time_sizes(op, seed):
    """Two sizes that only the run knows, in places where they copy nothing: differences are added to the vector."""
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, ("a", "b", 12) if op == "Reshape" else (1, 1, 12)))
    sizes = graph.add_input("sizes", TensorType.make(DType.INT64, (2,)))
    sizes.known = np.array(TensorType.make(DType.INT64, ("b", "a")).shape, dtype=object)
    target = graph.add("Concat", sizes, graph.add_constant(torch.tensor([12])), axis=0)
    infer_node(target.producer)
    node = graph.append(Node(op, [x, target]))
    infer_node(node)
    case = Case.__new__(Case)
    data = torch.randn(*((2, 5) if op == "Reshape" else (1, 1)), 12)
    case.graph, case.node = graph, node
    case.env = {x: data, sizes: torch.tensor([5, 2])}
    graph.add_output(node.output)
    edit = Edit(case, np.random.default_rng(seed))
    assert edit.kept(x, 2) is not None
    want = edit.cut(node.output, case.run()[node.output])
    record_of(node).shrink(node, edit)
    torch.testing.assert_close(case.run({x: edit.cut(x, data)})[node.output], want)


def test_shape_keeps_what_it_said():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, ("n", 8, 3)))
    node = graph.append(Node("Shape", [x]))
    infer_node(node)
    batch = graph.add("Gather", node.output, graph.add_constant(torch.tensor(0)))
    case = Case.__new__(Case)
    case.graph, case.node, case.env = graph, node, {x: torch.zeros(2, 8, 3)}
    graph.add_output(batch)
    edit = Edit(case, np.random.default_rng(0))
    edit.keep = {(x, 1): torch.tensor([0, 5])}
    record_of(node).shrink(node, edit)
    assert len(graph) == 2, "nobody reads the size that changes"
    graph.add_output(node.output)
    record_of(node).shrink(node, edit)
    assert case.run({x: torch.zeros(2, 2, 3)})[graph.outputs[1]].tolist() == [2, 8, 3]
    assert case.run({x: torch.zeros(2, 2, 3)})[batch].tolist() == 2


def test_reshape_to_a_shape_that_is_not_known_is_frozen():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, (4, 6)))
    y = graph.add("Reshape", x, graph.add_input("shape", TensorType.make(DType.INT64, (3,))))
    infer_node(y.producer)
    relation = record_of(y.producer).relate(y.producer)
    assert "computed when the graph runs" in next(iter(relation.frozen.values()))
    assert {a.label for axes in relation.axes.values() for a in axes} <= set(relation.frozen)


@pytest.mark.parametrize("known", ["nothing", "rank", "shape"])
@pytest.mark.parametrize("name", CASES)
def test_rules_stand_what_is_not_known(name, known):
    """Unknown ranks, dimensions or steering contents: no crash."""
    op, arrays, _, outputs, attributes = CASES[name]
    graph, values = Graph(), []
    for index, array in enumerate(arrays):
        if array is None:
            values.append(None)
            continue
        shape = {"nothing": None, "rank": (None,) * array.ndim, "shape": array.shape}[known]
        dtype = DType.of(torch.as_tensor(array).dtype)
        values.append(graph.add_input(f"x{index}", TensorType(dtype, shape)))
    node = graph.append(Node(op, values, attributes, outputs))
    infer_node(node)
    record = record_of(node)
    record.relate(node)
    assert node.output.dtype != DType.UNDEFINED
    case = Case.__new__(Case)
    case.graph, case.node = graph, node
    if record.shrink is not None:
        edit = Edit(case, np.random.default_rng(0))
        record.shrink(node, edit)
        assert len(graph) == 1


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_left_free_that_steering_from_outside_would_contradict(name):
    """Contents of steering inputs are not known, though the shapes of the results are (from the file, say)."""
    op, arrays, steering, outputs, attributes = CASES[name]
    for seed in range(8):
        check_shrink(op, arrays, steering, outputs, seed=seed, known=False, **attributes)
