"""ONNX Runtime's quantized operators against ONNX Runtime."""

import numpy as np
import onnx
import onnx.helper as oh
import pytest

from graphopt.analysis import propagate
from graphopt.frontends import load
from graphopt.runtime import run
from graphopt.runtime.ort import OrtSession

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
