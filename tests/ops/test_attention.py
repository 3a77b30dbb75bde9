"""Attention and rotary embedding against ONNX Runtime and onnx.reference."""

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from graphopt.errors import ShapeError
from graphopt.ops import execute, find, record_of
from tests.ops.oracle import check, graph_of

RNG = np.random.default_rng(0)


def array(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def qkv(heads=4, kv_heads=4, queries=5, keys=6, depth=8, value_depth=8, merged=False):
    shapes = [(2, heads, queries, depth), (2, kv_heads, keys, depth), (2, kv_heads, keys, value_depth)]
    arrays = [array(*shape) for shape in shapes]
    if not merged:
        return arrays
    return [np.ascontiguousarray(a.swapaxes(1, 2)).reshape(2, a.shape[2], -1) for a in arrays]


HEADS = [(4, 4), (4, 2), (4, 1)]


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
@pytest.mark.parametrize("causal", [0, 1])
def test_four_dimensions(heads, kv_heads, causal):
    inputs = qkv(heads, kv_heads, value_depth=6)
    symbolic = {0: ("n", heads, "q", 8), 1: ("n", kv_heads, "s", 8), 2: ("n", kv_heads, "s", 6)}
    check("Attention", inputs, is_causal=causal, symbolic=symbolic)


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
@pytest.mark.parametrize("outputs", [1, 4])
def test_three_dimensions(heads, kv_heads, outputs):
    inputs = qkv(heads, kv_heads, value_depth=6, merged=True)
    symbolic = {0: ("n", "q", heads * 8), 1: ("n", "s", kv_heads * 8), 2: ("n", "s", kv_heads * 6)}
    check("Attention", inputs, outputs, q_num_heads=heads, kv_num_heads=kv_heads, symbolic=symbolic)


def masks(heads=4):
    yield "float", array(5, 6)
    yield "bool", RNG.random((5, 6)) > 0.3
    yield "bool of batches", RNG.random((2, 1, 5, 6)) > 0.3
    yield "float of heads", array(2, heads, 5, 6)
    yield "bool of three dimensions", RNG.random((heads, 5, 6)) > 0.3
    yield "one for all queries", array(2, 1, 1, 6)
    unseen = RNG.random((5, 6)) > 0.3
    unseen[2] = False
    yield "a query that sees nothing", unseen


@pytest.mark.parametrize("mask", [pytest.param(m, id=name) for name, m in masks()])
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("reference", [False, True])
def test_masks(mask, causal, reference):
    if reference and causal and mask.shape[-2] == 1:
        pytest.skip("onnx.reference takes the mask's extent for the number of queries")
    check("Attention", [*qkv(4, 2), mask], is_causal=causal, reference=reference)


def test_short_mask():
    check("Attention", [*qkv(), array(5, 4)], reference=True)
    check("Attention", [*qkv(), RNG.random((5, 4)) > 0.3], reference=True)


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_scores(mode, softcap):
    if mode == 0 and softcap:
        pytest.skip("onnx.reference shows capped scores, against its own text")
    more = {"softcap": softcap} if softcap else {}
    check("Attention", [*qkv(4, 2), array(5, 6)], 4, qk_matmul_output_mode=mode, reference=True, **more)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("outputs", [3, 4])
def test_cache(causal, masked, outputs):
    mask = array(5, 9) if masked else None
    past = [array(2, 2, 3, 8), array(2, 2, 3, 8)]
    symbolic = {4: ("n", 2, "p", 8), 5: ("n", 2, "p", 8)}
    check("Attention", [*qkv(4, 2), mask, *past], outputs, is_causal=causal, symbolic=symbolic)


@pytest.mark.parametrize("causal", [0, 1])
def test_valid_lengths(causal):
    lengths = np.array([3, 6])
    check("Attention", [*qkv(4, 2), None, None, None, lengths], is_causal=causal, reference=True)


@pytest.mark.parametrize("window", [(2, -1), (-1, 1), (1, 1), (0, 0)])
@pytest.mark.parametrize("causal", [0, 1])
def test_sliding_window(window, causal):
    more = {"left_window_size": window[0], "right_window_size": window[1], "is_causal": causal}
    check("Attention", qkv(), reference=True, **more)
    check("Attention", [*qkv(), None, array(2, 4, 3, 8), array(2, 4, 3, 8)], 3, reference=True, **more)


@pytest.mark.parametrize("scale", [0.5, 2.0])
@pytest.mark.parametrize("outputs", [1, 4])
def test_scale(scale, outputs):
    check("Attention", qkv(), outputs, scale=scale)


def test_softmax_precision():
    inputs = [a.astype(np.float16) for a in qkv()]
    check("Attention", inputs, softmax_precision=1, reference=True, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("merged", [False, True])
def test_macs(causal, merged):
    inputs = qkv(value_depth=8, merged=merged)
    heads = {"q_num_heads": 4, "kv_num_heads": 4} if merged else {}
    _, node = graph_of("Attention", inputs, is_causal=causal, **heads)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # the counter sees no fused kernel
        execute(node, [torch.from_numpy(a) for a in inputs])
    assert 2 * record_of(node).macs(node) == counter.get_total_flops() > 0


@pytest.mark.parametrize(
    ("shapes", "attributes", "words"),
    [([(1, 3, 8), (1, 4, 8), (1, 4, 8)], {}, "q_num_heads"),
     ([(1, 3, 8), (1, 4, 8), (1, 2, 4, 4)], {}, "ranks 3, 3, 4"),
     ([(1, 3, 9), (1, 4, 8), (1, 4, 8)], {"q_num_heads": 2, "kv_num_heads": 2}, "Q of 9"),
     ([(1, 3, 8), (1, 4, 4), (1, 4, 8)], {"q_num_heads": 2, "kv_num_heads": 2}, "4 and 2 elements"),
     ([(1, 3, 2, 8), (1, 2, 4, 8), (1, 2, 4, 8)], {}, "3 query heads"),
     ([(1, 2, 2, 8), (1, 2, 4, 8), (1, 1, 4, 8)], {}, "2 and 1 heads")],
)  # fmt: skip
def test_errors(shapes, attributes, words):
    _, node = graph_of("Attention", [array(*shape) for shape in shapes], **attributes)
    with pytest.raises(ShapeError, match=words):
        record_of(node).infer(node)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("partial", [0, 4])
@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("merged", [False, True])
def test_rotary(interleaved, partial, positions, merged):
    x = array(2, 5, 24) if merged else array(2, 3, 5, 8)
    caches = [array(*((20,) if positions else (2, 5)), (partial or 8) // 2) for _ in range(2)]
    inputs = [x, *caches, *([RNG.integers(0, 20, (2, 5))] if positions else [])]
    more = {"num_heads": 3} if merged else {}
    symbolic = {0: ("n", "s", 24) if merged else ("n", 3, "s", 8)}
    check("RotaryEmbedding", inputs, interleaved=interleaved, rotary_embedding_dim=partial, reference=True,
          symbolic=symbolic, **more)  # fmt: skip


@pytest.mark.parametrize(("shape", "words"), [((2, 5), "rank 2"), ((2, 5, 24), "num_heads")])
def test_rotary_errors(shape, words):
    _, node = graph_of("RotaryEmbedding", [array(*shape), array(2, 5, 4), array(2, 5, 4)])
    with pytest.raises(ShapeError, match=words):
        record_of(node).infer(node)


def test_the_number_of_outputs_is_no_attribute():
    _, node = graph_of("Attention", qkv(), 3)
    record = find("Attention")
    assert record.told(node) == {"outputs": 3}
    assert "outputs" not in record.attributes
    assert len(execute(node, [torch.from_numpy(a) for a in qkv()])) == 3
