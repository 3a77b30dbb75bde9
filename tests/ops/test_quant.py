"""Quantization against ONNX Runtime, and against onnx.reference where it has no kernel."""

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator

from graphopt.errors import ShapeError
from graphopt.ir import DType, Graph, Node, TensorType
from graphopt.ops import execute, record_of
from graphopt.ops.quant import dequantize, dynamic_quantize, quantize
from tests.ops.oracle import check, graph_of, onnx_model, run_onnx

RNG = np.random.default_rng(0)
NARROW = {
    DType.INT4: ml_dtypes.int4, DType.UINT4: ml_dtypes.uint4, DType.INT2: ml_dtypes.int2, DType.UINT2: ml_dtypes.uint2,
    DType.FLOAT8E4M3FN: ml_dtypes.float8_e4m3fn, DType.FLOAT8E5M2: ml_dtypes.float8_e5m2,
    DType.FLOAT4E2M1: ml_dtypes.float4_e2m1fn,
}  # fmt: skip


def array(*shape, dtype=np.float32):
    return (3 * RNG.standard_normal(shape)).astype(dtype)


def scale(*shape, dtype=np.float32):
    return np.asarray(RNG.random(shape) * 0.1 + 0.01).astype(dtype)


def points(shape, dtype):
    info = np.iinfo(dtype)
    low, high = max(info.min, -100), min(info.max, 100)
    return np.asarray(RNG.integers(low, high, shape)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
@pytest.mark.parametrize("source", [np.float32, np.float16])
def test_quantize_per_tensor(dtype, source):
    x = array(3, 4, 5, dtype=source)
    x[0, 0, :2] = [1e4, -1e4]
    check("QuantizeLinear", [x, scale(dtype=source), points((), dtype)], symbolic={0: ("n", 4, "w")}, atol=1)
    check("QuantizeLinear", [x, scale(dtype=source)], atol=1)


def test_quantize_rounds_half_to_even_before_the_zero_point():
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)
    (got,) = check("QuantizeLinear", [x, np.array(1, np.float32), np.array(1, np.int8)])
    assert got.tolist() == [1, 3, 3, 1, -1]


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_per_axis(axis, dtype):
    x, size = array(3, 4, 5), (3, 4, 5)[axis]
    s, z = scale(size), points((size,), dtype)
    symbolic = {0: tuple("abc")}
    (quantized,) = check("QuantizeLinear", [x, s, z], symbolic=symbolic, axis=axis)
    (back,) = check("DequantizeLinear", [quantized.numpy(), s, z], symbolic=symbolic, axis=axis)
    assert back.dtype == torch.float32


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("block", [2, 3])
def test_blocked(axis, block):
    x = array(4, 6)
    shape = [4, 6]
    shape[axis] = -(-shape[axis] // block)
    s, z = scale(*shape), points(shape, np.int8)
    reference = bool((4, 6)[axis] % block)
    (quantized,) = check("QuantizeLinear", [x, s, z], reference=reference, axis=axis, block_size=block)
    check("DequantizeLinear", [quantized.numpy(), s, z], reference=reference, axis=axis, block_size=block)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
@pytest.mark.parametrize("result", [np.float32, np.float16])
def test_dequantize_per_tensor(dtype, result):
    x = points((3, 4), dtype)
    rtol = 1e-2 if result == np.float16 else 1e-6
    check("DequantizeLinear", [x, scale(dtype=result), points((), dtype)], symbolic={0: ("n", 4)}, rtol=rtol)
    check("DequantizeLinear", [x, scale(dtype=result)], rtol=rtol)


def test_dequantize_int32_bias():
    check("DequantizeLinear", [RNG.integers(-(10**6), 10**6, 5).astype(np.int32), scale(5)], axis=0)


def test_output_dtype_of_dequantize():
    x = points((3, 4), np.int8)
    check("DequantizeLinear", [x, scale()], reference=True, output_dtype=int(DType.FLOAT16), rtol=1e-2)


def test_precision():
    # float16 division overflows where float32 does not
    x = torch.tensor([60000.0])
    got = quantize(x, torch.tensor(0.5), output_dtype=int(DType.UINT16), precision=int(DType.FLOAT16))
    assert got.item() == 65535
    assert quantize(torch.tensor([3.3]), torch.tensor(0.1, dtype=torch.float16), precision=1).item() == 33


def reference(op, x, s, z, source, target, **attributes):
    """The result of onnx.reference for element types that numpy does not have itself."""
    inputs = {"x": x.astype(source), "s": s} | ({} if z is None else {"z": z.astype(target)})
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()
    ]
    node = helper.make_node(op, list(inputs), ["y"], **attributes)
    graph = helper.make_graph([node], "g", infos, [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)])
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(model).run(None, inputs)[0].astype(np.float32)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_narrow_types(dtype, axis):
    x, shape = array(4, 6), () if axis is None else ((4, 6)[axis],)
    s, theirs = np.asarray(scale(*shape) * 10), NARROW[dtype]
    zero = np.ones(shape, np.int8) if dtype.is_integer else None
    attributes = {"output_dtype": int(dtype), **({} if axis is None else {"axis": axis})}
    want = reference("QuantizeLinear", x, s, zero, np.float32, theirs, **attributes)
    z = None if zero is None else torch.from_numpy(zero).to(dtype.torch)
    got = quantize(torch.from_numpy(x), torch.from_numpy(s), z, **attributes)
    assert got.dtype == dtype.torch
    np.testing.assert_array_equal(got.float().numpy(), want)
    attributes.pop("output_dtype")
    want = reference("DequantizeLinear", got.float().numpy(), s, zero, theirs, theirs, **attributes)
    np.testing.assert_allclose(dequantize(got, torch.from_numpy(s), z, **attributes).numpy(), want, rtol=1e-6)


@pytest.mark.parametrize("dtype", [DType.FLOAT8E4M3FN, DType.FLOAT8E5M2])
def test_float8_without_saturation(dtype):
    x = np.array([1e6, -1e6, 1.0, np.inf, np.nan], np.float32)
    one = np.array(1, np.float32)
    want = reference("QuantizeLinear", x, one, None, np.float32, NARROW[dtype], output_dtype=int(dtype), saturate=0)
    got = quantize(torch.from_numpy(x), torch.from_numpy(one), output_dtype=int(dtype), saturate=0)
    np.testing.assert_array_equal(got.float().numpy(), want)


def test_a_narrow_zero_point_tells_the_output_type():
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.FLOAT32, (2,)))
    zero = graph.add_constant(torch.tensor(1, dtype=torch.int8), dtype=DType.INT4)
    inputs = [x, graph.add_constant(torch.tensor(0.5)), zero]
    node = graph.append(Node("QuantizeLinear", inputs))
    assert record_of(node).infer(node) == [TensorType(DType.INT4, (2,))]
    (got,) = execute(node, [torch.tensor([-10.0, 10.0]), torch.tensor(0.5), zero.data])
    assert got.tolist() == [-8, 7]
    node = graph.append(Node("QuantizeLinear", inputs, {"output_dtype": 22}))
    assert record_of(node).infer(node) == [TensorType(DType.INT4, (2,))]
    node = graph.append(Node("QuantizeLinear", inputs, {"output_dtype": 2}))
    with pytest.raises(ShapeError, match="output_dtype is uint8, but the zero point is int4"):
        record_of(node).infer(node)


@pytest.mark.parametrize(("shape", "attributes"), [((5,), {}), ((3, 4), {}), ((3, 3), {"block_size": 2})])
def test_scales_that_fit_nothing(shape, attributes):
    _, node = graph_of("QuantizeLinear", [array(3, 4), scale(*shape)], **attributes)
    with pytest.raises(ShapeError, match="scale or zero point has shape"):
        record_of(node).infer(node)


@pytest.mark.parametrize("shift", [0, 10, -10, 3])
def test_dynamic_quantize(shift):
    check("DynamicQuantizeLinear", [array(3, 40) + np.float32(shift)], 3, symbolic={0: ("n", 40)})


def test_dynamic_quantize_where_two_halves_round_up():
    # 1 / (2 / 255) is 127.5, as the zero point is: both round to 128, and 256 is no byte.
    check("DynamicQuantizeLinear", [np.array([-1, 0, 1], np.float32)], 3)


def test_dynamic_quantize_of_zeros():
    check("DynamicQuantizeLinear", [np.zeros((2, 3), np.float32)], 3)
    assert dynamic_quantize(torch.zeros(3))[0].tolist() == [0, 0, 0]


# -- convolutions and products

BYTES = [(np.uint8, np.uint8), (np.uint8, np.int8), (np.int8, np.int8)]


@pytest.mark.parametrize(("left", "right"), BYTES)
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("attributes", [{}, {"pads": [1, 0, 2, 1]}, {"strides": [2, 2], "auto_pad": "SAME_UPPER"}])
def test_conv_integer(left, right, group, attributes):
    x, w = points((2, 4, 7, 6), left), points((6, 4 // group, 3, 3), right)
    use_reference = left == np.int8  # ONNX Runtime: uint8 inputs only
    inputs = [x, w] if use_reference else [x, w, np.asarray(points((), left)), np.asarray(points((), right))]
    symbolic = {0: ("n", 4, "h", "w")}
    if use_reference:
        _, node = graph_of("ConvInteger", inputs, group=group, **attributes)
        (got,) = execute(node, [torch.from_numpy(x), torch.from_numpy(w)])
        _, plain = graph_of("Conv", [x.astype(np.float64), w.astype(np.float64)], group=group, **attributes)
        (want,) = execute(plain, [torch.from_numpy(x).double(), torch.from_numpy(w).double()])
        assert torch.equal(got.double(), want)
        return
    check("ConvInteger", inputs, symbolic=symbolic, group=group, **attributes)


def test_conv_integer_with_a_zero_point_per_channel():
    x, w, z = points((1, 2, 5), np.uint8), points((3, 2, 2), np.int8), points((3,), np.int8)
    _, node = graph_of("ConvInteger", [x, w, None, z])
    (got,) = execute(node, [torch.from_numpy(x), torch.from_numpy(w), None, torch.from_numpy(z)])
    shifted = w.astype(np.int64) - z[:, None, None]
    want = np.stack([[(x[0, :, i : i + 2] * shifted[m]).sum() for i in range(4)] for m in range(3)])
    np.testing.assert_array_equal(got[0].numpy(), want)


def check_requantized(op, inputs, symbolic, **attributes):
    """As `check`; rounding may differ by one here and there, because ONNX Runtime multiplies in float32."""
    (got,) = check(op, inputs, atol=1, symbolic=symbolic, **attributes)
    (want,) = run_onnx(onnx_model(op, inputs, 1, **attributes), inputs)
    assert (got.numpy() != want).mean() < 0.02
    assert len(got.unique()) > 40


@pytest.mark.parametrize(("left", "right"), BYTES)
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_qlinear_conv(left, right, per_channel, bias):
    x, w = points((2, 4, 7, 6), left), points((6, 4, 3, 3), right)
    shape = (6,) if per_channel else ()
    x_scale, w_scale, x_zero = scale(), np.full(shape, 0.05, np.float32), np.asarray(x.mean().round().astype(left))
    y_scale = np.asarray(x_scale * np.float32(0.05 * 300))
    inputs = [x, x_scale, x_zero, w, w_scale, np.zeros(shape, right), y_scale, np.asarray(points((), left))]
    if bias:
        inputs.append(RNG.integers(-5000, 5000, 6).astype(np.int32))
    check_requantized("QLinearConv", inputs, {0: ("n", 4, "h", "w")}, pads=[1, 1, 1, 1])


@pytest.mark.parametrize(("left", "right"), BYTES)
@pytest.mark.parametrize("shapes", [((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5))])
def test_matmul_integer(left, right, shapes):
    a, b = points(shapes[0], left), points(shapes[1], right)
    check("MatMulInteger", [a, b])
    check("MatMulInteger", [a, b, np.asarray(points((), left)), np.asarray(points((), right))])
    column = points((5,), right)
    check("MatMulInteger", [a, b, np.asarray(points((), left)), column], reference=len(shapes[1]) > 2)


def test_matmul_integer_with_zero_points_per_row():
    a, b, z = points((3, 4), np.uint8), points((4, 5), np.int8), points((3,), np.uint8)
    _, node = graph_of("MatMulInteger", [a, b, z])
    (got,) = execute(node, [torch.from_numpy(v) for v in (a, b, z)])
    np.testing.assert_array_equal(got.numpy(), (a.astype(np.int32) - z[:, None]) @ b.astype(np.int32))


@pytest.mark.parametrize(("left", "right"), BYTES)
@pytest.mark.parametrize("per_column", [False, True])
def test_qlinear_matmul(left, right, per_column):
    a, b = points((4, 9, 14), left), points((14, 15), right)
    shape = (15,) if per_column else ()
    a_scale, a_zero = scale(), np.asarray(a.mean().round().astype(left))
    y_scale = np.asarray(a_scale * np.float32(0.05 * 100))
    parameters = [y_scale, np.array(20, left)]
    inputs = [a, a_scale, a_zero, b, np.full(shape, 0.05, np.float32), np.zeros(shape, right), *parameters]
    check_requantized("QLinearMatMul", inputs, {0: ("n", 9, 14)})


def test_multiply_accumulates():
    _, node = graph_of("QLinearConv", [points((2, 4, 7, 6), np.uint8), scale(), points((), np.uint8),
                                       points((6, 4, 3, 3), np.int8), scale(), points((), np.int8), scale(),
                                       points((), np.uint8)])  # fmt: skip
    node.output.type = record_of(node).infer(node)[0]
    assert record_of(node).macs(node) == 2 * 6 * 5 * 4 * 4 * 9
    _, node = graph_of("MatMulInteger", [points((2, 3, 4), np.uint8), points((4, 5), np.int8)])
    node.output.type = record_of(node).infer(node)[0]
    assert record_of(node).macs(node) == 2 * 3 * 4 * 5
