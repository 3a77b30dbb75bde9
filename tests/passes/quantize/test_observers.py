"""Observers against numpy and against brute force."""

import math

import numpy as np
import pytest
import torch
from onnxruntime.quantization.calibrate import HistogramCollector
from torch.ao.quantization import MovingAverageMinMaxObserver

from graphopt.ir import DType
from graphopt.passes.quantize.divergence import Entropy
from graphopt.passes.quantize.observers import Histogram, MeanSquareError, MinMax, MovingAverage, Percentile
from graphopt.passes.quantize.scales import parameters_of_range
from graphopt.targets import Scheme

U8 = Scheme(DType.UINT8)
S8 = Scheme(DType.INT8, symmetric=True)


def shown(observer, *tensors):
    for tensor in tensors:
        observer.see(tensor)
    return observer


def fake(x, low, high, scheme):
    scale, zero = parameters_of_range(low, high, scheme)
    least, greatest = scheme.limits
    return ((x / scale).round() + zero).clamp(least, greatest).sub(zero.double()) * scale


@pytest.mark.parametrize(
    "kind", [MinMax, MeanSquareError, Entropy, lambda: Percentile(99.0), lambda: MovingAverage(0.1)]
)
def test_nothing_seen_or_zeros_seen_is_an_empty_range(kind):
    assert kind().range(U8) == (0, 0)
    assert shown(kind(), torch.zeros(10), torch.zeros(0)).range(U8) == (0, 0)


def test_minmax():
    low, high = shown(MinMax(), torch.tensor([1.0, 2.0]), torch.tensor([-3.0])).range(U8)
    assert (float(low), float(high)) == (-3, 2)


@pytest.mark.parametrize("percent", [90.0, 99.0, 99.9])
@pytest.mark.parametrize("batches", [1, 7])
def test_percentile_is_numpys(percent, batches):
    data = torch.randn(70_000) * torch.linspace(0.1, 3, 70_000)  # grows, so that the histogram has to
    observer = shown(Percentile(percent), *data.chunk(batches))
    low, high = observer.range(U8)
    rest = (100 - percent) / 2
    want = np.percentile(data.numpy(), [rest, 100 - rest])
    assert float(low) == pytest.approx(want[0], abs=2 * observer.width)
    assert float(high) == pytest.approx(want[1], abs=2 * observer.width)


def test_the_histogram_is_numpys():
    data = torch.randn(10_000)
    data[::3] = 0
    observer = shown(Histogram(64), data[:10] / 100, data)
    nonzero = data[data != 0].numpy()
    tiny = data[:10].numpy() / 100
    counts, _ = np.histogram(np.concatenate([nonzero, tiny[tiny != 0]]), observer.edges.numpy())
    assert np.abs(observer.counts.numpy() - counts).sum() <= 2  # values on a border
    assert observer.zeros == int((data == 0).sum()) + int((tiny == 0).sum())


@pytest.mark.parametrize("momentum", [0.01, 0.3, 1.0])
def test_moving_average_is_torchs(momentum):
    batches = [torch.randn(50) * scale for scale in (1.0, 4.0, 0.5, 2.0)]
    want = MovingAverageMinMaxObserver(averaging_constant=momentum)
    for batch in batches:
        want(batch)
    low, high = shown(MovingAverage(momentum), *batches, torch.zeros(0)).range(U8)
    assert float(low) == pytest.approx(float(want.min_val), rel=1e-5)
    assert float(high) == pytest.approx(float(want.max_val), rel=1e-5)


def test_moving_average_sees_what_is_not_finite():
    assert not shown(MovingAverage(0.1), torch.ones(3), torch.tensor([torch.inf])).finite


@pytest.mark.parametrize("name", ["normal", "laplace"])
@pytest.mark.parametrize("scheme", [U8, S8], ids=["u8", "s8"])
def test_entropy_is_as_good_as_onnxruntimes(name, scheme):
    """Beside the range that ONNX Runtime finds in the same histogram: the divergence by its formula, and the range."""
    data = DATA[name]()
    observer = shown(Entropy(1024), *data.chunk(3))
    low, high = (float(end) for end in observer.range(scheme))
    least, greatest = scheme.limits
    levels = int(greatest - least)
    histogram = (observer.counts.numpy(), observer.edges.numpy(), np.float64(data.min()), np.float64(data.max()))
    theirs = HistogramCollector.get_entropy_threshold(None, histogram, levels)
    reach = round(max(-low, high) / observer.width)
    want = round(max(-float(theirs[0]), float(theirs[1])) / observer.width)
    assert observer.divergence(reach, levels, scheme) <= observer.divergence(want, levels, scheme) + 1e-3
    assert reach == pytest.approx(want, rel=0.2)


def test_entropy_leaves_an_outlier_out():
    low, high = shown(Entropy(), torch.cat([torch.randn(20_000), torch.tensor([50.0])])).range(S8)
    assert float(low) == pytest.approx(-float(high), rel=0.5)
    assert 2.5 < float(high) < 15


def test_entropy_of_one_side_keeps_that_side():
    low, high = shown(Entropy(), torch.distributions.Exponential(1.0).sample((20_000,))).range(U8)
    assert 0 <= float(low) < 0.01
    assert 3 < float(high) < 15


def laplace():
    return torch.distributions.Laplace(0.0, 1.0).sample((20_000,))


DATA = {
    "normal": lambda: torch.randn(20_000),
    "relu": lambda: torch.randn(20_000).relu(),
    "laplace": laplace,
    "outlier": lambda: torch.cat([torch.randn(20_000), torch.tensor([50.0])]),
    "shifted": lambda: torch.rand(20_000) + 2,
}


@pytest.mark.parametrize("scheme", [U8, S8, Scheme(DType.UINT8, bits=4)], ids=["u8", "s8", "u4"])
@pytest.mark.parametrize("name", DATA)
def test_mse_is_as_good_as_trying_every_range(name, scheme):
    data = DATA[name]().double()
    observer = shown(MeanSquareError(), *data.chunk(3))
    low, high = observer.range(scheme)
    got = (fake(data, low, high, scheme) - data).square().mean()
    best = math.inf
    for part in np.linspace(0.15, 1, 60):
        both = [(part * data.min(), part * data.max())]
        if not scheme.symmetric:
            both += [(data.min(), part * data.max()), (part * data.min(), data.max())]
        for candidate in both:
            best = min(best, float((fake(data, *candidate, scheme) - data).square().mean()))
    assert float(got) <= best * 1.05


def test_mse_estimates_the_true_error():
    data = torch.randn(50_000).double()
    observer = shown(MeanSquareError(), data)
    for part in (0.3, 0.6, 1.0):
        low, high = data.min() * part, data.max() * part
        want = float((fake(data, low, high, U8) - data).square().sum())
        assert float(observer.errors(low[None], high[None], U8)) == pytest.approx(want, rel=0.05)


@pytest.mark.parametrize(
    "kind", [MinMax, MeanSquareError, Entropy, lambda: Percentile(99.9), lambda: MovingAverage(0.1)]
)
def test_memory_does_not_grow_with_samples(kind):
    def size(observer):
        return sum(v.nelement() if isinstance(v, torch.Tensor) else 1 for v in vars(observer).values())

    observer = shown(kind(), torch.randn(10))
    before = size(observer)
    for number in range(20):
        observer.see(torch.randn(5_000) * 10**number)
    assert size(observer) == before
