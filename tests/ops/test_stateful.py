"""LinearAttention and CausalConvWithState against onnx.reference."""

import numpy as np
import pytest
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator
from torch.utils.flop_counter import FlopCounterMode

from graphopt.errors import DataError, OptionError, ShapeError
from graphopt.ir import DType, TensorType
from graphopt.ir import dims as D
from graphopt.ops import execute, record_of
from graphopt.ops.stateful import causal_conv
from tests.ops.values import model_of, node_of, same

RNG = np.random.default_rng(0)


def array(*shape, dtype=np.float32):
    return (RNG.standard_normal(shape) * 0.5).astype(dtype)


def check(op, inputs, outputs, symbolic, **attributes):
    """Computation against onnx.reference at opset 27, type rule with the named dimensions in `symbolic`."""
    model = model_of(op, inputs, outputs, **attributes)
    model.opset_import[0].CopyFrom(helper.make_opsetid("", 27))
    want = ReferenceEvaluator(model).run(None, {f"x{i}": a for i, a in enumerate(inputs) if a is not None})
    kinds = [None if a is None else TensorType.make(DType.of(torch.from_numpy(a).dtype), symbolic.get(i, a.shape))
             for i, a in enumerate(inputs)]  # fmt: skip
    node = node_of(op, *kinds, outputs=outputs, **attributes)
    got = execute(node, [None if a is None else torch.from_numpy(a) for a in inputs])
    binding = {
        n: s for i, names in symbolic.items() for n, s in zip(names, inputs[i].shape, strict=True) if type(n) is str
    }
    for mine, theirs, kind in zip(got, want, record_of(node).infer(node), strict=True):
        tolerance = {"rtol": 2e-3, "atol": 2e-3} if theirs.dtype == np.float16 else {"rtol": 1e-4, "atol": 1e-5}
        np.testing.assert_allclose(mine.numpy(), theirs, **tolerance)
        assert mine.numpy().dtype == theirs.dtype
        assert kind.dtype.torch == mine.dtype
        assert tuple(D.substitute(d, binding) for d in kind.shape) == tuple(mine.shape)
    return node


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
@pytest.mark.parametrize(("heads", "groups"), [(2, 2), (4, 2), (4, 1)])
@pytest.mark.parametrize("past", [False, True])
def test_linear_attention(rule, heads, groups, past):
    steps, depth, size = 5, 3, 4
    state = array(2, groups, depth, size) if past else None
    decay = array(2, steps, groups if past else groups * depth) if "gated" in rule else None
    beta = array(2, steps, 1 if heads == 4 else groups) if "delta" in rule else None
    packed = [array(2, steps, width) for width in (heads * depth, groups * depth, groups * size)]
    inputs = [*packed, state, decay, beta]
    while inputs[-1] is None:
        inputs.pop()
    check("LinearAttention", inputs, 2, {0: ("b", "t", heads * depth)}, q_num_heads=heads, kv_num_heads=groups,
          update_rule=rule, **({"scale": 0.7} if past else {}))  # fmt: skip


def test_linear_attention_in_half_precision():
    inputs = [array(1, 3, 4, dtype=np.float16), array(1, 3, 4, dtype=np.float16), array(1, 3, 4, dtype=np.float16),
              array(1, 2, 2, 2)]  # fmt: skip
    check("LinearAttention", inputs, 2, {}, q_num_heads=2, kv_num_heads=2, update_rule="linear")


def test_linear_attention_over_no_steps():
    node = node_of("LinearAttention", outputs=2, q_num_heads=4, kv_num_heads=2, update_rule="linear")
    output, state = execute(node, [torch.zeros(1, 0, 12), torch.zeros(1, 0, 6), torch.zeros(1, 0, 8)])
    assert tuple(output.shape) == (1, 0, 16)
    assert tuple(state.shape) == (1, 2, 3, 4)


def test_linear_attention_refuses():
    kind = TensorType(DType.FLOAT32, (1, 2, 4))
    tensors = [torch.zeros(1, 2, 4)] * 3
    with pytest.raises(DataError, match="a decay and a beta"):
        execute(node_of("LinearAttention", *[kind] * 3, q_num_heads=2, kv_num_heads=2), tensors)
    with pytest.raises(OptionError, match="update_rule 'rnn'"):
        execute(node_of("LinearAttention", *[kind] * 3, q_num_heads=2, kv_num_heads=2, update_rule="rnn"), tensors)
    for shape, heads, words in [((1, 4), 2, "rank 2"), ((1, 2, 4), 3, "no multiple of kv_num_heads 2")]:
        node = node_of("LinearAttention", *[TensorType(DType.FLOAT32, shape)] * 3, q_num_heads=heads, kv_num_heads=2)
        with pytest.raises(ShapeError, match=words):
            record_of(node).infer(node)


def test_linear_attention_macs():
    kinds = [
        TensorType(DType.FLOAT32, (2, 5, 8)),
        TensorType(DType.FLOAT32, (2, 5, 4)),
        TensorType(DType.FLOAT32, (2, 5, 6)),
    ]
    node = node_of("LinearAttention", *kinds, q_num_heads=4, kv_num_heads=2, update_rule="linear")
    # 10 steps; a state of 2 x 3 is written for each of 2 heads and read for each of 4.
    assert record_of(node).macs(node) == 10 * (2 + 4) * 6


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("attributes", [{}, {"activation": "silu"}, {"activation": "swish"}])
def test_causal_conv(size, past, attributes):
    inputs = [array(2, 3, 6), array(3, 1, size), array(3), array(2, 3, size - 1) if past else None][: 4 if past else 3]
    check("CausalConvWithState", inputs, 2, {0: ("b", 3, "l")}, **attributes)
    check("CausalConvWithState", inputs[:2], 2, {0: ("b", 3, "l")}, **attributes)


def test_causal_conv_in_pieces_is_the_same():
    x, w = torch.from_numpy(array(1, 2, 9)), torch.from_numpy(array(2, 1, 3))
    whole, _ = causal_conv(x, w)
    first, state = causal_conv(x[..., :1], w)
    second, _ = causal_conv(x[..., 1:], w, None, state)
    same(torch.cat([first, second], 2), whole.numpy())


def test_causal_conv_costs_what_torch_counts():
    kinds = [TensorType(DType.FLOAT32, (2, 3, 6)), TensorType(DType.FLOAT32, (3, 1, 4))]
    node = node_of("CausalConvWithState", *kinds, outputs=2)
    node.output.type = record_of(node).infer(node)[0]
    with FlopCounterMode(display=False) as counter:
        execute(node, [torch.zeros(2, 3, 6), torch.zeros(3, 1, 4)])
    assert 2 * record_of(node).macs(node) == counter.get_total_flops() > 0


def test_causal_conv_refuses():
    for shapes, words in [(((2, 3), (3, 1, 4)), "must be"), (((2, 3, 6), (3, 2, 4)), "must be"),
                          (((2, 4, 6), (3, 1, 4)), "4 channels")]:  # fmt: skip
        node = node_of("CausalConvWithState", *(TensorType(DType.FLOAT32, s) for s in shapes), outputs=2)
        with pytest.raises(ShapeError, match=words):
            record_of(node).infer(node)
    with pytest.raises(OptionError, match="activation 'relu'"):
        causal_conv(torch.zeros(1, 1, 2), torch.zeros(1, 1, 1), activation="relu")
