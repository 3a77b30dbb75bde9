import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import graphopt as go
from graphopt.analysis import propagate
from graphopt.analysis.cost import Cost, is_weight, node_cost, sample_sizes
from graphopt.ir import DType, Graph, Node, TensorType
from graphopt.models import CNNS, ZOO, build
from graphopt.models.resnet import resnet50
from tests.zoo import captured


def macs_of(module, args) -> int:
    # The counter knows no fused attention of the CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*args)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", [name for name in ZOO if name not in ("lstm_tagger", "gru_classifier")])
def test_macs_of_the_zoo_against_torch_s_counter(name):
    module, args = build(name)
    cost = Cost(captured(name))
    assert cost.macs == pytest.approx(macs_of(module, args), rel=1e-3)
    assert not cost.unknown
    state = sum(v.numel() for v in (*module.parameters(), *module.buffers()) if v.is_floating_point())
    assert state <= cost.weights <= (state + 10 if name in CNNS else 1.1 * state)  # masks and tables are constants too


def test_recurrent_layers_against_a_count_by_hand():
    module, args = build("lstm_tagger")
    cost = Cost(captured("lstm_tagger"))
    (ids,) = args
    want = sum(p.numel() for n, p in module.named_parameters() if p.dim() == 2 and "embed" not in n) * ids.numel()
    assert cost.macs == want


def test_resnet50_has_the_published_numbers():
    module, args = resnet50()
    graph = go.capture(module, args, dynamic=[{0: "batch"}])
    cost = Cost(graph)
    assert round(cost.macs / 1e9, 2) == 4.09
    assert sum(p.data.numel() for p in graph.parameters if not p.parameter.buffer) == 25_557_032


def test_weights_are_counted_once_and_as_stored():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, (2, 4)))
    shared = graph.add_constant(torch.zeros(4, 4), "w")
    packed = graph.add_constant(torch.zeros(4, 6, dtype=torch.int8), "q", dtype=DType.INT4)
    scale = graph.add_constant(torch.tensor(0.1), "s")
    graph.add_constant(torch.zeros(100), "unused")
    y = graph.add("MatMul", graph.add("MatMul", x, shared), shared)
    y = graph.add("MatMul", y, graph.add("DequantizeLinear", packed, scale))
    y = graph.add("Reshape", y, graph.add_constant(torch.tensor([3, 4])))
    graph.add_output(y, "y")
    propagate(graph)
    cost = Cost(graph)
    assert cost.weights == 16 + 24 + 1
    assert cost.weight_bytes == 64 + 12 + 4
    assert cost.macs == 2 * (16 + 16 + 24)
    assert cost.activation_bytes == 4 * (8 + 8 + 24 + 12 + 12)
    first = cost.nodes[0]
    assert (first.weights, first.bytes_read, first.bytes_written) == (16, 96, 32)


def test_named_dimensions_count_as_one_sample():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, ("batch", 4)))
    graph.add_output(graph.add("MatMul", x, graph.add_constant(torch.zeros(4, 5))), "y")
    propagate(graph)
    cost = Cost(graph)
    assert cost.macs == 20
    assert node_cost(cost.nodes[0].node, {"batch": 7}).macs == 140
    assert (cost.nodes[0].bytes_read, cost.nodes[0].bytes_written) == (16 + 80, 20)


def test_what_cannot_be_told_is_listed():
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.FLOAT32, None))
    graph.add_output(graph.add("MatMul", x, graph.add_constant(torch.zeros(4, 5))), "y")
    graph.add_output(graph.append(Node("Secret", [x], domain="my.domain")).output, "z")
    propagate(graph)
    cost = Cost(graph)
    assert cost.macs == 0
    assert [node.op for node in cost.unknown] == ["MatMul", "Secret"]


def test_a_size_for_which_one_is_too_small_is_not_counted():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, (1, 1, "n")))
    graph.add_output(graph.add("Conv", x, graph.add_constant(torch.zeros(2, 1, 5))), "y")  # n - 4 windows
    propagate(graph)
    assert (Cost(graph).macs, len(Cost(graph).unknown)) == (0, 1)
    (node,) = graph.nodes
    assert node_cost(node, {"n": 6}).macs == 2 * 5 * 2


def test_bodies_count():
    graph = Graph()
    condition = graph.add_input("c", TensorType.make(DType.BOOL, ()))
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, (2, 4)))
    bodies = {}
    for name in ("then_branch", "else_branch"):
        body = Graph(name)
        body.add_output(body.add("MatMul", x, body.add_constant(torch.zeros(4, 3))), "r")
        bodies[name] = body
    graph.add_output(graph.append(Node("If", [condition], bodies)).output, "y")
    propagate(graph)
    assert (Cost(graph).macs, Cost(graph).weights, len(Cost(graph).nodes)) == (48, 24, 3)


def test_weights_are_numbers_that_nobody_overrides():
    graph = Graph()
    assert is_weight(graph.add_constant(torch.zeros(2)))
    assert is_weight(graph.add_constant(torch.zeros(2, dtype=torch.int8)))
    assert not is_weight(graph.add_constant(torch.zeros(2, dtype=torch.int64)))
    assert not is_weight(graph.add_constant(torch.zeros(2, dtype=torch.bool)))
    assert not is_weight(graph.add_input("x", TensorType(DType.FLOAT32, (2,)), default=torch.zeros(2)))
    assert node_cost(graph.append(Node("Relu", [graph.inputs[0]]))).macs == 0


def test_sizes_in_use_are_those_of_the_samples_without_their_number():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(DType.FLOAT32, ("batch", 4, "width")))
    mask = graph.add_input("mask", TensorType.make(DType.FLOAT32, ("batch", "width", "rows")))
    graph.add_output(graph.add("MatMul", x, mask), "y")
    propagate(graph)
    sizes = sample_sizes(graph.inputs, [torch.zeros(7, 4, 5), torch.zeros(7, 5, 3)])
    assert sizes == {"width": 5, "rows": 3}
    cost = Cost(graph, sizes)
    assert cost.macs == 4 * 5 * 3
    assert (cost.nodes[0].macs, cost.nodes[0].bytes_read) == (60, 4 * (4 * 5 + 5 * 3))
