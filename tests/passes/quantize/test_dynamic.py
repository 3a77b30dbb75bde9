"""quantize-dynamic: integers at run time, in ONNX Runtime's fused kernels."""

import onnx
import pytest
import torch
from torch import nn

from graphopt.backends import to_onnx, to_torch
from graphopt.errors import OptionError, PassError
from graphopt.frontends import capture
from graphopt.pipeline import optimize
from graphopt.runtime import run
from graphopt.runtime.compare import compare
from graphopt.runtime.ort import OrtSession, kernel_counts
from tests.passes.quantize.models import Maker, samples
from tests.passes.quantize.test_weights import Recurrent


def agreement(graph, inputs, **options):
    """Signal to noise ratio of ONNX Runtime's results against our executor's."""
    got = [torch.from_numpy(array) for array in OrtSession(to_onnx(graph), **options).run(inputs)]
    return compare(got, run(graph, inputs)).sqnr


@pytest.mark.parametrize("trans", [0, 1])
@pytest.mark.parametrize("options", ["", "{per-channel=false}", "{target=ort-cpu-avx2}"])
def test_products(trans, options):
    m = Maker((4, 24))
    turned = m.op("Transpose", m.random(7, 10), perm=[1, 0])
    graph = m.graph(m.op("MatMul", f"{m.gemm('x', 24, 10, trans)} {turned}"))
    inputs = samples(graph, 1)[0]
    exact = run(graph, inputs)
    report = optimize(graph, f"quantize-dynamic{options}", check=False)
    assert report.of("quantize-dynamic").counts == {"Gemm": 1, "MatMul": 1}
    assert not any(node.op in ("Gemm", "Transpose") for node in graph.nodes)
    assert compare(run(graph, inputs), exact).sqnr > (30 if not options else 25)
    assert agreement(graph, inputs, optimize=False) > 100
    assert kernel_counts(to_onnx(graph))["DynamicQuantizeMatMul"] == 2
    torch.testing.assert_close(to_torch(graph)(*inputs), run(graph, inputs)[0])
    scales = [v for n in graph.nodes if n.op == "Mul" for v in n.inputs if v.is_constant]
    assert {v.data.numel() for v in scales} == ({1} if "false" in options else {10, 7})
    stored = [n.operand(1).data for n in graph.nodes if n.op == "MatMulInteger"]
    assert {int(data.abs().max()) for data in stored} == {63 if "avx2" in options else 127}


def test_what_several_products_read_is_quantized_once():
    m = Maker((4, 24))
    graph = m.graph(m.op("Add", f"{m.op('MatMul', f'x {m.random(24, 8)}')} {m.op('MatMul', f'x {m.random(24, 8)}')}"))
    optimize(graph, "quantize-dynamic", check=False)
    assert sum(node.op == "DynamicQuantizeLinear" for node in graph.nodes) == 1


def test_transformer():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 32)
    graph = capture(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval(), (x,))
    exact, before = run(graph, (x,)), len(to_onnx(graph).SerializeToString())
    report = optimize(graph, "simplify,fuse,quantize-dynamic", check=False)
    assert sum(report.of("quantize-dynamic").counts.values()) == 4
    assert compare(run(graph, (x,)), exact).sqnr > 40
    model = to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    assert kernel_counts(model)["DynamicQuantizeMatMul"] == 4
    assert agreement(graph, (x,)) > 60
    assert len(model.SerializeToString()) < 0.6 * before


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_lstm(batch_first, bidirectional):
    torch.manual_seed(0)
    x = torch.randn(3, 4, 8)
    module = nn.LSTM(8, 16, batch_first=batch_first, bidirectional=bidirectional).eval()
    graph = capture(module, (x,))
    exact = run(graph, (x,))
    report = optimize(graph, "simplify,fuse,quantize-dynamic", check=False)
    assert report.of("quantize-dynamic").counts == {"LSTM": 1}
    graph.verify()
    assert compare(run(graph, (x,)), exact).sqnr > 35
    assert kernel_counts(to_onnx(graph))["DynamicQuantizeLSTM"] == 1
    assert agreement(graph, (x,)) > 35  # it rounds the hidden state, too
    torch.testing.assert_close(to_torch(graph)(x)[0], run(graph, (x,))[0])


def test_lstm_stays_float_where_the_target_has_no_kernel():
    tokens = torch.randint(50, (2, 7))
    graph = capture(Recurrent(nn.LSTM).eval(), (tokens,))
    report = optimize(graph, "quantize-dynamic{target=generic}", check=False)
    assert report.of("quantize-dynamic").counts == {"MatMul": 1}
    assert not any(node.domain for node in graph.nodes)


def test_what_stays_float():
    m = Maker((2, 4, 8, 8))
    product = m.op("MatMul", "x x")  # of activations
    graph = m.graph(m.op("MatMul", f"{product} {m.random(8, 8)}"))
    with pytest.raises(PassError, match="no product with a constant"):
        optimize(graph.clone(), "quantize-dynamic{ignore=n_matmul1*}", check=False)
    assert optimize(graph, "quantize-dynamic", check=False).of("quantize-dynamic").counts == {"MatMul": 1}
    with pytest.raises(PassError, match="no product with a constant"):
        optimize(graph, "quantize-dynamic", check=False)
    with pytest.raises(OptionError, match="no target 'nowhere'"):
        optimize(graph, "quantize-dynamic{target=nowhere}")
