"""Channels scaled apart exactly, in pairs of layers: per-tensor ranges collapse on them, `quantize` does not."""

import pytest
import torch
from torch import nn

from graphopt.backends import to_onnx
from graphopt.frontends import capture
from graphopt.models.digits import data as digits_data
from graphopt.models.digits import digits
from graphopt.pipeline import optimize
from graphopt.runtime.ort import OrtSession

FACTOR = 128.0  # a power of two: nothing is rounded


def apart(module):
    """The trained digits network with a depthwise layer in each block whose channels' ranges are far apart.

    The layer is the identity. Every other channel is made larger by `FACTOR` before it, and smaller in it.
    """
    with torch.no_grad():
        for block in module.blocks:
            width = block.conv1.out_channels
            depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
            nn.init.dirac_(depthwise.weight, groups=width)
            nn.init.zeros_(depthwise.bias)
            factors = torch.where(torch.arange(width) % 2 == 0, FACTOR, 1.0)
            block.bn1.weight *= factors
            block.bn1.bias *= factors
            depthwise.weight /= factors[:, None, None, None]
            block.relu1 = nn.Sequential(nn.ReLU(), depthwise)
    return module.eval()


@pytest.fixture(scope="module")
def network():
    module, args = digits()
    graph = capture(apart(module), args, dynamic={"x": {0: "batch"}})
    optimize(graph, "simplify,fuse", check=False)
    return graph


def accuracy(graph):
    images = digits_data()
    scores = torch.from_numpy(OrtSession(to_onnx(graph)).run([images.test_x])[0])
    return 100 * float((scores.argmax(1) == images.test_y).float().mean())


def quantized(network, pipeline):
    graph, images = network.clone(), digits_data().train_x
    report = optimize(graph, pipeline, [images[i : i + 64] for i in range(0, 512, 64)], check=False)
    return graph, report


def test_channels_scaled_apart_cost_nothing(network):
    whole = accuracy(network)
    assert whole > 97  # the rescaled network is the trained one
    plain, _ = quantized(network, "insert-qdq{everything=true},calibrate{method=minmax},pack-weights")
    ours, report = quantized(network, "quantize{everything=true}")
    assert accuracy(plain) < whole - 2
    assert accuracy(ours) >= whole - 0.5
    assert report.of("equalize").counts == {"tensors": 3}


def test_what_is_even_stays_as_it_was(network):
    module, args = digits()
    graph = capture(module, args, dynamic={"x": {0: "batch"}})
    optimize(graph, "simplify,fuse", check=False)
    _, report = quantized(graph, "quantize{everything=true}")
    assert not report.of("equalize").modified
