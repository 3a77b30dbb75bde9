"""Fourier transforms against ONNX Runtime and onnx.reference."""

import numpy as np
import pytest

from graphopt.errors import ShapeError
from graphopt.ops import record_of
from tests.ops.oracle import check, graph_of

RNG = np.random.default_rng(0)


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("axis", [None, 0, 1, -2, -3])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("length", [None, 4, 9])
@pytest.mark.parametrize("inverse", [0, 1])
def test_dft(axis, parts, length, inverse):
    inputs = [
        array(6, 8, parts),
        None if length is None else np.array(length),
        None if axis is None else np.array(axis),
    ]
    while inputs[-1] is None:
        inputs.pop()
    constant = [i for i in (1, 2) if i < len(inputs)]
    check("DFT", inputs, constant=constant, symbolic={0: ("a", "b", parts)}, inverse=inverse, reference=True, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("length", [None, 4, 9])
def test_dft_onesided(axis, length):
    inputs = [array(6, 8, 1), None if length is None else np.array(length), np.array(axis)]
    symbolic = {0: ("a", "b", 1)}
    check("DFT", inputs, constant=[1, 2], symbolic=symbolic, onesided=1, reference=True, atol=1e-4)
    inputs[0] = array(6, 8, 2)
    check("DFT", inputs, constant=[1, 2], symbolic={0: ("a", "b", 2)}, onesided=1, inverse=1, reference=True, atol=1e-4)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("window", [False, True])
@pytest.mark.parametrize("length", [False, True])
def test_stft(parts, window, length):
    if not window and not length:
        pytest.skip("onnx.reference needs one of them")
    inputs = [array(2, 32, parts), np.array(5), np.abs(array(8)) if window else None, np.array(8) if length else None]
    inputs = inputs if length else inputs[:3]
    onesided = int(parts == 1)
    check("STFT", inputs, constant=[1, 3], symbolic={0: ("n", "t", parts)}, onesided=onesided, atol=1e-4)


@pytest.mark.parametrize("op", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("periodic", [0, 1])
@pytest.mark.parametrize("dtype", [1, 11])
def test_windows(op, periodic, dtype):
    check(op, [np.array(10)], constant=[0], periodic=periodic, output_datatype=dtype)


def test_the_last_dimension_is_no_axis():
    _, node = graph_of("DFT", [array(6, 8, 1), None, np.array(2)], constant=[2])
    with pytest.raises(ShapeError, match="real and imaginary"):
        record_of(node).infer(node)


@pytest.mark.parametrize(
    ("bins", "length", "rate", "low", "high"),
    [(8, 16, 8192, 0, 4096), (20, 512, 16000, 80.0, 7600.0), (40, 64, 8000, 0.0, 4000.0), (1, 8, 100, 0.0, 50.0)],
)
@pytest.mark.parametrize("dtype", [1, 11])
def test_mel_weight_matrix(bins, length, rate, low, high, dtype):
    inputs = [np.array(bins), np.array(length), np.array(rate), np.array(low, np.float32), np.array(high, np.float32)]
    check("MelWeightMatrix", inputs, constant=[0, 1], output_datatype=dtype)
