"""ONNX Runtime's quantized operators against ONNX Runtime."""

import numpy as np
import onnx
import onnx.helper as oh
import pytest

from graphopt.analysis import propagate
from graphopt.frontends import load
from graphopt.runtime import run
from graphopt.runtime.ort import OrtSession
from tests.ops.masking import check_relation
from tests.ops.test_relations_elementwise import assert_commutes, related

RNG = np.random.default_rng(0)
SCALE = {name: np.float32(value) for name, value in (("a", 0.05), ("b", 0.03), ("y", 0.06))}
ZERO = {name: np.uint8(value) for name, value in (("a", 120), ("b", 3), ("y", 100))}


def u8(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def check(op, inputs, outputs=1, atol=1, **attributes):
    """Runs one node whose inputs are all constants but the first; `atol` in steps of the output's type."""
    names = ["" if array is None else f"i{i}" for i, array in enumerate(inputs)]
    node = oh.make_node(op, names, [f"o{i}" for i in range(outputs)], domain="com.microsoft", **attributes)
    first = names[0] if op != "QLinearConcat" else names[2]
    stored = [
        onnx.numpy_helper.from_array(a, n) for n, a in zip(names, inputs, strict=True) if a is not None and n != first
    ]
    given = inputs[names.index(first)]
    info = oh.make_tensor_value_info(first, oh.np_dtype_to_tensor_dtype(given.dtype), given.shape)
    unknown = [oh.make_value_info(f"o{i}", onnx.TypeProto()) for i in range(outputs)]
    for each in unknown:
        each.type.tensor_type.elem_type = oh.np_dtype_to_tensor_dtype(np.dtype(np.float32 if atol < 1 else np.uint8))
    graph = oh.make_graph([node], "g", [info], unknown, stored)
    opsets = [oh.make_opsetid("", 18), oh.make_opsetid("com.microsoft", 1)]
    model = oh.make_model(graph, opset_imports=opsets, ir_version=10)
    loaded = load(model)
    propagate(loaded)
    got = run(loaded, [given])
    for mine, theirs, value in zip(got, OrtSession(model, optimize=False).run([given]), loaded.outputs, strict=True):
        assert tuple(value.shape) == theirs.shape
        assert value.dtype.name == theirs.dtype.name.upper()
        np.testing.assert_allclose(mine.numpy().astype(np.float64), theirs.astype(np.float64), atol=atol)


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_binary(op):
    a, b = u8(2, 3, 4), u8(3, 1)
    check(op, [a, SCALE["a"], ZERO["a"], b, SCALE["b"], ZERO["b"], SCALE["y"], ZERO["y"]])


@pytest.mark.parametrize(("op", "attributes"), [("QLinearSigmoid", {}), ("QLinearLeakyRelu", {"alpha": 0.2})])
def test_unary(op, attributes):
    check(op, [u8(2, 5), SCALE["a"], ZERO["a"], np.float32(1 / 256), np.uint8(0)], **attributes)


def test_pools():
    x = u8(1, 3, 6, 6)
    check("QLinearGlobalAveragePool", [x, SCALE["a"], ZERO["a"], SCALE["y"], ZERO["y"]], channels_last=0)
    attributes = {"kernel_shape": [2, 3], "strides": [2, 1], "pads": [0, 1, 0, 1]}
    check("QLinearAveragePool", [x, SCALE["a"], ZERO["a"], SCALE["y"], ZERO["y"]], **attributes)


def test_concat():
    check(
        "QLinearConcat",
        [SCALE["y"], ZERO["y"], u8(2, 3), SCALE["a"], ZERO["a"], u8(2, 4), SCALE["b"], ZERO["b"]],
        axis=1,
    )


@pytest.mark.parametrize("trans", [0, 1])
def test_gemm(trans):
    b = RNG.integers(-127, 128, (5, 8) if trans else (8, 5), dtype=np.int8)
    c = RNG.integers(-500, 500, 5, dtype=np.int32)
    scale = np.linspace(0.01, 0.05, 5, dtype=np.float32)
    inputs = [u8(3, 8), SCALE["a"], ZERO["a"], b, scale, np.zeros(5, np.int8), c]
    check("QGemm", [*inputs, np.float32(1.5), np.uint8(128)], transB=trans)
    check("QGemm", inputs, transB=trans, atol=1e-3)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", [False, True])
def test_matmul_nbits(bits, zeros):
    k, n, block = 40, 6, 16
    blocks = -(-k // block)
    scales = RNG.random((n, blocks)).astype(np.float32)
    points = u8(n, -(-blocks * bits // 8)) if zeros else None
    inputs = [RNG.standard_normal((2, 3, k)).astype(np.float32), u8(n, blocks, block * bits // 8), scales]
    inputs += [points] if zeros else []
    check("MatMulNBits", inputs, K=k, N=n, bits=bits, block_size=block, atol=5e-2 if bits == 8 else 1e-3)


# -- relations


def commutes(op, inputs, **attributes):
    """Removing an index everywhere it is labelled commutes with the operator; labels that may lose some."""
    return assert_commutes(op, inputs, domain="com.microsoft", **attributes)


NONE = np.uint8(0)  # the zero point of what loses indices: what is removed stands for zero


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_binary_relation(op):
    inputs = [u8(2, 3, 4), SCALE["a"], ZERO["a"], u8(3, 1), SCALE["b"], ZERO["b"], SCALE["y"], ZERO["y"]]
    assert commutes(op, inputs) == ["~1", "~2", "~3"]


def test_relations_of_one_operand():
    inputs = [u8(2, 3, 4, 4), SCALE["a"], ZERO["a"], np.float32(1 / 256), NONE]
    assert commutes("QLinearSigmoid", inputs) == ["~1", "~2", "~3", "~4"]
    assert commutes("QLinearAveragePool", inputs, kernel_shape=[2, 2]) == ["c", "n"]
    assert commutes("QLinearGlobalAveragePool", inputs, channels_last=0) == ["c", "n"]
    assert commutes("QLinearGlobalAveragePool", inputs, channels_last=1) == ["c", "n"]


def test_concat_relation():
    parts = [u8(2, 3), SCALE["a"], ZERO["a"], u8(2, 4), SCALE["b"], ZERO["b"]]
    _, relation, _ = related("QLinearConcat", [SCALE["y"], ZERO["y"], *parts], domain="com.microsoft", axis=1)
    assert [each.index for each in relation.selections] == [range(3), range(3, 7)]
    assert {axis.label for axes in relation.axes.values() for axis in axes} == {"d0"}


@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("trans", [0, 1])
def test_gemm_relation(trans, per_column):
    b = RNG.integers(-127, 128, (5, 8) if trans else (8, 5), dtype=np.int8)
    scale = np.linspace(0.01, 0.05, 5, dtype=np.float32) if per_column else SCALE["b"]
    zero = np.arange(5).astype(np.int8) if per_column else np.int8(3)
    inputs = [u8(3, 8), SCALE["a"], NONE, b, np.asarray(scale), zero, RNG.integers(-500, 500, 5, dtype=np.int32)]
    assert commutes("QGemm", [*inputs, np.float32(1.5), np.uint8(128)], transB=trans) == ["k", "m", "n"]
    assert commutes("QGemm", inputs, transB=trans) == ["k", "m", "n"]


@pytest.mark.parametrize("per_column", [False, True])
def test_lstm_relation(per_column):
    directions, features, hidden = 2, 3, 4
    x = RNG.uniform(-1, 1, (5, 2, features)).astype(np.float32)
    x[:2], x[-2:] = 1, -1  # the range stays, whatever goes
    # Codes as floats, which the oracle can mask.
    w, r = (RNG.integers(-99, 99, (directions, n, 4 * hidden)).astype(np.float32) for n in (features, hidden))
    bias = RNG.standard_normal((directions, 8 * hidden)).astype(np.float32)
    shape = (directions, 4 * hidden) if per_column else (directions,)
    scale, zero = RNG.uniform(0.01, 0.02, shape).astype(np.float32), np.zeros(shape, np.int8)
    inputs = [x, w, r, bias, None, None, None, None, scale, zero, scale, zero]
    attributes = {"direction": "bidirectional", "hidden_size": hidden, "domain": "com.microsoft"}
    check_relation("DynamicQuantizeLSTM", inputs, "n i h", outputs=3, **attributes)
