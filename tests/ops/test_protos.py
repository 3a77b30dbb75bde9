"""Tensors and types as messages, against onnx.numpy_helper."""

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from graphopt.errors import LoadError, SaveError
from graphopt.ir import UNKNOWN, DType, MapType, OptionalType, SequenceType, TensorType
from graphopt.ops.protos import pack, read_tensor, read_type, write_tensor, write_type

NUMERIC = [dtype for dtype in DType if dtype not in (DType.UNDEFINED, DType.STRING)]
VALUES = [0, 1, 2, 3, 1, 0, 1]


def wide(array):
    return np.asarray(array).astype(np.complex128)


def example(dtype, raw):
    np_dtype = helper.tensor_dtype_to_np_dtype(int(dtype))
    if raw:
        return numpy_helper.from_array(np.array(VALUES).astype(np_dtype).reshape(7, 1), "x")
    return helper.make_tensor("x", int(dtype), [7, 1], VALUES)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("dtype", NUMERIC, ids=str)
def test_every_element_type_reads_and_writes_as_onnx_does(dtype, raw):
    proto = example(dtype, raw)
    assert proto.HasField("raw_data") == raw or dtype.bits < 8
    data, read = read_tensor(proto)
    assert read is dtype
    assert data.dtype is dtype.torch
    want = wide(numpy_helper.to_array(proto))
    np.testing.assert_array_equal(data.to(torch.complex128).numpy(), want)
    np.testing.assert_array_equal(wide(numpy_helper.to_array(write_tensor(data, "x", dtype))), want)


@pytest.mark.parametrize("dtype", [DType.INT4, DType.INT2, DType.UINT4, DType.UINT2, DType.FLOAT4E2M1], ids=str)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
def test_every_code_of_a_narrow_type_survives(dtype, count):
    codes = 1 << dtype.bits
    everything = np.arange(256, dtype=np.uint8)
    proto = onnx.TensorProto(dims=[512 if codes == 16 else 1024], data_type=int(dtype), raw_data=everything.tobytes())
    data, _ = read_tensor(proto)
    np.testing.assert_array_equal(pack(data, dtype), everything)
    part = data[:count]
    again, _ = read_tensor(write_tensor(part, "", dtype))
    assert torch.equal(again, part)


def test_raw_data_is_shared_and_strided_tensors_are_written_in_order():
    data = torch.arange(6.0).reshape(2, 3).t()
    proto = write_tensor(data)
    np.testing.assert_array_equal(numpy_helper.to_array(proto), data.numpy())
    contiguous = data.contiguous()
    assert pack(contiguous, DType.FLOAT32).__array_interface__["data"][0] == contiguous.data_ptr()
    assert write_tensor(torch.tensor(3, dtype=torch.int64)).dims == []


def test_strings_keep_bytes_that_are_no_text():
    proto = onnx.TensorProto(dims=[2], data_type=onnx.TensorProto.STRING, string_data=["é".encode(), b"\xff\xfe"])
    data, dtype = read_tensor(proto)
    assert dtype is DType.STRING
    assert list(data) == ["é", b"\xff\xfe"]
    assert list(write_tensor(data).string_data) == list(proto.string_data)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dims": [2], "data_type": 1, "raw_data": b"1234"}, "has 4 bytes of data, float32[2] takes 8"),
        ({"dims": [2], "data_type": 1}, "has no data"),
        ({"dims": [-2], "data_type": 1, "raw_data": b"12345678"}, "negative dimension"),
        ({"dims": [1], "data_type": 99, "raw_data": b"1"}, "element type 99"),
        ({"dims": [1], "raw_data": b"1"}, "no element type"),
        ({"dims": [3], "data_type": 1, "float_data": [1.0]}, "has 4 bytes of data, float32[3] takes 12"),
        ({"dims": [3], "data_type": 8, "string_data": [b"a"]}, "has 1 strings"),
        ({"dims": [1 << 40, 1 << 40], "data_type": 1, "raw_data": b"1"}, "takes"),
    ],
)
def test_malformed_tensors_are_refused(fields, message):
    with pytest.raises(LoadError, match="tensor 'w'") as raised:
        read_tensor(onnx.TensorProto(name="w", **fields))
    assert message in str(raised.value)


def test_a_tensor_without_data_is_not_written():
    with pytest.raises(SaveError, match="meta"):
        pack(torch.empty(2, device="meta"), DType.FLOAT32)


@pytest.mark.parametrize(
    "kind",
    [
        TensorType.make(DType.FLOAT32, (1, "n", None, "2*n + 1", 0)),
        TensorType(DType.INT4),
        TensorType(DType.INT64, ()),
        TensorType(DType.FLOAT16, (3, 4), sparse=True),
        SequenceType(OptionalType(TensorType.make(DType.STRING, ("n",)))),
        MapType(DType.INT64, SequenceType(TensorType(DType.FLOAT64))),
    ],
    ids=str,
)
def test_types_survive(kind):
    assert read_type(write_type(kind)) == kind


def test_odd_dimensions():
    proto = helper.make_tensor_type_proto(1, [-1, None, "batch size", "3*n"])
    kind = read_type(proto)
    assert kind.shape[:2] == (None, None)
    assert read_type(write_type(kind)) == kind
    assert read_type(onnx.TypeProto()) == UNKNOWN
    with pytest.raises(LoadError, match="element type 77"):
        read_type(helper.make_tensor_type_proto(77, [1]))
