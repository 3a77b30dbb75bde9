"""quantize-weights: every format runs in ONNX Runtime and torch as in our executor, is smaller packed, and trains."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from graphopt.backends import to_onnx, to_torch, update_from
from graphopt.errors import OptionError, PassError
from graphopt.frontends import capture, load
from graphopt.models.digits import data as digits_data
from graphopt.models.digits import digits
from graphopt.pipeline import optimize
from graphopt.runtime import run
from graphopt.runtime.compare import compare
from graphopt.runtime.ort import OrtSession, kernel_counts
from tests.passes.quantize.models import Maker, quantize, samples

#: Options, and the least signal to noise ratio of the network's outputs in dB.
FORMATS = {
    "bits=8": 38, "bits=4": 13, "bits=2": -4, "bits=5": 21, "bits=12": 61, "bits=4,symmetric=false": 16,
    "bits=4,block=32": 14, "bits=4,block=5": 20, "bits=8,granularity=global": 35, "bits=3,granularity=element": 132,
    "bits=4,granularity=tensor,search=mse": 12, "bits=6,granularity=block": 27, "format=piecewise,bits=4": 20,
    "format=piecewise,bits=3,granularity=tensor": 11, "format=piecewise,bits=4,granularity=global": 16,
    "format=kmeans,bits=4": 14, "format=kmeans,bits=4,block=8": 18, "format=kmeans,bits=4,block=7": 16,
    "format=kmeans,bits=3,granularity=global": 4, "format=power-of-two,bits=4": 7, "format=float8e4m3fn": 26,
    "format=float8e5m2,granularity=tensor": 17,
}  # fmt: skip


def network():
    m = Maker((2, 3, 12, 12))
    a = m.conv(m.op("Relu", m.conv("x", 3, 16)), 16, 16, group=16)
    e = m.gemm(m.op("Flatten", m.op("GlobalAveragePool", a)), 16, 64)
    up = m.op("MatMul", f"{m.op('Tanh', e)} {m.random(64, 96, scale=0.1)}")
    return m.graph(m.op("MatMul", f"{up} {m.op('Transpose', m.random(10, 96, scale=0.1), perm=[1, 0])}"))


def size(graph):
    return len(to_onnx(graph).SerializeToString())


@pytest.mark.parametrize("options", FORMATS)
def test_every_format_everywhere(options):
    graph = network()
    inputs = samples(graph, 1)[0]
    exact, before = run(graph, inputs), size(graph)
    report = optimize(graph, f"insert-weight-qdq{{{options}}}", check=False)
    assert report.of("insert-weight-qdq").counts == {"Conv": 2, "Gemm": 1, "MatMul": 1, "Transpose": 1}
    loose = run(graph, inputs)
    assert compare(loose, exact).sqnr > FORMATS[options]
    torch.testing.assert_close(to_torch(graph)(*inputs), loose[0], rtol=1e-4, atol=1e-5)
    optimize(graph, "pack-weights", check=False)
    graph.verify()
    packed = run(graph, inputs)
    torch.testing.assert_close(packed[0], loose[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(to_torch(graph)(*inputs), packed[0], rtol=1e-4, atol=1e-5)
    model = to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(OrtSession(model, optimize=False).run(inputs)[0], packed[0], rtol=1e-4, atol=1e-5)
    assert size(graph) < before or "element" in options
    again = load(model)
    torch.testing.assert_close(run(again, inputs)[0], packed[0], rtol=1e-5, atol=1e-6)


def test_packed_sizes_are_what_the_report_says():
    graph = network()
    report = optimize(graph, "quantize-weights{bits=4,block=16}", check=False)
    details = report.of("insert-weight-qdq").details
    stored = sum(
        value.data.numel() * value.dtype.bits / 8
        for node in graph.nodes if node.op == "DequantizeLinear" for value in node.inputs[:2]
    )  # fmt: skip
    assert details["packed_bytes"] == stored
    assert details["bytes"] == 4 * (16 * 27 + 16 * 9 + 64 * 16 + 64 * 96 + 96 * 10)


@pytest.mark.parametrize(
    ("granularity", "shape"), [("tensor", ()), ("channel", (64,)), ("block", (64, 1)), ("element", (64, 16))]
)
def test_granularity_is_the_shape_of_scales(granularity, shape):
    graph = network()
    optimize(graph, f"insert-weight-qdq{{granularity={granularity}}}", check=False)
    weight = next(node for node in graph.nodes if node.op == "Gemm").operand(1).producer
    assert weight.operand(1).shape == shape


def test_global_is_one_scale_for_all_weights():
    graph = network()
    optimize(graph, "insert-weight-qdq{granularity=global}", check=False)
    assert len({id(node.operand(1)) for node in graph.nodes if node.op == "DequantizeLinear"}) == 1


def test_bits_are_the_numbers_in_use():
    for bits, search in ((2, "minmax"), (3, "mse"), (6, "mse"), (10, "minmax")):
        graph = network()
        optimize(graph, f"quantize-weights{{bits={bits},search={search}}}", check=False)
        stored = [node.operand(0) for node in graph.nodes if node.op == "DequantizeLinear"]
        assert {int(value.data.abs().max()) for value in stored} == {2 ** (bits - 1) - 1}


def test_a_weight_that_two_read_is_stored_once():
    m = Maker((2, 8))
    w = m.random(8, 8)
    graph = m.graph(m.op("MatMul", f"{m.op('MatMul', f'x {w}')} {w}"))
    optimize(graph, "quantize-weights{bits=4}", check=False)
    assert [node.op for node in graph.nodes] == ["DequantizeLinear", "MatMul", "MatMul"]


def test_ignored_and_chosen_operators():
    graph = network()
    optimize(graph, "quantize-weights{operators=[Gemm,MatMul],ignore=n_gemm*}", check=False)
    read = {
        node.op: node.operand(1).producer is not None for node in graph.nodes if node.op in ("Conv", "Gemm", "MatMul")
    }
    assert read == {"Conv": False, "Gemm": False, "MatMul": True}


@pytest.mark.parametrize("options", ["bits=4,block=32", "bits=4,block=32,symmetric=false", "bits=8,block=32", "bits=4"])
def test_onnx_runtime_makes_its_own_kernel_of_blocked_products(options):
    m = Maker((2, 8, 64))
    graph = m.graph(m.op("Tanh", m.op("MatMul", f"x {m.random(64, 96, scale=0.1)}")))
    optimize(graph, f"quantize-weights{{{options}}}", check=False)
    inputs = samples(graph, 1)[0]
    assert kernel_counts(to_onnx(graph))["MatMulNBits"] == 1
    got = [torch.from_numpy(OrtSession(to_onnx(graph)).run(inputs)[0])]
    assert compare(got, run(graph, inputs)).sqnr > 35  # it rounds activations to 8 bits on the way


@pytest.mark.parametrize(
    "options", ["bits=4,block=32", "bits=4,block=16,symmetric=false", "bits=8,block=32,symmetric=false"]
)
def test_matmul_nbits_in_the_file_where_the_target_has_it(options):
    m = Maker((2, 8, 40))
    graph = m.graph(m.op("MatMul", f"x {m.random(40, 12, scale=0.1)}"))
    inputs = samples(graph, 1)[0]
    plain = graph.clone()
    optimize(plain, f"quantize-weights{{{options}}}", check=False)
    optimize(graph, f"quantize-weights{{{options},target=ort-cpu,accuracy-level=1}}", check=False)
    assert [node.op for node in plain.nodes] == ["DequantizeLinear", "MatMul"]
    assert [(node.domain, node.op) for node in graph.nodes] == [("com.microsoft", "MatMulNBits")]
    want = run(plain, inputs)[0]
    torch.testing.assert_close(run(graph, inputs)[0], want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(to_torch(graph)(*inputs), want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(OrtSession(to_onnx(graph)).run(inputs)[0], want.numpy(), rtol=1e-3, atol=1e-3)


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.layer = kind(16, 32, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, i):
        return self.head(self.layer(self.embedding(i))[0])


@pytest.mark.parametrize("options", ["bits=8", "bits=4,block=16", "format=kmeans,bits=4"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_and_embeddings(kind, options):
    torch.manual_seed(0)
    tokens = torch.randint(50, (2, 7))
    graph = capture(Recurrent(kind).eval(), (tokens,))
    exact, before = run(graph, (tokens,)), size(graph)
    report = optimize(graph, f"quantize-weights{{{options}}}", check=False)
    assert report.of("insert-weight-qdq").counts == {"Gather": 1, kind.__name__: 2, "Transpose": 1}
    got = run(graph, (tokens,))
    assert compare(got, exact).sqnr > (35 if "8" in options else 15)
    ort = OrtSession(to_onnx(graph), optimize=False).run((tokens,))[0]
    np.testing.assert_allclose(ort, got[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(to_torch(graph)(tokens), got[0], rtol=1e-4, atol=1e-5)
    assert size(graph) < 0.5 * before


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("bits=1", "bits is 1.*give 2 to 16 for format=linear"),
        ("bits=17", "bits is 17"),
        ("format=kmeans,bits=9", "give 2 to 8 for format=kmeans"),
        ("format=piecewise,bits=16", "give 2 to 15"),
        ("format=piecewise,block=8", "granularity is block.*takes global, tensor or channel"),
        ("format=kmeans,symmetric=false", "symmetric is false.*format=kmeans is symmetric"),
        ("format=kmeans,granularity=element", "saves nothing"),
        ("block=-1", "block is -1"),
        ("block=8,granularity=tensor", "block is 8.*no other granularity"),
        ("operators=[Softmax]", "operators is Softmax.*target 'generic' has"),
        ("format=kmean", "did you mean 'kmeans'"),
        ("target=genric", "did you mean 'generic'"),
    ],
)
def test_bad_options(options, complaint):
    with pytest.raises(OptionError, match=complaint):
        optimize(network(), f"quantize-weights{{{options}}}", check=False)


def test_nothing_to_quantize():
    graph = network()
    optimize(graph, "quantize-weights", check=False)
    with pytest.raises(PassError, match="no float32 weight to quantize"):
        optimize(graph, "quantize-weights", check=False)
    m = Maker()
    graph = quantize(m.graph(m.op("ConvTranspose", f"{m.conv('x')} {m.random(8, 8, 2, 2)}")))
    with pytest.raises(PassError, match="activations are quantized already"):
        optimize(graph, "quantize-weights", check=False)


# -- training through the formats


def accuracy(graph):
    images = digits_data()
    return float((run(graph, (images.test_x,))[0].argmax(1) == images.test_y).float().mean())


def batches():
    images = digits_data()
    return [(images.train_x[i : i + 64], images.train_y[i : i + 64]) for i in range(0, 512, 64)]


TRAINED = {
    "insert-weight-qdq{bits=2,block=8}": "",
    "insert-weight-qdq{bits=3,granularity=tensor}": "learn-scales{start=lsq},",
    "insert-weight-qdq{format=piecewise,bits=2,granularity=global}": "",
    "insert-weight-qdq{format=kmeans,bits=3}": "",
    "insert-weight-qdq{format=float8e5m2}": "",
}  # fmt: skip


@pytest.mark.parametrize("place", TRAINED)
def test_training_through_a_format(place):
    module, args = digits()
    graph = capture(module, args, dynamic={"x": {0: "batch"}})
    optimize(graph, "simplify,fuse", check=False)
    plain, tuned = graph.clone(), graph.clone()
    optimize(plain, f"{place},pack-weights", check=False)
    report = optimize(tuned, f"{place},{TRAINED[place]}finetune{{epochs=1,lr=2e-3}}", batches(), check=False)
    assert all(np.isfinite(report.of("finetune").details["losses"]))
    loose = accuracy(tuned)
    optimize(tuned, "pack-weights", check=False)
    assert accuracy(tuned) == pytest.approx(loose, abs=0.003)
    assert accuracy(tuned) >= min(accuracy(plain) + 0.3, 0.96)


@pytest.mark.parametrize("granularity", ["tensor", "channel", "block"])
@pytest.mark.parametrize("symmetric", ["true", "false"])
def test_weights_that_leave_the_range_take_no_more_bits(granularity, symmetric):
    m = Maker((2, 16))
    graph = m.graph(m.gemm("x", 16, 6))
    options = f"bits=3,granularity={granularity},block={5 if granularity == 'block' else 0},symmetric={symmetric}"
    optimize(graph, f"insert-weight-qdq{{{options}}},learn-scales", check=False)
    module = to_torch(graph)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.mul_(3 if not name.endswith("scale") else 0.8)
    update_from(graph, module)
    inputs = samples(graph, 1)[0]
    loose = run(graph, inputs)
    torch.testing.assert_close(module(*inputs).detach(), loose[0], rtol=1e-4, atol=1e-5)
    optimize(graph, "pack-weights", check=False)
    stored = next(node for node in graph.nodes if node.op == "DequantizeLinear").operand(0).data
    assert (int(stored.min()), int(stored.max())) == ((-3, 3) if symmetric == "true" else (0, 7))
    torch.testing.assert_close(run(graph, inputs), loose)


def test_gptq_rounds_within_the_bits():
    m = Maker((8, 16))
    graph = m.graph(m.gemm("x", 16, 6))
    optimize(graph, "insert-weight-qdq{bits=3},gptq,pack-weights", samples(graph, 4), check=False)
    stored = next(node for node in graph.nodes if node.op == "DequantizeLinear").operand(0).data
    assert int(stored.abs().max()) == 3


def test_a_learned_step_has_lsq_s_gradient():
    """The step's gradient against the definition (equation 3), element by element."""
    m = Maker((1, 4))
    graph = m.graph(m.op("MatMul", f"x {m.random(4, 5)}"))
    optimize(graph, "insert-weight-qdq{bits=4,granularity=tensor},learn-scales", check=False)
    pair = next(node for node in graph.nodes if node.op == "QuantizeLinear")
    pair.operand(1).data = pair.operand(1).data * 0.5  # some weights lie outside now
    weight, step = pair.operand(0).data, pair.operand(1).data
    module = to_torch(graph)
    ((name, scale),) = [(n, p) for n, p in module.named_parameters() if n.endswith("scale")]
    x = torch.ones(1, 4)
    module(x).sum().backward()
    ratio = weight / step
    inside = (ratio > -8) & (ratio < 7)
    slope = torch.where(inside, ratio.round() - ratio, ratio.round().clamp(-8, 7))
    assert float(scale.grad) == pytest.approx(float(slope.sum()) / (20 * 7) ** 0.5, rel=1e-4)
    assert name.endswith("w0_scale")
