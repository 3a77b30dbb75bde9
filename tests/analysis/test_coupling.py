"""Which slices go together: extents, atoms, groups, and why something is frozen."""

import gc
import time

import numpy as np
import pytest
import torch

from graphopt.analysis import propagate
from graphopt.analysis.coupling import ChannelCoupling
from graphopt.analysis.coupling.extents import find_extents
from graphopt.ir import DType, Graph, Node, TensorType


class Net:
    """A graph with short ways to add nodes; `w(name, *shape)` is a weight."""

    def __init__(self, *shape) -> None:
        self.graph = Graph()
        self.x = self.graph.add_input("x", TensorType.make(DType.FLOAT32, shape))

    def w(self, name, *shape):
        return self.graph.add_constant(torch.rand(shape), name)

    def ints(self, *numbers):
        return self.graph.add_constant(torch.tensor(numbers))

    def add(self, op, *inputs, outputs=1, **attributes):
        node = self.graph.append(Node(op, inputs, attributes, outputs))
        propagate(self.graph)
        return node.output if outputs == 1 else list(node.outputs)

    def linear(self, x, name, width):
        return self.add("MatMul", x, self.w(name, x.shape[-1], width))

    def conv(self, x, name, width, group=1):
        return self.add("Conv", x, self.w(name, width, x.shape[1] // group, 1, 1), group=group)

    def coupling(self, *outputs):
        for number, value in enumerate(outputs):
            self.graph.add_output(value, f"y{number}")
        return ChannelCoupling(self.graph)


def table(coupling):
    """For each group: its constants and the number of its components."""
    return {coupling.name_of(group): len(group) for group in coupling.groups}


def extent_of(extents, value, dim):
    return extents.of(value, dim)


# -- extents


def test_dimensions_that_operators_relate_are_one_extent():
    net = Net(2, 4)
    hidden = net.linear(net.x, "w", 6)
    shown = net.add("Relu", net.add("Add", hidden, net.w("b", 6)))
    net.graph.add_output(shown, "y")
    extents = find_extents(net.graph)
    w, b = net.graph.constants
    assert extent_of(extents, w, 1) == extent_of(extents, b, 0) == extent_of(extents, shown, 1)
    assert extent_of(extents, w, 0) == extent_of(extents, net.x, 1) != extent_of(extents, w, 1)
    assert extents.sizes[extent_of(extents, w, 1)] == 6
    assert extents.factors(extent_of(extents, w, 1)) == [(1, 6)]


def test_dimensions_that_nothing_relates_have_no_extent():
    net = Net(1, 4, 9, 9)
    w = net.w("w", 6, 4, 3, 3)
    shown = net.add("Conv", net.x, w)
    net.graph.add_output(net.add("Relu", shown), "y")
    extents = find_extents(net.graph)
    assert extent_of(extents, w, 2) is None
    assert extent_of(extents, net.x, 2) is None
    # The window's end is related further on, and has to stay because the convolution says nothing of it.
    rows = extent_of(extents, shown, 2)
    assert rows == extent_of(extents, net.graph.outputs[0], 2)
    assert rows in extents.frozen
    assert extent_of(extents, w, 0) == extent_of(extents, net.graph.outputs[0], 1)


def test_extents_merge_whatever_the_order_of_their_ties():
    # Two chains that only the last node joins, and a third that stays alone.
    net = Net(2, 4)
    chains = [net.linear(net.x, f"w{number}", 6) for number in range(3)]
    ends = []
    for value in chains:
        for op in ("Relu", "Sigmoid", "Tanh"):
            value = net.add(op, value)
        ends.append(value)
    net.graph.add_output(net.linear(net.add("Add", ends[1], ends[0]), "last", 3), "y")
    net.graph.add_output(net.linear(ends[2], "other", 3), "z")
    extents = find_extents(net.graph)
    joined, alone = extent_of(extents, chains[0], 1), extent_of(extents, chains[2], 1)
    assert joined == extent_of(extents, chains[1], 1) == extent_of(extents, ends[0], 1) != alone
    assert {value.name for value, _ in extents.members[joined] if value.is_constant} == {"w0", "w1", "last"}
    assert len(extents.members) == len(extents.sizes) == len({extents.of(v, d) for m in extents.members for v, d in m})


def test_cuts_travel_along_all_relations():
    net = Net(2, 4)
    hidden = net.add("Add", net.linear(net.x, "w", 24), net.w("b", 24))
    heads = net.add("Reshape", hidden, net.ints(0, 3, 8))
    halves = net.add("Reshape", heads, net.ints(0, 3, 2, 4))
    net.graph.add_output(net.add("ReduceSum", halves, net.ints(1, 2, 3)), "y")
    extents = find_extents(net.graph)
    w, b, *_ = net.graph.constants
    assert extents.factors(extent_of(extents, b, 0)) == [(1, 4), (4, 2), (8, 3)]
    assert extents.factors(extent_of(extents, w, 1)) == [(1, 4), (4, 2), (8, 3)]
    assert extents.factors(extent_of(extents, heads, 2)) == [(1, 4), (4, 2)]


def test_cuts_that_do_not_nest_freeze():
    net = Net(2, 4)
    hidden = net.linear(net.x, "w", 12)
    one = net.add("Reshape", hidden, net.ints(0, 3, 4))
    other = net.add("Reshape", hidden, net.ints(0, 4, 3))
    outs = [net.add("ReduceSum", value, net.ints(1, 2)) for value in (one, other)]
    coupling = net.coupling(*outs)
    assert not coupling.groups
    assert any("Reshape" in reason for reason in coupling.frozen_by())


def test_unrelated_dimensions_and_sizes_known_at_run_time_freeze():
    net = Net(2, "width")
    hidden = net.add("Mul", net.x, net.w("scale", 8))
    coupling = net.coupling(net.linear(hidden, "v", 3))
    assert not coupling.groups
    net = Net(2, 8)
    secret = net.graph.append(Node("Secret", [net.linear(net.x, "w", 8)], domain="my.domain")).output
    secret.type = TensorType.make(DType.FLOAT32, (2, 8))
    coupling = net.coupling(net.linear(secret, "v", 3))
    assert not coupling.groups
    assert coupling.frozen_by()["operator my.domain::Secret"] == 16


@pytest.mark.parametrize("op", ["MatMul", "Gemm", "Conv"])
def test_an_operand_of_unknown_extent_freezes_what_meets_it(op):
    """At run time the operand has all its indices; the weight may not lose any."""
    net = Net(2, 8, 1, 1) if op == "Conv" else Net(2, 8)
    value = net.conv(net.x, "w", 8) if op == "Conv" else net.linear(net.x, "w", 8)
    shape = net.graph.add_input("shape", TensorType.make(DType.INT64, (value.rank,)))
    free = net.add("Reshape", value, shape)
    assert not isinstance(free.shape[1], int)
    shapes = {"MatMul": (8, 3), "Gemm": (8, 3), "Conv": (3, 8, 1, 1)}
    coupling = net.coupling(net.add(op, free, net.w("v", *shapes[op])))
    assert not coupling.groups


# -- atoms and groups


def test_layers_in_a_row():
    net = Net(2, 3, 4, 4)
    y = net.conv(net.x, "a.weight", 8)
    y = net.add("BatchNormalization", y, *(net.w(name, 8) for name in ("scale", "bias", "mean", "var")))
    y = net.conv(net.add("Relu", y), "b.weight", 5)
    coupling = net.coupling(y)
    assert table(coupling) == {"a.weight, scale, bias, mean, var, b.weight": 8}
    assert coupling.frozen_by() == {"graph output 'y0'": 5, "graph input 'x'": 3}
    (group,) = coupling.groups
    assert {value.name for value in coupling.constants_of(group)} >= {"a.weight", "b.weight"}


def test_residual_ties_all_that_is_added():
    net = Net(2, 3, 4, 4)
    stem = net.conv(net.x, "stem", 8)
    first = net.add("Add", stem, net.conv(net.conv(stem, "a", 4), "b", 8))
    second = net.add("Add", first, net.conv(net.conv(first, "c", 4), "d", 8))
    assert table(net.coupling(net.conv(second, "head", 2))) == {
        "stem, a, b, c, d, head": 8, "a, b": 4, "c, d": 4,
    }  # fmt: skip


def test_concat_shifts_and_split_unshifts():
    net = Net(2, 3, 4, 4)
    a, b = net.conv(net.x, "a", 4), net.conv(net.x, "b", 6)
    joined = net.conv(net.add("Concat", a, b, axis=1), "c", 10)
    left, right = net.add("Split", joined, net.ints(3, 7), outputs=2, axis=1)
    coupling = net.coupling(net.conv(left, "l", 2), net.conv(right, "r", 2))
    assert table(coupling) == {"a, c": 4, "b, c": 6, "c, l": 3, "c, r": 7}
    second = next(group for group in coupling.groups if coupling.name_of(group) == "b, c")
    masks = coupling.keep_masks(second.components[1:3])
    by_size = {len(mask): np.flatnonzero(~mask).tolist() for mask in masks.values()}
    assert by_size == {6: [1, 2], 10: [5, 6]}


def test_slices_that_overlap_tie_where_they_do():
    net = Net(2, 4)
    hidden = net.linear(net.x, "w", 8)
    one = net.add("Slice", hidden, net.ints(0), net.ints(5), net.ints(1))
    two = net.add("Slice", hidden, net.ints(3), net.ints(8), net.ints(1))
    coupling = net.coupling(net.linear(one, "a", 2), net.linear(two, "b", 2))
    assert table(coupling) == {"w, a": 3, "w, a, b": 2, "w, b": 3}


def test_parts_of_a_factored_dimension_keep_the_factor_whole():
    net = Net(2, 4)
    hidden = net.linear(net.x, "w", 8)
    halves = net.add("ReduceSum", net.add("Reshape", hidden, net.ints(0, 2, 4)), net.ints(1), keepdims=0)
    left, right = net.add("Split", hidden, net.ints(4, 4), outputs=2, axis=1)
    coupling = net.coupling(net.linear(halves, "c", 2), net.linear(left, "a", 2), net.linear(right, "b", 2))
    assert table(coupling) == {"w, c, a, b": 4}
    assert coupling.frozen_by()["holds a whole part"] == 2
    net = Net(2, 4)
    hidden = net.linear(net.x, "w", 8)
    halves = net.add("ReduceSum", net.add("Reshape", hidden, net.ints(0, 2, 4)), net.ints(1), keepdims=0)
    left, right = net.add("Split", hidden, net.ints(6, 2), outputs=2, axis=1)  # one part ends inside a half
    coupling = net.coupling(net.linear(halves, "c", 2), net.linear(left, "a", 2), net.linear(right, "b", 2))
    assert not coupling.groups
    assert coupling.frozen_by()["operator Split: its parts do not factor alike"]


def test_gathered_channels_follow_their_index():
    net = Net(2, 4)
    hidden = net.linear(net.x, "w", 4)
    picked = net.add("Gather", hidden, net.ints(3, 1, 0, 2), axis=1)
    coupling = net.coupling(net.linear(picked, "v", 2))
    (group,) = coupling.groups
    masks = coupling.keep_masks(group.components[:1])
    w, v = (next(c for c in net.graph.constants if c.name == name) for name in "wv")
    gone = [np.flatnonzero(~masks[coupling.extents.of(*ref)]).tolist() for ref in ((w, 1), (v, 0))]
    assert gone == [[0], [2]]


def test_indices_that_are_added_stay():
    net = Net(2, 3, 4, 4)
    padded = net.add("Pad", net.conv(net.x, "a", 4), net.ints(0, 2, 0, 0, 0, 1, 0, 0))
    coupling = net.coupling(net.conv(padded, "b", 2))
    assert table(coupling) == {"a, b": 4}
    assert coupling.frozen_by()["operator Pad adds these indices"] == 3


def test_groups_lose_equally_many():
    net = Net(2, 4, 2, 2)
    wide = net.conv(net.conv(net.x, "a", 6), "g", 12, group=3)
    coupling = net.coupling(net.conv(wide, "b", 2))
    assert table(coupling) == {"a, g, b": 3, "a, g": 2, "g, b": 4}
    inner = next(group for group in coupling.groups if len(group) == 4)
    for mask in coupling.keep_masks(inner.components[:1]).values():
        if len(mask) == 12:
            assert mask.reshape(3, 4).sum(1).tolist() == [3, 3, 3]


def test_depthwise_ties_in_and_out():
    net = Net(2, 4, 2, 2)
    deep = net.conv(net.conv(net.x, "a", 6), "d", 6, group=6)
    assert table(net.coupling(net.conv(deep, "b", 2))) == {"a, d, b": 6}


def test_heads_and_head_dimensions_are_groups_of_their_own():
    net = Net(2, 5, 8)
    q, k, v = (
        net.add("Transpose", net.add("Reshape", net.linear(net.x, name, 12), net.ints(0, 5, 3, 4)), perm=(0, 2, 1, 3))
        for name in "qkv"
    )
    scores = net.add("Softmax", net.add("MatMul", q, net.add("Transpose", k, perm=(0, 1, 3, 2))), axis=-1)
    mixed = net.add("Transpose", net.add("MatMul", scores, v), perm=(0, 2, 1, 3))
    y = net.linear(net.add("Reshape", mixed, net.ints(0, 5, 12)), "o", 2)
    assert table(net.coupling(y)) == {"q, k, v, o": 3, "q, k": 4, "v, o": 4}


def test_flattened_image_keeps_whole_channels():
    net = Net(2, 3, 4, 4)
    flat = net.add("Flatten", net.conv(net.x, "a", 5))
    coupling = net.coupling(net.linear(flat, "v", 2))
    assert table(coupling) == {"a, v": 5}
    (group,) = coupling.groups
    lost = {len(mask): int((~mask).sum()) for mask in coupling.keep_masks(group.components[:2]).values()}
    assert lost == {5: 2, 80: 32}


def test_one_weight_in_two_roles():
    net = Net(2, 6)
    square = net.w("q", 8, 8)
    hidden = net.add("MatMul", net.linear(net.x, "w", 8), square)
    hidden = net.add("Gemm", hidden, square, transB=1)  # back through the same weight: its rows are w's and v's
    assert table(net.coupling(net.linear(hidden, "v", 2))) == {"w, q, v": 8, "q": 8}
    net = Net(2, 8)
    square = net.w("q", 8, 8)
    hidden = net.add("MatMul", net.add("MatMul", net.linear(net.x, "w", 8), square), square)
    assert table(net.coupling(net.linear(hidden, "v", 2))) == {"w, q, v": 8}


def test_same_value_twice():
    net = Net(2, 4)
    hidden = net.linear(net.x, "w", 6)
    doubled = net.add("Concat", net.add("Add", hidden, hidden), hidden, axis=1)
    coupling = net.coupling(net.linear(doubled, "v", 2))
    assert table(coupling) == {"w, v": 6}
    (group,) = coupling.groups
    lost = {len(mask): np.flatnonzero(~mask).tolist() for mask in coupling.keep_masks(group.components[1:2]).values()}
    assert lost == {6: [1], 12: [1, 7]}


@pytest.mark.parametrize("frozen", ["output", "weight output", "overridable", "captured"])
def test_what_others_see_is_frozen(frozen):
    net = Net(2, 4)
    if frozen == "overridable":
        w = net.graph.add_input("w", TensorType.make(DType.FLOAT32, (4, 6)), default=torch.rand(4, 6))
        hidden = net.add("MatMul", net.x, w)
    else:
        hidden = net.linear(net.x, "w", 6)
    outputs = [net.linear(net.add("Relu", hidden), "v", 2)]
    if frozen == "output":
        outputs.append(hidden)
    if frozen == "weight output":
        outputs.append(next(value for value in net.graph.constants if value.name == "w"))
    if frozen == "captured":
        condition = net.graph.add_input("c", TensorType.make(DType.BOOL, ()))
        bodies = {}
        for name in ("then_branch", "else_branch"):
            bodies[name] = Graph(name)
            bodies[name].add_output(bodies[name].add("Relu", hidden), "r")
        outputs.append(net.graph.append(Node("If", [condition], bodies)).output)
        propagate(net.graph)
    coupling = net.coupling(*outputs)
    assert not coupling.groups
    assert coupling.frozen_by().total() > 6


def test_empty_and_weightless_graphs():
    graph = Graph()
    assert ChannelCoupling(graph).groups == []
    assert ChannelCoupling(graph).keep_masks(np.zeros(0, dtype=np.int64)) == {}
    net = Net(2, 4)
    coupling = net.coupling(net.add("Relu", net.x))
    assert coupling.groups == []
    assert not coupling.frozen_by()


def residual_chain(blocks: int) -> Graph:
    net = Graph()
    value = net.add_input("x", TensorType.make(DType.FLOAT32, (1, 16, 4, 4)))
    for _ in range(blocks):
        first, second = (net.add_constant(torch.zeros(16, 16, 1, 1)) for _ in range(2))
        value = net.add("Add", value, net.add("Conv", net.add("Relu", net.add("Conv", value, first)), second))
    net.add_output(net.add("Flatten", value), "y")
    propagate(net)
    return net


def test_planning_is_linear_in_the_size_of_the_graph():
    def seconds(blocks):
        net = residual_chain(blocks)
        times = []
        for _ in range(3):
            started = time.process_time()
            assert len(ChannelCoupling(net).groups) == blocks
            times.append(time.process_time() - started)
        return min(times)

    gc.disable()  # as pipelines do
    try:
        assert seconds(800) < 2 * 8 * seconds(100)
    finally:
        gc.enable()
