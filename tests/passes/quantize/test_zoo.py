"""The convolutional networks of the zoo in int8, and the trained digits model, also through training."""

import pytest
import torch
from torch.utils import _pytree as pytree

from graphopt.backends import to_onnx
from graphopt.frontends import capture
from graphopt.models import CNNS, build
from graphopt.models.digits import data as digits_data
from graphopt.models.digits import digits
from graphopt.pipeline import optimize
from graphopt.runtime.compare import difference
from graphopt.runtime.ort import OrtSession, kernel_counts
from graphopt.runtime.samples import example_inputs
from tests.zoo import captured

#: Kernels that compute on integers.
INTEGER = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat")

# Where ONNX Runtime's int8 kernels win nothing at these sizes, so that everything stays float by default.
NOT_WORTH_IT = {"lenet", "shufflenet_v2"}


def outputs(session, batches):
    return torch.cat([torch.from_numpy(session.run(batch)[0]).flatten() for batch in batches])


@pytest.fixture(scope="module", params=CNNS)
def network(request):
    """A fused network, calibration data (64 images), other data (64 images), and what it computes of the latter."""
    _, args = build(request.param)
    graph = captured(request.param)
    optimize(graph, "simplify,fuse", check=False)
    assert all(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(args))
    seen, unseen = ([tuple(example_inputs(graph, seed=first + i)) for i in range(32)] for first in (0, 1000))
    return request.param, graph, seen, unseen, outputs(OrtSession(to_onnx(graph)), unseen)


def test_quantize(network):
    name, graph, seen, unseen, want = network
    graph = graph.clone()
    report = optimize(graph, "quantize", seen, check=False)
    model = to_onnx(graph)
    kernels = kernel_counts(model)
    if name in NOT_WORTH_IT:
        assert not report.modified
        assert "nothing is on integers" in report.of("insert-qdq").notes[0]
        return
    assert sum(kernels[op] for op in INTEGER) >= 2
    assert not kernels["QLinearSigmoid"]  # slower than floats
    assert difference(outputs(OrtSession(model), unseen), want).sqnr >= 20
    modelled = report.of("insert-qdq").details["modelled_ns"]
    assert modelled["chosen"] < modelled["float"]


def test_everything(network):
    _, graph, seen, unseen, want = network
    graph = graph.clone()
    report = optimize(graph, "quantize{everything=true}", seen, check=False)
    model = to_onnx(graph)
    counts = report.of("insert-qdq").counts
    kernels = kernel_counts(model)
    assert kernels["QLinearConv"] == counts["Conv"]
    # What these random networks make of 8 bits in every layer; regnet_y and resnet are just under 20 dB.
    assert difference(outputs(OrtSession(model), unseen), want).sqnr >= 17


# -- a trained network


@pytest.fixture(scope="module")
def trained():
    module, args = digits()
    graph = capture(module, args, dynamic={"x": {0: "batch"}})
    optimize(graph, "simplify,fuse", check=False)
    return graph


def accuracy(graph):
    data = digits_data()
    scores = torch.from_numpy(OrtSession(to_onnx(graph)).run([data.test_x])[0])
    return float((scores.argmax(1) == data.test_y).float().mean())


def batches(count=512, size=64):
    data = digits_data()
    return [(data.train_x[i : i + size], data.train_y[i : i + size]) for i in range(0, count, size)]


def test_digits_lose_no_accuracy(trained):
    graph = trained.clone()
    optimize(graph, "quantize", batches(), check=False)
    assert kernel_counts(to_onnx(graph))["QLinearConv"] >= 8
    assert accuracy(graph) >= accuracy(trained) - 0.003


TWO_BITS = """
name = "w2"
doc = "Two-bit weights, three-bit activations."
absorb = ["Relu", "Clip"]
activation = { dtype = "uint8", bits = 3 }
weight = { dtype = "int8", symmetric = true, per_channel = true, bits = 2 }
bias = { dtype = "int32" }
[operators.Conv]
role = "compute"
inputs = ["activation", "weight", "bias"]
[operators.Gemm]
role = "compute"
inputs = ["activation", "weight", "bias"]
axis = { attribute = "transB", 0 = 1, 1 = 0 }
[operators.Add]
role = "join"
inputs = ["activation", "activation"]
"""


def test_training_through_quantization_recovers_accuracy(trained, tmp_path):
    target = tmp_path / "w2.toml"
    target.write_text(TWO_BITS)
    option = f'target="{target}"'
    place = f"insert-qdq{{{option},everything=true}},calibrate{{{option}}}"
    plain, tuned = trained.clone(), trained.clone()
    optimize(plain, f"{place},pack-weights{{{option}}}", batches(), check=False)
    optimize(tuned, f"{place},finetune{{epochs=3,lr=2e-3}},pack-weights{{{option}}}", batches(1408), check=False)
    assert all(n.op != "QuantizeLinear" or not n.operand(0).is_constant for n in tuned.nodes)  # packed
    assert accuracy(tuned) > accuracy(plain) + 0.05


def test_the_batch_in_use_decides():
    """LeNet is too small to gain from integers one image at a time, and gains with a batch."""
    module, (x,) = build("lenet")
    alone, many = (capture(module, (x,), dynamic={"x": {0: "batch"}}) for _ in range(2))
    samples = [torch.rand(8, *x.shape[1:], generator=torch.Generator().manual_seed(0))]
    optimize(alone, "simplify,fuse,quantize", samples)
    optimize(many, "simplify,fuse,quantize{sizes={batch:64}}", samples)
    counts = [sum(node.op == "QuantizeLinear" for node in graph.walk()) for graph in (alone, many)]
    assert counts[0] < counts[1]
