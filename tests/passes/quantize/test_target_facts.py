"""What backends want, one fact per test: in ONNX Runtime by what it runs, elsewhere by where the pairs are."""

import numpy as np
import onnx
import pytest
import torch

from graphopt.backends import to_onnx, to_pt2e, to_torch
from graphopt.errors import UnsupportedOperatorError
from graphopt.ir import DType, Origin
from graphopt.passes.quantize.pairs import add_parameters, insert_pair
from graphopt.passes.quantize.placement import place
from graphopt.pipeline import optimize
from graphopt.runtime import run
from graphopt.runtime.ort import OrtSession, kernel_counts
from graphopt.targets import Scheme, available, load_target
from tests.passes.quantize.models import Maker, quantize, samples
from tests.passes.quantize.test_ort import images, kernels, made_by

U8 = Scheme(DType.UINT8)


def quantized_for(graph, target):
    option = f"target={target}"
    text = f"insert-qdq{{{option},everything=true}},calibrate{{{option}}},pack-weights{{{option}}}"
    optimize(graph, text, samples(graph), check=False)
    return graph


def pairs_on(graph, op):
    """For every node of `op`: which of its inputs come out of a DequantizeLinear."""
    nodes = [node for node in graph.nodes if node.op == op]
    return [[v.producer is not None and v.producer.op == "DequantizeLinear" for v in n.inputs if v] for n in nodes]


def activations_of(graph):
    return [node for node in graph.nodes if node.op == "QuantizeLinear"]


def residual(m=None):
    m = m or Maker((2, 16, 12, 12))
    a = m.op("Relu", m.conv("x", 16, 16))
    return m.graph(m.conv(m.op("Relu", m.op("Add", f"{m.conv(a, 16, 16)} {a}")), 16, 16))


# -- ONNX Runtime on the CPU


def test_ort_has_scales_of_weights_along_outputs():
    m = Maker((4, 24))
    p = m.op("MatMul", f"x {m.random(24, 16)}")
    graph = quantize(m.graph(m.gemm(m.gemm(p, 16, 8, 1), 8, 6, 0)))
    scales = {n.op: n.operand(1).producer.operand(1).shape for n in graph.nodes if n.op in ("MatMul", "Gemm")}
    assert scales == {"MatMul": (16,), "Gemm": (6,)}


@pytest.mark.parametrize("op", sorted(load_target("ort-cpu").operators["Conv"].float_absorb))
def test_ort_computes_with_float_convolutions_alone(op):
    """A hard-swish costs next to nothing behind a float convolution, and two kernels of its own behind integers."""
    m = Maker()
    graph = m.graph(m.conv(m.op(op, m.conv("x"))))
    apart = {"HardSigmoid", "HardSwish", "Mul", "Tanh"}
    assert not apart & kernels(graph).keys()
    assert apart & kernels(quantized_for(graph, "ort-cpu")).keys()


def test_ort_has_no_integer_kernel_for_conv_transpose():
    m = Maker()
    up = m.op("ConvTranspose", f"{m.conv('x')} {m.random(8, 8, 2, 2)}")
    graph = quantized_for(m.graph(up), "qnn")  # quantizes it, scales along axis 1
    weight = next(n for n in graph.nodes if n.op == "ConvTranspose").operand(1).producer
    assert weight.attributes["axis"] == 1
    assert kernels(graph)["ConvTranspose"] == 1


def test_ort_quantizes_a_float_bias_by_itself():
    """Older versions lost the integer kernel; 1.32 makes the int32 bias itself. ort-cpu does not rely on that."""
    m = Maker()
    graph = quantized_for(m.graph(m.conv(m.op("Relu", m.conv("x")))), "openvino")
    assert not pairs_on(graph, "Conv")[0][2]
    assert kernels(graph)["QLinearConv"] == 1  # the second one writes floats, which ONNX Runtime's kernel cannot


@pytest.mark.parametrize("op", ["Relu", "Clip"])
def test_ort_wants_the_quantizer_after_the_activation_alone(op):
    m = Maker()
    bounds = "" if op == "Relu" else f" {m.constant(np.float32(0))} {m.constant(np.float32(6))}"
    graph = quantize(m.graph(m.conv(m.op(op, m.conv("x") + bounds))))
    assert kernels(graph)["DequantizeLinear"] == 1
    activation = next(n for n in graph.nodes if n.op == op)
    scale, zero = add_parameters(graph, "early", torch.tensor(0.05), torch.tensor(128).to(torch.uint8), U8)
    early = insert_pair(graph, activation.operand(0), scale, zero, None, None, Origin())
    activation.set_input(0, early.dequantize.output)
    assert kernels(graph)["DequantizeLinear"] == 2  # the numbers are quantized once more behind the activation


@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_ort_wants_all_inputs_of_a_join_quantized(op):
    m = Maker()
    a = m.op("Relu", m.conv("x"))
    graph = quantize(m.graph(m.op(op, f"{m.conv(a)} {a}")))
    assert kernels(graph)[f"QLinear{op}"] == 1
    join = next(n for n in graph.nodes if n.op == op)
    join.set_input(1, join.operand(1).producer.operand(0).producer.operand(0))
    assert kernels(graph)[f"QLinear{op}"] == 0


MOVERS = {
    "MaxPool": lambda m, a: m.op("MaxPool", a, kernel_shape=[2, 2]),
    "Transpose": lambda m, a: m.op("Transpose", a, perm=[0, 1, 3, 2]),
    "Reshape": lambda m, a: m.op("Reshape", f"{a} {m.constant([1, 8, 24, 6])}"),
    "Slice": lambda m, a: m.op("Slice", f"{a} {m.constant([0])} {m.constant([6])} {m.constant([2])}"),
    "Resize": lambda m, a: m.op("Resize", f"{a} _ {m.constant(np.float32([1, 1, 2, 2]))}", mode="nearest"),
    "Split": lambda m, a: m.op("Add", m.op("Split", a, "s1 s2", axis=2, num_outputs=2)),
}


@pytest.mark.parametrize("op", MOVERS)
def test_ort_moves_integers_where_both_scales_are_one(op):
    m = Maker()
    graph = quantize(m.graph(m.conv(MOVERS[op](m, m.conv("x")))))
    assert kernels(graph)["DequantizeLinear"] == 1  # what leaves the graph
    pair = next(n for n in graph.nodes if n.op == op).outputs[0].users[0]
    other = graph.add_constant(pair.operand(1).data * 1.5, "other")
    for node in (pair, pair.output.users[0]):
        node.set_input(1, other)
    assert kernels(graph)["DequantizeLinear"] > 1


def test_without_vnni_weights_of_seven_bits_do_not_saturate():
    limit = load_target("ort-cpu-avx2").weight.limits[1]
    pair = 2 * 255  # two products of u8 activations are added up in 16 bits
    assert pair * limit <= 2**15 - 1 < pair * load_target("ort-cpu").weight.limits[1]
    graph = quantized_for(images(), "ort-cpu-avx2")
    stored = [n.operand(0).data for n in graph.nodes if n.op == "DequantizeLinear" and n.operand(0).dtype is DType.INT8]
    assert len(stored) == 5
    assert max(int(data.abs().max()) for data in stored) == limit
    assert kernels(graph)["QLinearConv"] == 4


# -- TensorRT, and what others share with it


def test_tensorrt_is_symmetric_per_tensor_and_per_channel():
    graph = quantized_for(images(), "tensorrt")
    for node in activations_of(graph):
        assert node.operand(2).dtype is DType.INT8
        assert node.operand(1).rank == 0
        assert not node.operand(2).data.any()
    for node in graph.nodes:
        if node.op == "Conv":
            weight = node.operand(1).producer
            assert weight.operand(1).shape == (weight.operand(0).shape[0],)
            assert int(weight.operand(0).data.min()) >= -127


@pytest.mark.parametrize("target", ["tensorrt", "openvino", "torch-inductor", "generic"])
def test_biases_stay_float_and_outputs_are_not_quantized(target):
    graph = quantized_for(images(), target)
    assert all(flags[:2] == [True, True] and not flags[2] for flags in pairs_on(graph, "Conv"))
    assert graph.outputs[0].producer.op == "Gemm"
    assert DType.INT32 not in {n.operand(0).dtype for n in graph.nodes if n.op == "DequantizeLinear"}


@pytest.mark.parametrize("target", ["tensorrt", "openvino", "torch-inductor"])
def test_a_residual_add_has_one_pair_on_the_skip_branch(target):
    graph = quantized_for(residual(), target)
    (flags,) = pairs_on(graph, "Add")
    assert flags == [False, True]
    assert made_by(next(n for n in graph.nodes if n.op == "Add").operand(1).producer.operand(0).producer) == "Relu"


def test_of_two_convolutions_the_last_takes_the_add():
    m = Maker((1, 8, 12, 12))
    a = m.op("Relu", m.conv("x"))
    first, last = m.conv(a, kernel=1), m.conv(a)
    graph = quantized_for(m.graph(m.conv(m.op("Add", f"{last} {first}"))), "tensorrt")
    add = next(n for n in graph.nodes if n.op == "Add")
    assert add.operand(0).name == last
    assert add.operand(1).producer.operand(0).producer.operand(0).name == first


def test_an_output_of_a_convolution_that_others_read_too_is_no_fused_side():
    m = Maker((1, 8, 12, 12))
    a = m.op("Relu", m.conv("x"))
    c = m.conv(a)
    graph = quantized_for(m.graph(m.conv(m.op("Add", f"{c} {a}")), m.op("Neg", c)), "tensorrt")
    assert pairs_on(graph, "Add") == [[True, True]]


def test_tensorrt_has_no_pairs_around_what_only_moves_numbers():
    m = Maker()
    graph = quantized_for(m.graph(m.conv(m.op("MaxPool", m.op("Relu", m.conv("x")), kernel_shape=[2, 2]))), "tensorrt")
    assert pairs_on(graph, "MaxPool") == [[False]]
    assert [made_by(node) for node in activations_of(graph)] == ["", "MaxPool"]


def test_products_of_activations_are_quantized_where_the_target_multiplies_operands():
    m = Maker((2, 4, 8, 8))
    graph = quantized_for(m.graph(m.op("MatMul", f"{m.op('MatMul', 'x x')} {m.random(8, 8)}")), "tensorrt")
    assert pairs_on(graph, "MatMul") == [[True, True], [True, True]]


# -- OpenVINO, QNN


def test_openvino_has_one_scale_around_a_concat_whatever_goes_in():
    m = Maker()
    parts = f"{m.op('Relu', m.conv('x'))} {m.conv('x')}"
    graph = quantized_for(m.graph(m.conv(m.op("Concat", parts, axis=1), 16)), "openvino")
    concat = next(n for n in graph.nodes if n.op == "Concat")
    scales = {id(v.producer.operand(1)) for v in concat.inputs}
    assert scales == {id(concat.output.users[0].operand(1))}
    weights = [n.operand(0).data for n in graph.nodes if n.op == "DequantizeLinear" and n.operand(0).is_constant]
    assert all(int(data.min()) >= -127 for data in weights)


def test_qnn_has_pairs_on_all_sides_of_everything():
    graph = quantized_for(images(), "qnn")
    for node in graph.nodes:
        if node.op in ("QuantizeLinear", "DequantizeLinear", "Flatten", "Relu", "Clip"):
            continue
        assert all(v.producer and v.producer.op == "DequantizeLinear" for v in node.inputs if v), node.op
        absorbed = node.output.users[0] if node.output.users[0].op in ("Relu", "Clip") else node
        assert absorbed.output.users[0].op == "QuantizeLinear", node.op


def test_a_kernel_that_insists_on_its_output_scale_gets_it():
    m = Maker()
    graph = quantized_for(m.graph(m.op("Tanh", m.conv(m.op("Sigmoid", m.conv("x"))))), "qnn-a16")
    got = {made_by(n): (float(n.operand(1).data), int(n.operand(2).data)) for n in activations_of(graph)}
    assert got["Sigmoid"] == (2**-16, 0)
    assert got["Tanh"] == (2**-15, 2**15)
    assert all(n.operand(2).dtype is DType.UINT16 for n in activations_of(graph))
    inputs = samples(graph, 1, first=9)[0]
    np.testing.assert_allclose(OrtSession(to_onnx(graph)).run(inputs)[0], run(graph, inputs)[0].numpy(), atol=1e-3)


# -- opsets

OPSETS = [
    ('activation = { dtype = "uint8" }\nweight = { dtype = "int8", symmetric = true, per_channel = true }', 13),
    ("\n".join(f'{kind} = {{ dtype = "float8e4m3fn", symmetric = true }}' for kind in ("activation", "weight")), 19),
    ('activation = { dtype = "uint16" }\nweight = { dtype = "int8", symmetric = true }', 21),
    ('activation = { dtype = "uint8" }\nweight = { dtype = "int4", symmetric = true }', 21),
    ('activation = { dtype = "uint8" }\nweight = { dtype = "int8", symmetric = true, block = 4 }', 21),
]  # fmt: skip


@pytest.mark.parametrize(("schemes", "opset"), OPSETS, ids=["per-channel", "float8", "int16", "int4", "blocked"])
def test_the_opset_that_numbers_need(tmp_path, schemes, opset):
    path = tmp_path / "mine.toml"
    path.write_text(
        f'name = "mine"\ndoc = "."\n{schemes}\n[operators.Conv]\nrole = "compute"\n'
        'inputs = ["activation", "weight", "float"]\n'
    )
    m = Maker()
    graph = quantized_for(m.graph(m.conv("x")), path)
    assert to_onnx(graph, opset).opset_import[0].version == opset
    if opset > 13:
        with pytest.raises(UnsupportedOperatorError):
            to_onnx(graph, opset - 1)
    model = to_onnx(graph)
    inputs = samples(graph, 1, first=9)[0]
    want = run(graph, inputs)[0].numpy()
    got = OrtSession(model, optimize=False).run(inputs)[0]
    np.testing.assert_allclose(got, want, atol=1e-3 * np.abs(want).max())


# -- torch


def test_inductor_gets_quantized_operators_that_export():
    graph = quantized_for(residual(), "torch-inductor")
    module = to_pt2e(graph)
    inputs = samples(graph, 1, first=9)[0]
    torch.testing.assert_close(module(*inputs), to_torch(graph)(*inputs).detach())
    program = torch.export.export(module, inputs)
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert names.count("quantized_decomposed.dequantize_per_channel.default") == 3
    assert names.count("quantized_decomposed.quantize_per_tensor.default") == 3
    assert not any("fake" in name for name in names)
    stored = [buffer for _, buffer in module.named_buffers() if buffer.dtype is torch.int8 and buffer.dim() == 4]
    assert len(stored) == 3
    assert not [p for p in module.parameters() if p.dim() == 4]


def test_what_torch_has_no_quantized_type_for(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('extends = "torch-inductor"\nname = "mine"\n[weight]\ndtype = "int4"\n')
    graph = quantized_for(residual(), path)
    with pytest.raises(UnsupportedOperatorError, match="no quantized type for -8 to 7"):
        to_pt2e(graph)


# -- OpenVINO itself


@pytest.mark.parametrize("target", ["openvino", "ort-cpu", "tensorrt"])
def test_openvino_executes_integers(target):
    openvino = pytest.importorskip("openvino")
    graph = quantized_for(residual(), target)
    core = openvino.Core()
    model = core.read_model(to_onnx(graph).SerializeToString())
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    infos = [op.get_rt_info() for op in compiled.get_runtime_model().get_ordered_ops()]
    kinds = [(info["layerType"].astype(str), info["runtimePrecision"].astype(str)) for info in infos]
    assert [p in ("u8", "i8") for kind, p in kinds if kind == "Convolution"] == [True] * 3
    inputs = samples(graph, 1, first=9)[0]
    want = run(graph, inputs)[0].numpy()
    np.testing.assert_allclose(compiled(inputs[0].numpy())[0], want, atol=0.02 * np.abs(want).max())


@pytest.mark.parametrize("target", available())
def test_every_target_makes_a_file_that_the_checker_and_onnx_runtime_take(target):
    graph = quantized_for(residual(), target)
    model = to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    limit = load_target(target).opset
    assert not limit or model.opset_import[0].version <= limit
    assert place(residual(), load_target(target), everything=True).integer
    inputs = samples(graph, 1, first=9)[0]
    want = run(graph, inputs)[0].numpy()
    got = OrtSession(model).run(inputs)[0]
    np.testing.assert_allclose(got, want, atol=0.03 * np.abs(want).max())
    assert kernel_counts(model)
