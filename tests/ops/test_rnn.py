"""Recurrent networks against ONNX Runtime."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from graphopt.errors import OptionError, ShapeError
from graphopt.ops import execute, record_of
from tests.ops.oracle import check, graph_of

RNG = np.random.default_rng(0)
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
T, B, X, H = 5, 3, 4, 6


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def inputs(op, dirs=1, bias=True, lengths=None, states=False, peepholes=False, layout=0):
    gates = GATES[op]
    found = [array(*((B, T, X) if layout else (T, B, X))), array(dirs, gates * H, X), array(dirs, gates * H, H) / 2,
             array(dirs, 2 * gates * H) if bias else None,
             None if lengths is None else np.array(lengths, dtype=np.int32)]  # fmt: skip
    for _ in range(2 if op == "LSTM" else 1):
        found.append(array(*((B, dirs, H) if layout else (dirs, B, H))) if states else None)
    if peepholes:
        found.append(array(dirs, 3 * H))
    while found[-1] is None:
        found.pop()
    return found


def outputs(op):
    return 3 if op == "LSTM" else 2


DIRECTIONS = [("forward", 1), ("reverse", 1), ("bidirectional", 2)]
OPS = ["RNN", "GRU", "LSTM"]
SYMBOLIC = {0: ("t", "n", X)}


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(("direction", "dirs"), DIRECTIONS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("states", [False, True])
def test_directions_and_states(op, direction, dirs, bias, states):
    for more in ({}, {"linear_before_reset": 1}) if op == "GRU" else ({},):
        check(op, inputs(op, dirs, bias, states=states), outputs(op), hidden_size=H, direction=direction,
              symbolic=None if states else SYMBOLIC, **more)  # fmt: skip


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(("direction", "dirs"), DIRECTIONS)
@pytest.mark.parametrize("states", [False, True])
def test_sequence_lengths(op, direction, dirs, states):
    check(op, inputs(op, dirs, lengths=[5, 2, 3], states=states), outputs(op), hidden_size=H, direction=direction)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("states", [False, True])
def test_batch_first(op, states):
    check(op, inputs(op, states=states, layout=1), outputs(op), hidden_size=H, layout=1, reference=True,
          symbolic=None if states else {0: ("n", "t", X)})  # fmt: skip


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(("direction", "dirs"), DIRECTIONS)
def test_batch_first_is_the_same_network(op, direction, dirs):
    found = inputs(op, dirs, states=True, lengths=[5, 2, 3])
    tensors = [torch.from_numpy(a) for a in found]
    swapped = [t.transpose(0, 1) if i in (0, 5, 6) else t for i, t in enumerate(tensors)]
    results = []
    for layout, arguments in ((0, tensors), (1, swapped)):
        _, node = graph_of(op, [a.numpy() for a in arguments], outputs(op), direction=direction, layout=layout)
        results.append((execute(node, arguments), record_of(node).infer(node)))
    y, *last = results[0][0]
    back = [results[1][0][0].permute(1, 2, 0, 3), *(s.transpose(0, 1) for s in results[1][0][1:])]
    for mine, theirs, kind in zip([y, *last], back, results[1][1], strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)
        assert kind.shape is not None
    assert [k.shape for k in results[1][1]] == [tuple(t.shape) for t in results[1][0]]


@pytest.mark.parametrize("op", OPS)
def test_clip(op):
    for more in ({}, {"linear_before_reset": 1}) if op == "GRU" else ({},):
        check(op, inputs(op), outputs(op), hidden_size=H, clip=0.7, **more)


ACTIVATIONS = ["Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu",
               "Softsign", "Softplus"]  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    takes = {"Affine": 2, "ScaledTanh": 2, "HardSigmoid": 2, "LeakyRelu": 1, "ThresholdedRelu": 1, "Elu": 1}.get(
        name, 0
    )
    more = {}
    if takes:
        more["activation_alpha"] = [0.3]
    if takes > 1:
        more["activation_beta"] = [0.4]
    check("RNN", inputs("RNN"), 2, hidden_size=H, activations=[name], **more)
    check("GRU", inputs("GRU"), 2, hidden_size=H, activations=["Sigmoid", name], **more)
    check("LSTM", inputs("LSTM"), 3, hidden_size=H, activations=["Sigmoid", name, "Tanh"], **more)


def test_activations_of_both_directions():
    more = {"activation_alpha": [0.3, 0.1], "activation_beta": [0.4]}
    check("GRU", inputs("GRU", 2), 2, hidden_size=H, direction="bidirectional",
          activations=["HardSigmoid", "Tanh", "Sigmoid", "LeakyRelu"], **more)  # fmt: skip
    check("RNN", inputs("RNN", 2), 2, hidden_size=H, direction="bidirectional", activations=["Relu", "Tanh"])


@pytest.mark.parametrize(("direction", "dirs"), DIRECTIONS)
def test_peepholes(direction, dirs):
    check("LSTM", inputs("LSTM", dirs, states=True, peepholes=True), 3, hidden_size=H, direction=direction)


def test_input_forget():
    check("LSTM", inputs("LSTM"), 3, hidden_size=H, input_forget=1)


@pytest.mark.parametrize("op", OPS)
def test_macs(op):
    found = inputs(op, 2)
    _graph, node = graph_of(op, found, outputs(op), direction="bidirectional", hidden_size=H)
    macs = record_of(node).macs(node)
    assert macs == T * B * 2 * GATES[op] * H * (X + H)
    node.attributes["clip"] = 100.0  # takes the loop, whose products torch counts
    with FlopCounterMode(display=False) as counter:
        execute(node, [torch.from_numpy(a) for a in found])
    assert counter.get_total_flops() == 2 * macs


@pytest.mark.parametrize("op", OPS)
def test_no_time_steps(op):
    found = inputs(op)
    found[0] = found[0][:0]
    _, node = graph_of(op, found, outputs(op), hidden_size=H)
    got = execute(node, [torch.from_numpy(a) for a in found])
    assert got[0].shape == (0, 1, B, H)
    assert not got[1].any()


@pytest.mark.parametrize(
    ("change", "words"),
    [({1: array(1, 4 * H, X + 1)}, "W has shape"), ({2: array(1, 4 * H + 1, H)}, "R has shape"),
     ({3: array(1, 4 * H)}, "B has shape"), ({0: array(T, X)}, "rank 2"), ({1: array(2, 4 * H, X)}, "forward")],
)  # fmt: skip
def test_errors(change, words):
    found = [change.get(i, a) for i, a in enumerate(inputs("LSTM"))]
    _, node = graph_of("LSTM", found, 3)
    with pytest.raises(ShapeError, match=words):
        record_of(node).infer(node)


def test_unknown_activation():
    found = inputs("RNN")
    _, node = graph_of("RNN", found, 2, activations=("Tahn",))
    with pytest.raises(OptionError, match="did you mean 'tanh'"):
        execute(node, [torch.from_numpy(a) for a in found])
