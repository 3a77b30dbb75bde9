"""Channel relations: removing an index everywhere it is labelled commutes with the operator.

Removing index i of an axis from the inputs and then running gives what running and then removing it from the outputs
gives. An axis that no output has is contracted: removing its index equals zeroing it. One that is chosen from (TopK)
is one whose index is never chosen; positions in it are numbered anew.
"""

import math

import numpy as np
import pytest
import torch

from graphopt.ir import DType, Graph, Node, TensorType
from graphopt.ops import execute, record_of
from tests.ops.oracle import graph_of

RNG = np.random.default_rng(0)


def array(*shape):
    return np.asarray(RNG.standard_normal(shape) + 0.1).astype(np.float32)


def integers(*shape, dtype=np.int64):
    return np.asarray(RNG.integers(1, 20, shape)).astype(dtype)


def vector(*values):
    return np.array(values, np.int64)


def related(op, inputs, outputs=1, constant=(), **attributes):
    """A node with known types, its relation, and its results."""
    _, node = graph_of(op, inputs, outputs, constant, **attributes)
    record = record_of(node)
    for value, kind in zip(node.outputs, record.infer(node), strict=False):
        value.type = kind
    relation = record.relate(node)
    assert relation is not None
    for (value, dim), axes in relation.axes.items():
        assert math.prod(axis.size for axis in axes) == value.shape[dim]
    return node, relation, run(node, inputs)


def run(node, inputs):
    tensors = [None if a is None else torch.from_numpy(np.ascontiguousarray(a)).reshape(a.shape) for a in inputs]
    return [tensor.numpy() for tensor in execute(node, tensors)[: len(node.outputs)]]


def without(data, value, relation, label, index, fill=None):
    """`data` of `value` without (or with `fill` at) index `index` of axis `label`."""
    for dim in range(len(value.shape)):
        axes = relation.axes.get((value, dim), ())
        for position, axis in enumerate(axes):
            if axis.label != label:
                continue
            outer = math.prod(a.size for a in axes[:position])
            inner = math.prod(a.size for a in axes[position + 1 :])
            marks = np.arange(outer * axis.size * inner).reshape(outer, axis.size, inner)[:, index].reshape(-1)
            if fill is not None:
                data = np.moveaxis(np.moveaxis(data, dim, 0).copy(), 0, dim)
                np.moveaxis(data, dim, 0)[marks] = fill
            else:
                data = np.delete(data, marks, dim)
    return data


def removable(relation):
    """Free axes of at least two indices, by label."""
    sizes = {axis.label: axis.size for axes in relation.axes.values() for axis in axes}
    return {label: size for label, size in sizes.items() if size > 1 and label not in relation.frozen}


def assert_commutes(op, inputs, outputs=1, constant=(), rtol=1e-5, atol=1e-6, **attributes):
    """Checks every free axis; returns their labels."""
    node, relation, full = related(op, inputs, outputs, constant, **attributes)
    for label, size in removable(relation).items():
        index = int(RNG.integers(size))
        operands = list(zip(inputs, node.inputs, strict=True))
        fewer = [None if a is None else without(a, v, relation, label, index) for a, v in operands]
        adapted = {name: size - 1 for name, owner in relation.attributes.items() if owner == label}
        _, smaller = graph_of(op, fewer, outputs, constant, **{**attributes, **adapted})
        got = run(smaller, fewer)
        masks = any(axis.label == label for v in node.outputs for axis in all_axes(relation, v))
        chosen = label in chosen_from(node, relation)
        if not masks or record_of(node).normalises:
            never = math.inf if op == "ArgMin" else -math.inf
            masked = [without(inputs[0], node.inputs[0], relation, label, index, never if chosen else 0), *inputs[1:]]
            full_or_masked = run(node, masked)
        else:
            full_or_masked = full
        for mine, theirs, value in zip(got, full_or_masked, node.outputs, strict=True):
            want = without(theirs, value, relation, label, index)
            if chosen and value in relation.positions:
                want = want - (want > index)
            if op == "ReduceMean" and not masks:
                want = want * size / (size - 1)
            np.testing.assert_allclose(mine, want, rtol=rtol, atol=atol, err_msg=f"{op} without {label}[{index}]")
    return sorted(removable(relation))


def chosen_from(node, relation):
    """Labels of the axes in which outputs are positions."""
    return {
        axis.label for y in node.outputs if y in relation.positions for axis in relation.axes[relation.positions[y]]
    }


def all_axes(relation, value):
    return [axis for (v, _), axes in relation.axes.items() if v is value for axis in axes]


def assert_outputs_covered(op, inputs, outputs=1, constant=(), **attributes):
    """Every output dimension takes part in the relation, and a frozen one has a reason."""
    node, relation, _ = related(op, inputs, outputs, constant, **attributes)
    for value in node.outputs:
        for dim in range(len(value.shape)):
            assert (value, dim) in relation.axes, (op, value, dim)
    assert all(relation.frozen.values())


def shapes(count):
    """Random shapes that broadcast together."""
    rank = int(RNG.integers(1, 5))
    full = RNG.integers(2, 5, rank)
    found = []
    for _ in range(count):
        own = [1 if RNG.random() < 0.3 else int(d) for d in full]
        found.append(tuple(own[int(RNG.integers(0, rank)) :] if RNG.random() < 0.4 else own))
    return found


UNARY = ["Abs", "Neg", "Ceil", "Round", "Sign", "Exp", "Sin", "Erf", "IsNaN", "IsInf", "Relu", "LeakyRelu", "Elu",
         "Selu", "Celu", "Gelu", "Sigmoid", "HardSigmoid", "HardSwish", "Swish", "Mish", "Tanh", "Softplus", "Softsign",
         "ThresholdedRelu", "Shrink", "Identity"]  # fmt: skip
BINARY = ["Add", "Sub", "Mul", "Div", "Max", "Min", "Equal", "Less", "GreaterOrEqual"]


@pytest.mark.parametrize("op", UNARY)
def test_unary(op):
    assert assert_commutes(op, [array(3, 1, 4)]) == ["d1", "d3"]
    assert_outputs_covered(op, [array(3, 1, 4)])


@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize("trial", range(6))
def test_binary(op, trial):
    inputs = [array(*shape) for shape in shapes(2)]
    labels = assert_commutes(op, inputs)
    assert len(labels) == sum(d > 1 for d in np.broadcast_shapes(*(a.shape for a in inputs)))
    assert_outputs_covered(op, inputs)


@pytest.mark.parametrize("op", ["Sum", "Mean", "Max", "Min"])
@pytest.mark.parametrize("trial", range(4))
def test_variadic(op, trial):
    assert_commutes(op, [array(*shape) for shape in shapes(4)])


@pytest.mark.parametrize("trial", range(6))
def test_where(trial):
    condition, x, y = (array(*shape) for shape in shapes(3))
    assert_commutes("Where", [condition > 0, x, y])


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_truth_values(op):
    assert_commutes(op, [array(3, 4) > 0, array(4) > 0])


@pytest.mark.parametrize("op", ["Mod", "BitwiseAnd", "Pow"])
def test_integers(op):
    assert_commutes(op, [integers(3, 4), integers(4)])


def test_a_scale_of_a_channel_goes_with_the_channel():
    node, relation, _ = related("Mul", [array(2, 3, 4, 5), array(3, 1, 1)])
    x, scale = node.inputs
    assert relation.axes[scale, 0] == relation.axes[x, 1] == relation.axes[node.output, 1]
    assert relation.axes[scale, 1] == ()


def test_an_operand_read_twice():
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.FLOAT32, (2, 3)))
    node = graph.append(Node("Mul", [x, x]))
    node.output.type = x.type
    relation = record_of(node).relate(node)
    assert relation.axes[x, 1] == relation.axes[node.output, 1]


def test_unknown_extents_tie_nothing():
    """[n, 3] + [4, 3]: the 4 must not go without the n that it broadcasts with."""
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, ("n", 3)))
    y = graph.add_input("y", TensorType(DType.FLOAT32, (4, 3)))
    node = graph.append(Node("Add", [x, y]))
    node.output.type = record_of(node).infer(node)[0]
    relation = record_of(node).relate(node)
    assert set(relation.axes) == {(x, 1), (y, 1), (node.output, 1)}
    z = graph.add_input("z")
    assert record_of(node).relate(graph.append(Node("Add", [x, z]))) is None


@pytest.mark.parametrize("slope", [(3, 1, 1), (4,), (1,), ()])
def test_prelu(slope):
    assert len(assert_commutes("PRelu", [array(2, 3, 5, 4), array(*slope)])) == 4


def test_clip():
    inputs = [array(2, 3), np.array(-0.5, np.float32), None]
    assert assert_commutes("Clip", [inputs[0], None, inputs[1]]) == ["d1", "d2"]
    assert_commutes("Clip", inputs)


def test_dropout():
    inputs = [array(2, 3), np.array(0.5, np.float32), np.array(False)]
    assert assert_commutes("Dropout", inputs, 2) == ["d1", "d2"]
    assert_outputs_covered("Dropout", inputs, 2)


def test_casts():
    assert_commutes("Cast", [array(2, 3)], to=int(DType.INT32))
    assert_commutes("BitCast", [array(2, 3)], to=int(DType.INT32))
    assert assert_commutes("CastLike", [array(2, 3), integers(4)]) == ["d0", "d1", "t0"]


# -- reductions

SUMS = ["ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare"]
OTHERS = ["ReduceProd", "ReduceMax", "ReduceMin", "ReduceLogSum", "ReduceLogSumExp"]


@pytest.mark.parametrize("op", SUMS + OTHERS)
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [(1,), (0, -1), (0, 1, 2)])
def test_reductions(op, keepdims, axes):
    inputs = [np.abs(array(3, 4, 5)), vector(*axes)]
    labels = assert_commutes(op, inputs, constant=[1], keepdims=keepdims)
    reduced = {a % 3 for a in axes}
    free = {f"d{d}" for d in range(3) if d not in reduced}
    assert set(labels) == free | ({f"r{d}" for d in reduced} if op in SUMS else set())
    assert_outputs_covered(op, inputs, constant=[1], keepdims=keepdims)


@pytest.mark.parametrize("noop", [0, 1])
def test_reductions_without_axes(noop):
    labels = assert_commutes("ReduceSum", [array(3, 4)], noop_with_empty_axes=noop)
    assert labels == (["d0", "d1"] if noop else ["r0", "r1"])


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_arg(op, keepdims):
    assert assert_commutes(op, [array(3, 4, 5)], axis=1, keepdims=keepdims) == ["d0", "d2", "r1"]
    assert_outputs_covered(op, [array(3, 4, 5)], axis=1, keepdims=keepdims)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
def test_softmax(op):
    assert assert_commutes(op, [array(3, 4, 5)], axis=-2) == ["d0", "d2"]
    _, relation, _ = related(op, [array(3, 4, 5)], axis=-2)
    assert relation.frozen == {"d1": f"{op} over this axis"}


def test_running_sums_and_top_k():
    assert assert_commutes("CumSum", [array(3, 4), np.array(1)], constant=[1]) == ["d0"]
    assert assert_commutes("TopK", [array(3, 4), vector(2)], 2, constant=[1]) == ["chosen", "d0"]
    assert_outputs_covered("TopK", [array(3, 4), vector(2)], 2, constant=[1])
    _, node = graph_of("CumSum", [array(3, 4), np.array(1)])
    assert record_of(node).relate(node) is None  # the axis is not known


# -- quantization


def quantized(op, data, *parameters, **attributes):
    scale, zero = parameters
    return assert_commutes(op, [data, np.abs(scale) + 0.1, zero], **attributes)


@pytest.mark.parametrize("op", ["QuantizeLinear", "DequantizeLinear"])
def test_granularities(op):
    data = array(4, 6) if op == "QuantizeLinear" else integers(4, 6, dtype=np.int8)
    assert quantized(op, data, array(), integers(dtype=np.int8)) == ["d0", "d1"]
    assert quantized(op, data, array(1), integers(1, dtype=np.int8)) == ["d0", "d1"]
    for axis, size in ((0, 4), (1, 6), (-1, 6)):
        assert quantized(op, data, array(size), integers(size, dtype=np.int8), axis=axis) == ["d0", "d1"]
    labels = quantized(op, data, array(4, 2), integers(4, 2, dtype=np.int8), axis=1, block_size=3)
    assert labels == ["blocks", "d0", "inner"]
    labels = quantized(op, data, array(4, 2), integers(4, 2, dtype=np.int8), axis=1, block_size=4)
    assert labels == ["d0"]  # the last block is shorter: no index can go without shifting the others


def test_a_scale_stays_where_its_channels_have_no_number():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, (2, "c")))
    scale = graph.add_constant(torch.ones(3))
    node = graph.append(Node("QuantizeLinear", [x, scale]))
    node.output.type = record_of(node).infer(node)[0]
    relation = record_of(node).relate(node)
    assert set(relation.axes) == {(x, 0), (node.output, 0)}


def test_dynamic_quantize():
    assert assert_commutes("DynamicQuantizeLinear", [array(3, 4)], 3) == ["d0", "d1"]


@pytest.mark.parametrize("per_channel", [False, True])
def test_convolutions(per_channel):
    x, w = integers(2, 4, 5, 5, dtype=np.uint8), integers(6, 2, 3, 3, dtype=np.int8)
    zero = np.zeros((), np.uint8)
    shape = (6,) if per_channel else (1,)
    inputs = [x, w, zero, integers(*shape, dtype=np.int8)]
    assert assert_commutes("ConvInteger", inputs, group=2) == ["g", "i", "n", "o"]
    scale, one = np.abs(array(*shape)), np.array(1, np.float32)
    inputs = [x, one, zero, w, scale, integers(*shape, dtype=np.int8), np.array(9, np.float32), zero,
              integers(6, dtype=np.int32)]  # fmt: skip
    assert assert_commutes("QLinearConv", inputs, group=2) == ["g", "i", "n", "o"]


@pytest.mark.parametrize("fine", [False, True])
def test_products(fine):
    a, b, zero = integers(2, 3, 4, dtype=np.uint8), integers(4, 5, dtype=np.int8), np.zeros((), np.uint8)
    shape = (5,) if fine else ()
    inputs = [a, b, zero, integers(*shape, dtype=np.int8)]
    assert assert_commutes("MatMulInteger", inputs) == ["k", "m", "n", "~1"]
    rows = (2, 3, 1) if fine else ()
    inputs = [a, np.abs(array(*rows)), zero, b, np.abs(array(*shape)), integers(*shape, dtype=np.int8),
              np.array(9, np.float32), zero]  # fmt: skip
    assert assert_commutes("QLinearMatMul", inputs) == ["k", "m", "n", "~1"]


def test_zero_points_per_row():
    a, b = integers(3, 4, dtype=np.uint8), integers(4, 5, dtype=np.int8)
    node, relation, _ = related("MatMulInteger", [a, b, integers(3, dtype=np.uint8)])
    assert relation.axes[node.inputs[2], 0] == relation.axes[node.output, 0]
