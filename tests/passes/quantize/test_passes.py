"""The passes in pipelines: what they report, and what they refuse."""

import math

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from graphopt.backends import to_onnx
from graphopt.errors import DataError, GraphoptError, OptionError, PassError, PipelineError
from graphopt.frontends import load
from graphopt.ir import DType
from graphopt.passes.quantize.calibration import observe
from graphopt.passes.quantize.measure import MeasureError
from graphopt.passes.quantize.observers import MovingAverage
from graphopt.passes.quantize.pairs import activation_pairs
from graphopt.pipeline import Context, optimize, run_pipeline
from graphopt.runtime import run
from graphopt.runtime.compare import compare
from graphopt.runtime.ort import OrtSession, kernel_counts
from graphopt.runtime.samples import example_inputs
from graphopt.targets import Scheme
from tests.onnx_models import info, model, node, tensor
from tests.passes.quantize.models import Maker, quantize, samples
from tests.zoo import captured


def graph_of_convs():
    m = Maker((1, 32, 24, 24))
    return m.graph(m.op("Relu", m.conv(m.op("Relu", m.conv("x", 32, 32)), 32, 32)))


def test_quantize_is_close_and_says_how_close():
    graph = graph_of_convs()
    data, unseen = samples(graph, 8), samples(graph, 1, first=99)[0]
    want = run(graph, unseen)
    report = optimize(graph, "quantize", data)
    assert compare(run(graph, unseen), want).sqnr > 30
    details = report.of("measure-error").details
    assert details["output_sqnr_db"] > 30
    assert list(details["tensors"]) == ["x", "relu1", "relu3"]
    for figures in details["tensors"].values():
        assert figures["own_sqnr_db"] >= figures["sqnr_db"] - 0.5
    assert "2 Conv" in report.of("insert-qdq").notes[0]
    assert len(report.of("insert-qdq").details["integer"]) == 2
    assert not any("WARNING" in text for text in report.of("measure-error").notes)


def test_measure_error_warns():
    graph = quantize(graph_of_convs(), pack=False)
    changes = MeasureError(min_sqnr=90).run(graph, Context(graph, samples(graph, 2)))
    assert not changes.modified
    assert any(text.startswith("WARNING: below 90 dB") for text in changes.notes)


def test_measure_error_of_an_exact_quantization_is_infinite():
    m = Maker((1, 4))
    graph = quantize(m.graph(m.op("Add", f"{m.gemm('x', 4, 4)} {m.gemm('x', 4, 4)}")), pack=False)
    zeros = [(torch.zeros(1, 4),)]
    details = MeasureError().run(graph, Context(graph, zeros)).details
    assert details["tensors"]["x"]["sqnr_db"] == math.inf


@pytest.mark.parametrize("method", ["mse", "entropy", "minmax", "percentile", "moving-average"])
def test_every_method(method):
    graph = graph_of_convs()
    want = run(graph, samples(graph, 1)[0])
    run_pipeline(graph, f"insert-qdq,calibrate{{method={method}}}", Context(graph, samples(graph)))
    assert compare(run(graph, samples(graph, 1)[0]), want).sqnr > 25


def test_calibration_reads_no_more_batches_than_asked():
    graph = graph_of_convs()
    report = run_pipeline(graph, "insert-qdq,calibrate{batches=3}", Context(graph, samples(graph)))
    assert report.of("calibrate").notes == ("3 scales from 3 samples",)


def test_constant_zero_activations():
    graph = graph_of_convs()
    zeros = [(torch.zeros(1, 32, 24, 24),)]
    want = run(graph, zeros[0])
    optimize(graph, "quantize", zeros)
    assert compare(run(graph, zeros[0]), want).sqnr > 30


def test_a_model_whose_regions_do_not_pay_stays_float_and_the_report_says_so():
    m = Maker((1, 2, 4, 4))
    graph = m.graph(m.op("Tanh", m.conv("x", 2, 2, 1)))
    report = optimize(graph, "quantize", samples(graph))
    entry = report.of("insert-qdq")
    assert not report.modified
    assert entry.notes[:2] == (
        "nothing is on integers: floats are as fast everywhere",
        "would not be faster on integers: 1 Conv",
    )
    assert report.of("calibrate").skipped


def test_everything_overrules_profit_through_the_alias():
    m = Maker((1, 2, 4, 4))
    graph = m.graph(m.op("Tanh", m.conv("x", 2, 2, 1)))
    optimize(graph, "quantize{everything=true}", samples(graph))
    assert kernel_counts(to_onnx(graph))["QLinearConv"] == 1


# -- what is refused


def test_no_data():
    graph = graph_of_convs()
    before = str(graph)
    with pytest.raises(DataError, match="needs data"):
        run_pipeline(graph, "quantize", Context(graph))
    assert str(graph) == before


def test_empty_data():
    graph = graph_of_convs()
    with pytest.raises(DataError, match="no samples"):
        run_pipeline(graph, "quantize", Context(graph, []))


@pytest.mark.parametrize("empty", [iter([]), (), DataLoader([]), (each for each in ())])
def test_no_iterable_may_be_empty(empty):
    graph = graph_of_convs()
    with pytest.raises(DataError, match="no samples"):
        optimize(graph, "quantize", empty)
    assert not any(n.op == "QuantizeLinear" for n in graph.nodes)


def test_one_sample():
    graph = graph_of_convs()
    seen, unseen = samples(graph, 1), samples(graph, 1, first=99)[0]
    want = run(graph, unseen)
    report = optimize(graph, "quantize", seen)
    assert "from 1 samples" in report.of("calibrate").notes[0]
    assert compare(run(graph, unseen), want).sqnr > 25


def test_sizes_that_differ_from_sample_to_sample():
    m = Maker(("batch", 32, "height", "width"))
    graph = m.graph(m.op("Relu", m.conv(m.op("Relu", m.conv("x", 32, 32)), 32, 32)))
    shapes = [(1, 32, 24, 24), (3, 32, 8, 40), (2, 32, 17, 5), (0, 32, 8, 8)]
    generator = torch.Generator().manual_seed(0)
    data = [torch.randn(shape, generator=generator) for shape in shapes]
    want = run(graph, [data[1]])
    report = optimize(graph, "quantize{everything=true}", data)
    assert "from 6 samples" in report.of("calibrate").notes[0]
    for x in data:
        assert OrtSession(to_onnx(graph)).run([x])[0].shape == x.shape
    assert compare(OrtSession(to_onnx(graph)).run([data[1]]), want).sqnr > 30


def test_samples_without_rows():
    m = Maker(("batch", 32, 24, 24))
    graph = m.graph(m.op("Relu", m.conv(m.op("Relu", m.conv("x", 32, 32)), 32, 32)))
    with pytest.raises(DataError, match="no sample has a row"):
        optimize(graph, "quantize{everything=true}", [torch.zeros(0, 32, 24, 24)])


def test_nan_in_the_data():
    graph = graph_of_convs()
    bad = [(torch.full((1, 32, 24, 24), math.nan),)]
    with pytest.raises(DataError, match="'x' holds NaN"):
        run_pipeline(graph, "quantize", Context(graph, bad))


def test_an_activation_that_overflows_is_named():
    m = Maker((1, 8, 12, 12))
    graph = m.graph(m.conv(m.op("Exp", "x", "e")))
    huge = [(torch.full((1, 8, 12, 12), 100.0),)]
    with pytest.raises(DataError, match=r"holds NaN or infinity.*at e.*ignore=e"):
        run_pipeline(graph, "quantize{everything=true}", Context(graph, huge))


def test_a_quantized_model_is_not_quantized_again():
    graph = quantize(graph_of_convs())
    with pytest.raises(PassError, match="quantized already"):
        run_pipeline(graph, "quantize", Context(graph, samples(graph)))


def test_a_model_of_integer_operators_has_nothing_to_quantize():
    nodes = [node("MatMulInteger", "x w", "y")]
    graph = load(model(nodes, [info("x", [2, 3], 2)], ["y"], [tensor("w", torch.ones(3, 4).to(torch.uint8).numpy())]))
    with pytest.raises(PassError, match="finds nothing to quantize"):
        run_pipeline(graph, "insert-qdq", Context(graph))


@pytest.mark.parametrize(
    ("pipeline", "complaint"),
    [
        ("quantize{target=ort-cup}", "did you mean 'ort-cpu'"),
        ("calibrate{method=minmx}", "did you mean 'minmax'"),
        ("calibrate{percent=40}", "percent is 40"),
        ("calibrate{batches=-1}", "batches is -1"),
        ("measure-error{batches=0}", "batches is 0"),
        ("insert-qdq{ignre=x}", "did you mean 'ignore'"),
        ("insert-qdq{ignore=nowhere}", "'nowhere' matches no node"),
    ],
)
def test_bad_options(pipeline, complaint):
    graph = graph_of_convs()
    with pytest.raises((OptionError, PipelineError)) as caught:
        run_pipeline(graph, pipeline, Context(graph, samples(graph)))
    assert complaint in str(caught.value)
    assert not any(n.op == "QuantizeLinear" for n in graph.nodes)


def test_calibrating_for_another_target_is_refused(tmp_path):
    other = tmp_path / "other.toml"
    other.write_text(
        'name = "other"\ndoc = "."\nactivation = { dtype = "int8", symmetric = true }\n'
        'weight = { dtype = "int8", symmetric = true }\n'
        '[operators.Conv]\nrole = "compute"\ninputs = ["activation", "weight", "bias"]\n'
    )
    graph = graph_of_convs()
    context = Context(graph, samples(graph))
    run_pipeline(graph, f'insert-qdq{{target="{other}",everything=true}}', context)
    with pytest.raises(PassError, match="wants uint8"):
        run_pipeline(graph, "calibrate", context)
    want = run(graph_of_convs(), samples(graph)[0])
    run_pipeline(graph, f'calibrate{{target="{other}"}},pack-weights{{target="{other}"}}', context)
    assert compare(run(graph, samples(graph)[0]), want).sqnr > 25
    assert all(n.operand(2).dtype.name == "INT8" for n in graph.nodes if n.op == "QuantizeLinear")


def test_a_failing_pass_leaves_the_graph_as_it_was():
    graph = quantize(graph_of_convs(), pack=False)
    before = str(graph)
    with pytest.raises(GraphoptError):
        run_pipeline(graph, "calibrate", Context(graph, [(torch.full((1, 32, 24, 24), math.inf),)]))
    assert str(graph) == before


def test_dynamic_batch():
    m = Maker(("n", 32, 24, 24))
    graph = m.graph(m.conv(m.conv("x", 32, 32), 32, 32))
    data = [tuple(example_inputs(graph, seed=i, sizes={"n": 1 + i % 3})) for i in range(4)]
    report = optimize(graph, "quantize", data)
    assert report.of("calibrate").notes == ("3 scales from 7 samples",)
    assert kernel_counts(to_onnx(graph))["QLinearConv"] == 2


def test_moving_averages_of_tensors_that_share_a_scale_are_their_own():
    x = torch.linspace(-1, 1, 64).reshape(1, 64)
    m = Maker((1, 64))
    ten = m.constant(np.float32(10))
    graph = m.graph(m.op("Concat", f"x {m.op('Mul', f'x {ten}')}", axis=1))
    members = [graph.inputs[0], next(iter(graph.nodes)).output]
    found = observe(graph, {members[0]: members}, [(x,)] * 20, lambda: MovingAverage(0.1))
    low, high = found[members[0]].range(Scheme(DType.INT8, symmetric=True))
    assert (float(low), float(high)) == pytest.approx((-10, 10))


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v3", "vit", "lstm_tagger"])
def test_onnxruntime_measures_what_torch_measures(name):
    scales = []
    for runtime in ("torch", "onnxruntime"):
        graph = captured(name)
        step = f"simplify,fuse,insert-qdq{{everything=true}},calibrate{{runtime={runtime},method=minmax}}"
        optimize(graph, step, [example_inputs(graph, seed) for seed in range(3)], check=False)
        scales.append([float(pair.scale.data) for pair in activation_pairs(graph)])
    assert scales[0]
    assert scales[1] == pytest.approx(scales[0], rel=1e-3)


def test_onnxruntime_refuses_by_an_error_of_ours():
    graph = graph_of_convs()
    with pytest.raises(DataError, match="input"):
        run_pipeline(graph, "insert-qdq,calibrate{runtime=onnxruntime}", Context(graph, [(torch.zeros(1, 3, 2, 2),)]))
