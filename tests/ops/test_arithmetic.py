"""Arithmetic, comparisons and selection with broadcasting against ONNX Runtime."""

import numpy as np
import pytest
import torch

from graphopt.errors import OptionError, ShapeError
from graphopt.ops import execute, record_of
from tests.ops.oracle import check, graph_of

RNG = np.random.default_rng(0)
PAIRS = [((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (4,)), ((3, 1), (1, 4)), ((), (2, 3)), ((2, 3), ()), ((), ()),
         ((0, 3), (1, 3)), ((1, 1, 2), (3, 1))]  # fmt: skip


def sample(shape, dtype, low=-9, high=9):
    if np.issubdtype(dtype, np.floating):
        return np.asarray(3 * RNG.standard_normal(shape)).astype(dtype)
    if dtype is bool:
        return np.asarray(RNG.integers(0, 2, shape)).astype(bool)
    return np.asarray(RNG.integers(0 if np.issubdtype(dtype, np.unsignedinteger) else low, high, shape)).astype(dtype)


def nonzero(x):
    return np.where(x == 0, np.ones_like(x), x)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64, np.float16])
def test_dtypes(op, dtype):
    x, y = sample((3, 4), dtype), sample((4,), dtype)
    loose = {"rtol": 1e-2, "atol": 1e-2} if dtype == np.float16 else {}
    check(op, [x, nonzero(y) if op == "Div" else y], symbolic={0: ("n", 4)}, **loose)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Max", "Min", "Less", "Equal", "Pow"])
@pytest.mark.parametrize(("left", "right"), PAIRS)
def test_broadcasting(op, left, right):
    x, y = sample(left, np.float32), sample(right, np.float32)
    check(op, [np.asarray(np.abs(x)) if op == "Pow" else x, y])


def test_symbolic_dimensions_that_agree_stay():
    check(
        "Add",
        [sample((2, 3, 4), np.float32), sample((2, 1, 4), np.float32)],
        symbolic={0: ("n", "c", 4), 1: ("n", 1, 4)},
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_bytes(dtype):
    x, y = sample((3, 4), dtype), nonzero(sample((3, 4), dtype))
    for op in ("Add", "Sub", "Mul", "Div"):
        check(op, [x, y], reference=op != "Div")


def test_integer_division_truncates():
    (got,) = check("Div", [np.array([7, -7, 7, -7], np.int64), np.array([2, 2, -2, -2], np.int64)])
    assert got.tolist() == [3, -3, -3, 3]


def test_division_of_floats_by_zero():
    x = np.array([1, -1, 0, np.nan, np.inf], np.float32)
    check("Div", [x, np.zeros(5, np.float32)])


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.int8, np.uint8])
@pytest.mark.parametrize("fmod", [0, 1])
def test_integer_modulo(dtype, fmod):
    check("Mod", [sample((4, 5), dtype), nonzero(sample((4, 5), dtype))], fmod=fmod)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_modulo(dtype):
    check("Mod", [sample((4, 5), dtype), nonzero(sample((5,), dtype))], fmod=1)


@pytest.mark.parametrize(
    ("base", "exponent"),
    [(np.float32, np.float32), (np.float64, np.float64), (np.int32, np.int32), (np.int64, np.int64),
     (np.float32, np.int64), (np.int32, np.float32)],
)  # fmt: skip
def test_pow_keeps_the_type_of_the_base(base, exponent):
    x = np.array([1, 2, 3, 4], base)
    check("Pow", [x, np.array([0, 1, 2, 3], exponent)])


@pytest.mark.parametrize("op", ["Max", "Min", "Sum", "Mean"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_variadic(op, count):
    shapes = [(2, 3), (3,), (2, 1), ()]
    check(op, [sample(s, np.float32) for s in shapes[:count]])


@pytest.mark.parametrize("op", ["Max", "Min"])
def test_nan_wins(op):
    check(op, [np.array([np.nan, 1, np.nan], np.float32), np.array([1, np.nan, np.nan], np.float32)])


@pytest.mark.parametrize("op", ["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64])
def test_comparisons(op, dtype):
    x, y = sample((5, 6), dtype), sample((6,), dtype)
    x[0] = y
    check(op, [x, y], symbolic={0: ("n", 6)})


@pytest.mark.parametrize("op", ["Equal", "Less", "GreaterOrEqual"])
def test_comparisons_with_nan(op):
    check(op, [np.array([np.nan, 1, np.nan], np.float32), np.array([1, np.nan, np.nan], np.float32)])


@pytest.mark.parametrize("op", ["And", "Or", "Xor", "Equal"])
def test_truth_values(op):
    check(op, [sample((3, 4), bool), sample((4,), bool)], symbolic={0: ("n", 4)})


def test_not():
    check("Not", [sample((3, 4), bool)])


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_bits(dtype):
    x, y = sample((3, 4), dtype), sample((4,), dtype)
    for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
        check(op, [x, y])
    check("BitwiseNot", [x])


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_bit_shift(direction, dtype):
    top = np.iinfo(dtype).max
    x = np.array([0, 1, 77, top, top // 2 + 1, top], dtype)
    check("BitShift", [x, np.array([1, 3, 2, 0, 1, 5], dtype)], reference=dtype == np.uint16, direction=direction)


def test_bit_shift_direction():
    _, node = graph_of("BitShift", [np.array([1], np.uint8)] * 2, direction="UP")
    with pytest.raises(OptionError, match="'UP'"):
        execute(node, [torch.tensor([1], dtype=torch.uint8)] * 2)


@pytest.mark.parametrize("attributes", [{}, {"detect_negative": 0}, {"detect_positive": 0}])
def test_is_inf(attributes):
    check("IsInf", [np.array([1, np.inf, -np.inf, np.nan], np.float32)], **attributes)
    x = torch.tensor([1, torch.inf, -torch.inf])
    _, node = graph_of("IsInf", [x.numpy()], detect_negative=0, detect_positive=0)
    assert not execute(node, [x])[0].any()


def test_is_nan():
    check("IsNaN", [np.array([1, np.inf, np.nan], np.float32)], symbolic={0: ("n",)})


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8, bool])
def test_where(dtype):
    check("Where", [sample((3, 1), bool), sample((4,), dtype), sample((2, 3, 1), dtype)],
          symbolic={2: ("n", 3, 1)}, reference=dtype is bool)  # fmt: skip


def test_clashing_element_types_are_named():
    _, node = graph_of("Add", [np.zeros(3, np.float32), np.zeros(3, np.int64)])
    with pytest.raises(ShapeError, match="float32 and int64"):
        record_of(node).infer(node)


def test_clashing_shapes_are_named():
    _, node = graph_of("Mul", [np.zeros(3, np.float32), np.zeros(4, np.float32)])
    with pytest.raises(ShapeError, match=r"\[3, 4\] do not broadcast"):
        record_of(node).infer(node)
