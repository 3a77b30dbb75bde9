"""Conversions against ONNX Runtime, and against onnx.reference (ml_dtypes) for narrow types."""

import ml_dtypes
import numpy as np
import pytest
import torch
from onnx import numpy_helper

from graphopt.errors import ShapeError, UnsupportedOperatorError
from graphopt.ir import DType, Graph, Node, TensorType
from graphopt.ops import execute, record_of
from graphopt.ops.cast import bit_cast, cast, cast_like
from tests.ops.oracle import check, graph_of

RNG = np.random.default_rng(0)
TYPES = {"FLOAT32": np.float32, "FLOAT64": np.float64, "FLOAT16": np.float16, "INT32": np.int32, "INT64": np.int64,
         "INT8": np.int8, "UINT8": np.uint8, "BOOL": bool, "UINT16": np.uint16, "INT16": np.int16}  # fmt: skip
WIDE = np.concatenate([
    np.array([0, -0.0, 1, -1, 0.3, 448, 449, 464, 465, 480, 500, -500, 240, 247, 248, 249, 57344, 61439, 61440, 7e4,
              -7e4, 1e-3, 2e-9, np.inf, -np.inf, np.nan], np.float32),
    (100 * RNG.standard_normal(200)).astype(np.float32), RNG.standard_normal(200).astype(np.float32),
])  # fmt: skip
FLOAT8 = {
    DType.FLOAT8E4M3FN: ml_dtypes.float8_e4m3fn,
    DType.FLOAT8E4M3FNUZ: ml_dtypes.float8_e4m3fnuz,
    DType.FLOAT8E5M2: ml_dtypes.float8_e5m2,
    DType.FLOAT8E5M2FNUZ: ml_dtypes.float8_e5m2fnuz,
}


@pytest.mark.parametrize("source", TYPES)
@pytest.mark.parametrize("target", TYPES)
def test_cast(source, target):
    x = np.asarray(5 * RNG.random((3, 4)) + (0 if source.startswith("U") or target.startswith("U") else -2))
    check("Cast", [x.astype(TYPES[source])], symbolic={0: ("n", 4)}, to=int(DType[target]))


def test_integers_wrap():
    check("Cast", [np.array([200, -1, 300, -200], np.int64)], to=int(DType.INT8))


def test_floats_truncate_and_are_true_unless_zero():
    check("Cast", [np.array([1.9, -1.9, 0.5, -0.5], np.float32)], to=int(DType.INT32))
    check("Cast", [np.array([1.9, -0.0, 0.5, np.nan, np.inf], np.float32)], to=int(DType.BOOL))


@pytest.mark.parametrize("dtype", FLOAT8)
@pytest.mark.parametrize("source", [torch.float32, torch.float16])
def test_float8_saturating(dtype, source):
    x = torch.from_numpy(WIDE).to(source)
    with np.errstate(invalid="ignore", over="ignore"):
        want = numpy_helper.saturate_cast(x.numpy().astype(np.float32), np.dtype(FLOAT8[dtype])).astype(np.float32)
    np.testing.assert_array_equal(cast(x, to=int(dtype)).float().numpy(), want)


@pytest.mark.parametrize("dtype", FLOAT8)
def test_float8_overflowing(dtype):
    with np.errstate(invalid="ignore", over="ignore"):
        want = WIDE.astype(FLOAT8[dtype]).astype(np.float32)
    np.testing.assert_array_equal(cast(torch.from_numpy(WIDE), to=int(dtype), saturate=0).float().numpy(), want)


@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
@pytest.mark.parametrize("saturate", [0, 1])
def test_float8e8m0(mode, saturate):
    x = np.abs(np.concatenate([WIDE, [3e38, 1e-38, 1e-45, 1.5, 0.75, 3.0]])).astype(np.float32)
    want = numpy_helper.to_float8e8m0(x, bool(saturate), mode).view(np.uint8)
    got = cast(torch.from_numpy(x), to=int(DType.FLOAT8E8M0), saturate=saturate, round_mode=mode)
    np.testing.assert_array_equal(got.view(torch.uint8).numpy(), want)


def test_float4():
    x = np.concatenate([np.linspace(-8, 8, 129), [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, np.inf]]).astype(np.float32)
    want = x.astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    np.testing.assert_array_equal(cast(torch.from_numpy(x), to=int(DType.FLOAT4E2M1)).numpy(), want)


@pytest.mark.parametrize(
    ("dtype", "theirs"),
    [(DType.INT4, ml_dtypes.int4), (DType.UINT4, ml_dtypes.uint4), (DType.INT2, ml_dtypes.int2),
     (DType.UINT2, ml_dtypes.uint2)],
)  # fmt: skip
def test_narrow_integers_keep_the_low_bits(dtype, theirs):
    x = np.arange(-20, 20, dtype=np.int32)
    got = cast(torch.from_numpy(x), to=int(dtype))
    assert got.dtype == dtype.torch
    np.testing.assert_array_equal(got.numpy(), x.astype(theirs).astype(got.numpy().dtype))


@pytest.mark.parametrize("target", [np.float64, np.int32, bool])
def test_cast_like(target):
    check("CastLike", [np.array([[1.5, 0, -2]], np.float32), np.zeros((5,), target)], symbolic={0: ("n", 3)})
    assert cast_like(torch.tensor([1e6]), torch.zeros(1, dtype=torch.float8_e5m2)).float().item() == 57344


@pytest.mark.parametrize(
    ("source", "target"),
    [(np.float32, "INT32"), (np.float64, "INT64"), (np.int32, "FLOAT32"), (np.int8, "UINT8"), (np.uint16, "FLOAT16")],
)
def test_bit_cast(source, target):
    x = RNG.integers(0, 100, (3, 4)).astype(source)
    check("BitCast", [x], reference=True, symbolic={0: ("n", 4)}, to=int(DType[target]))


def test_bit_cast_of_narrow_integers():
    assert bit_cast(torch.tensor([-1, 7, -8], dtype=torch.int8), to=int(DType.UINT4)).tolist() == [15, 7, 8]
    assert bit_cast(torch.tensor([15, 7, 8], dtype=torch.uint8), to=int(DType.INT4)).tolist() == [-1, 7, -8]
    with pytest.raises(UnsupportedOperatorError, match="float4e2m1"):
        bit_cast(torch.tensor([1], dtype=torch.uint8), to=int(DType.FLOAT4E2M1))


def test_bit_cast_needs_equal_widths():
    _, node = graph_of("BitCast", [np.zeros(3, np.float32)], to=int(DType.INT64))
    with pytest.raises(ShapeError, match="differ in width"):
        record_of(node).infer(node)


def test_numbers_to_strings():
    x = np.array([1.5, 3.14159274, 1e-7, 1e20, np.nan, np.inf, -np.inf, 0], np.float32)
    written = cast(torch.from_numpy(x), to=int(DType.STRING))
    assert written.dtype == object
    assert written.tolist() == ["1.5", "3.1415927", "1e-07", "1e+20", "NaN", "INF", "-INF", "0.0"]
    assert cast(torch.tensor([[1, -2]]), to=int(DType.STRING)).tolist() == [["1", "-2"]]
    assert cast(torch.tensor([True, False]), to=int(DType.STRING)).tolist() == ["1", "0"]
    assert cast(torch.tensor(0.1, dtype=torch.bfloat16), to=int(DType.STRING)).item().startswith("0.1")


def test_strings_to_numbers():
    x = np.array([["3.14", "1e-5"], ["INF", "-inf"]], dtype=object)
    got = cast(x, to=int(DType.FLOAT32))
    np.testing.assert_array_equal(got.numpy(), np.array([[3.14, 1e-5], [np.inf, -np.inf]], np.float32))
    assert cast(np.array(["9007199254740993"], dtype=object), to=int(DType.INT64)).tolist() == [2**53 + 1]
    assert cast(np.array(["18446744073709551615"], dtype=object), to=int(DType.UINT64)).tolist() == [2**64 - 1]
    assert cast_like(np.array(["2.5"], dtype=object), torch.zeros(1, dtype=torch.float16)).tolist() == [2.5]
    assert cast_like(torch.tensor([2]), np.array(["x"], dtype=object)).tolist() == ["2"]


@pytest.mark.parametrize(
    ("kind", "expected"), [(DType.INT4, [-7, 7]), (DType.FLOAT4E2M1, [6, 6]), (DType.INT8, [9, 7])]
)
def test_cast_like_a_type_that_its_carrier_does_not_tell(kind, expected):
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.FLOAT32, (2,)))
    target = graph.add_input("t", TensorType(kind, (1,)))
    node = graph.append(Node("CastLike", [x, target]))
    (got,) = execute(node, [torch.tensor([9.0, 7.0]), torch.zeros(1, dtype=kind.torch)])
    assert got.tolist() == expected
    assert record_of(node).infer(node) == [TensorType(kind, (2,))]


def test_type_of_a_narrow_cast():
    graph = Graph()
    node = graph.append(Node("Cast", [graph.add_input("x", TensorType.make(DType.FLOAT32, ("n", 2)))], {"to": 22}))
    (kind,) = record_of(node).infer(node)
    assert kind == TensorType.make(DType.INT4, ("n", 2))
