"""Elementwise mathematics and activations against ONNX Runtime."""

import numpy as np
import pytest
import torch

from graphopt.ops import execute, record_of
from tests.ops.oracle import check, graph_of

RNG = np.random.default_rng(0)
SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -0.5, -2.5, np.inf, -np.inf, np.nan], np.float32)

ANY = ["Abs", "Neg", "Sign"]
FLOAT = ["Ceil", "Floor", "Round", "Sqrt", "Reciprocal", "Exp", "Log", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan",
         "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "Erf", "Sigmoid", "Tanh", "Softplus", "Softsign", "Relu",
         "HardSwish", "Mish", "Gelu", "Swish", "Identity"]  # fmt: skip


def array(*shape, dtype=np.float32):
    return (2 * RNG.standard_normal(shape)).astype(dtype)


@pytest.mark.parametrize("op", ANY + FLOAT)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_floats(op, dtype):
    loose = {"rtol": 1e-2, "atol": 1e-2} if dtype == np.float16 else {}
    with np.errstate(invalid="ignore"):  # onnx.reference, outside of the domain of acosh and others
        check(op, [array(2, 3, 4, dtype=dtype)], symbolic={0: ("n", 3, "w")}, **loose)


@pytest.mark.parametrize("op", ANY)
@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64])
def test_signed_integers(op, dtype):
    check(op, [RNG.integers(-9, 9, (3, 4)).astype(dtype)])


def test_relu_of_integers():
    check("Relu", [RNG.integers(-9, 9, (3, 4)).astype(np.int32)])


@pytest.mark.parametrize(
    "op", sorted(set(ANY + FLOAT) - {"HardSwish", "Swish", "Gelu", "Mish", "Softplus", "Softsign"})
)
def test_special_values(op):
    check(op, [SPECIAL])


@pytest.mark.parametrize("op", ["Abs", "Exp", "Relu", "Sigmoid", "Identity"])
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3)])
def test_scalars_and_empty_tensors(op, shape):
    check(op, [array(*shape) if shape else np.array(-1.5, np.float32)])


def test_round_is_half_to_even():
    (got,) = check("Round", [np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)])
    assert got.tolist() == [0, 2, 2, 0, -2]


@pytest.mark.parametrize(
    ("op", "attributes"),
    [("LeakyRelu", {}), ("LeakyRelu", {"alpha": 0.3}), ("Elu", {}), ("Elu", {"alpha": 0.5}), ("Selu", {}),
     ("Selu", {"alpha": 2.0, "gamma": 3.0}), ("Celu", {}), ("Celu", {"alpha": 2.0}), ("Gelu", {"approximate": "tanh"}),
     ("HardSigmoid", {}), ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}), ("HardSigmoid", {"alpha": 0.4, "beta": 0.1}),
     ("Swish", {"alpha": 1.7}), ("ThresholdedRelu", {}), ("ThresholdedRelu", {"alpha": 0.2}), ("Shrink", {}),
     ("Shrink", {"lambd": 0.7, "bias": 0.2})],
)  # fmt: skip
def test_parametrised_activations(op, attributes):
    check(op, [array(3, 5)], symbolic={0: ("n", 5)}, **attributes)


def test_thresholded_relu_is_zero_for_nan():
    check("ThresholdedRelu", [SPECIAL])


def test_shrink_of_integers():
    check("Shrink", [RNG.integers(-9, 9, (3, 4)).astype(np.int32)], lambd=3.0, bias=2.0)


@pytest.mark.parametrize("shape", [(3, 1, 1), (1,), (5,), (2, 3, 4, 5), ()])
def test_prelu(shape):
    slope = array(*shape) if shape else np.array(0.2, np.float32)
    check("PRelu", [array(2, 3, 4, 5), slope], symbolic={0: ("n", 3, "h", 5)})


@pytest.mark.parametrize("alpha", [1.0, 1.7])
def test_swiglu(alpha):
    gate, x = array(2, 3), array(2, 3)
    _, node = graph_of("SwiGLU", [gate, x], shapes={0: ("n", 3), 1: ("n", 3)}, alpha=alpha)
    (got,) = execute(node, [torch.from_numpy(gate), torch.from_numpy(x)])
    (swish,) = execute(graph_of("Swish", [gate], alpha=alpha)[1], [torch.from_numpy(gate)])
    torch.testing.assert_close(got, swish * torch.from_numpy(x))
    assert record_of(node).infer(node) == [node.operand(0).type]


@pytest.mark.parametrize("bounds", [(-1, 1), (None, 0.5), (0, None), (None, None), (1, -1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int8, np.uint8])
def test_clip(bounds, dtype):
    if dtype == np.uint8 and any(b is not None and b < 0 for b in bounds):
        bounds = (1, 3)
    values = RNG.integers(0, 9, (3, 4)).astype(dtype) if dtype == np.uint8 else array(3, 4, dtype=dtype)
    inputs = [values, *(None if b is None else np.array(b, dtype) for b in bounds)]
    while inputs[-1] is None:
        inputs.pop()
    if bounds == (1, -1):  # ONNX Runtime leaves the order open; the definition gives max
        _, node = graph_of("Clip", inputs)
        (got,) = execute(node, [torch.from_numpy(np.asarray(a)) for a in inputs])
        assert (got == inputs[2].item()).all()
        return
    check("Clip", inputs, symbolic={0: ("n", 4)})


def test_dropout_at_inference():
    x = array(3, 4)
    check("Dropout", [x], outputs=2, symbolic={0: ("n", 4)})
    check("Dropout", [x, np.array(0.7, np.float32), np.array(False)], outputs=2)


def test_dropout_in_training():
    _, node = graph_of("Dropout", [array(100, 100), np.array(0.25, np.float32), np.array(True)], 2, seed=3)
    x = torch.ones(100, 100)
    y, mask = execute(node, [x, torch.tensor(0.25), torch.tensor(True)])
    assert mask.double().mean() == pytest.approx(0.75, abs=0.02)
    assert torch.equal(y, torch.where(mask, x / 0.75, 0))
    again, _ = execute(node, [x, torch.tensor(0.25), torch.tensor(True)])
    assert torch.equal(y, again)
