"""Relations of convolutions, pools, norms, matrix products, attention and recurrent networks."""

import math

import numpy as np
import pytest
import torch

from graphopt.ops import execute, record_of
from tests.ops.masking import check_relation, label_sizes
from tests.ops.oracle import graph_of

RNG = np.random.default_rng(1)


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


# -- convolutions and pools


@pytest.mark.parametrize(("group", "free"), [(1, "n i o"), (2, "n g i o"), (4, "n g o")])
@pytest.mark.parametrize("bias", [False, True])
def test_conv(group, free, bias):
    b = [array(8)] if bias else []
    check_relation("Conv", [array(2, 4, 6, 5), array(8, 4 // group, 3, 3), *b], free, group=group, pads=[1, 1, 1, 1])


def test_depthwise_conv():
    check_relation("Conv", [array(2, 6, 6, 5), array(6, 1, 3, 3), array(6)], "n g", group=6)


@pytest.mark.parametrize(("group", "free"), [(1, "n i o"), (2, "n g i o"), (4, "n g o")])
def test_conv_transpose(group, free):
    inputs = [array(2, 4, 6, 5), array(4, 8 // group, 3, 3), array(8)]
    check_relation("ConvTranspose", inputs, free, group=group, strides=[2, 2])


@pytest.mark.parametrize(("group", "offset_group", "free"), [(1, 1, "n i o"), (2, 1, "n g i o"), (2, 2, "n o")])
def test_deform_conv(group, offset_group, free):
    inputs = [array(2, 4, 6, 5), array(8, 4 // group, 3, 3), array(2, offset_group * 18, 4, 3), array(8),
              array(2, offset_group * 9, 4, 3)]  # fmt: skip
    check_relation("DeformConv", inputs, free, group=group, offset_group=offset_group)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_pools(op):
    check_relation(op, [array(2, 4, 6, 5)], "n c", kernel_shape=[2, 2])


@pytest.mark.parametrize("op", ["GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"])
def test_global_pools(op):
    check_relation(op, [array(2, 4, 6, 5)], "n c")


def pool_of(x, *, reader):
    graph, node = graph_of("MaxPool", [x], 2, kernel_shape=[2, 2], strides=[2, 2])
    for value, kind in zip(node.outputs, record_of(node).infer(node), strict=True):
        value.type = kind
    if reader == "output":
        graph.add_output(node.outputs[1])
    return record_of(node).relate(node)


def test_indices_of_max_pool_freeze_channels():
    assert set(pool_of(array(2, 3, 4, 4), reader="output").frozen) == {"n", "c"}
    assert not pool_of(array(2, 3, 4, 4), reader=None).frozen


@pytest.mark.parametrize("stated", [False, True])
def test_max_pool_and_unpool_lose_channels_together(stated):
    x, kept = array(2, 4, 6, 6), [0, 2, 3]
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}

    def there_and_back(x):
        _, down = graph_of("MaxPool", [x], 2, **pool)
        y, index = execute(down, [torch.from_numpy(x)])
        shape = [torch.tensor(x.shape)] if stated else []
        _, up = graph_of("MaxUnpool", [y.numpy(), index.numpy()], **pool)
        return execute(up, [y, index, *shape])[0]

    assert torch.equal(there_and_back(x)[:, kept], there_and_back(np.ascontiguousarray(x[:, kept])))


def test_max_unpool_keeps_its_shape_in_step():
    x = array(1, 4, 3, 3)
    index = np.arange(36).reshape(1, 4, 3, 3) * 4
    inputs = [x, index, np.array([1, 4, 6, 6])]
    _, node = graph_of("MaxUnpool", inputs, constant=[2], kernel_shape=[2, 2], strides=[2, 2])
    node.output.type = record_of(node).infer(node)[0]
    assert set(label_sizes(record_of(node).relate(node))) == {"c"}

    class Half:
        def kept(self, value, dim):
            return torch.tensor([0, 3]) if dim == 1 else None

        def set_constant(self, node, index, data):
            self.data = data

    half = Half()
    record_of(node).shrink(node, half)
    assert half.data.tolist() == [1, 2, 6, 6]


# -- matrix products


@pytest.mark.parametrize(
    ("a", "b", "free"),
    [((3, 4), (4, 5), "m k n"), ((2, 3, 4), (4, 5), "~1 m k n"), ((2, 3, 4), (2, 4, 5), "~1 m k n"),
     ((2, 1, 3, 4), (5, 4, 2), "~1 ~2 m k n"), ((4,), (4, 5), "k n"), ((3, 4), (4,), "m k"), ((4,), (4,), "k"),
     ((6, 3, 4), (1, 4, 5), "~1 m k n")],
)  # fmt: skip
def test_matmul(a, b, free):
    check_relation("MatMul", [array(*a), array(*b)], free)


@pytest.mark.parametrize("c", [None, (), (5,), (1,), (3, 1), (1, 5), (3, 5)])
@pytest.mark.parametrize("transA", [0, 1])
@pytest.mark.parametrize("transB", [0, 1])
def test_gemm(c, transA, transB):
    a, b = array(*((4, 3) if transA else (3, 4))), array(*((5, 4) if transB else (4, 5)))
    inputs = [a, b, *([] if c is None else [np.asarray(array(*c))])]
    # A scalar C is added to every element, also to removed ones, which are gone; only what stays is compared.
    check_relation("Gemm", inputs, "m k n", transA=transA, transB=transB, alpha=0.5, beta=2.0)


@pytest.mark.parametrize(
    ("equation", "shapes", "free"),
    [("ij,jk->ik", [(2, 3), (3, 4)], "i j k"), ("bhqd,bhkd->bhqk", [(2, 3, 4, 5), (2, 3, 6, 5)], "b h q k d"),
     ("ii->i", [(3, 3)], "i"), ("ij->", [(2, 3)], "i j"), ("ij,jk,kl", [(2, 3), (3, 4), (4, 5)], "i j k l"),
     ("...ij,...jk->...ik", [(2, 3, 4, 5), (3, 5, 2)], "wide1 wide2 i j k"),
     ("...ij,...jk->...ik", [(2, 3, 4, 5), (1, 5, 2)], "wide1 wide2 i j k")],
)  # fmt: skip
def test_einsum(equation, shapes, free):
    check_relation("Einsum", [array(*shape) for shape in shapes], free, equation=equation)


# -- norms


def weights(keeps):
    return math.prod(np.ix_(*keeps), start=1.0)


def moments(x, weight, axes):
    total = weight.sum(axes, keepdims=True)
    total = np.where(total == 0, 1, total)
    mean = (x * weight).sum(axes, keepdims=True) / total
    return mean, ((x - mean) ** 2 * weight).sum(axes, keepdims=True) / total


def channels(vector, x):
    return vector.reshape(-1, *[1] * (x.ndim - 2))


def layer_norm(axis):
    def oracle(inputs, keeps):
        x, scale, *bias = inputs
        mean, var = moments(x, weights(keeps), tuple(range(axis, x.ndim)))
        deviation = 1 / np.sqrt(var + 1e-5)
        return [(x - mean) * deviation * scale + (bias[0] if bias else 0), mean, deviation]

    return oracle


def rms_norm(axis):
    def oracle(inputs, keeps):
        x, scale = inputs
        mean, _ = moments(x * x, weights(keeps), tuple(range(axis, x.ndim)))
        return [x / np.sqrt(mean + 1e-5) * scale]

    return oracle


def group_norm(groups):
    def oracle(inputs, keeps):
        x, scale, bias = inputs
        shape = (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
        weight = np.broadcast_to(weights(keeps), x.shape).reshape(shape)
        mean, var = moments(x.reshape(shape), weight, tuple(range(2, len(shape))))
        y = ((x.reshape(shape) - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)
        return [y * channels(scale, x) + channels(bias, x)]

    return oracle


def mean_variance_norm(axes):
    def oracle(inputs, keeps):
        mean, var = moments(inputs[0], weights(keeps), axes)
        return [(inputs[0] - mean) / (np.sqrt(var) + 1e-9)]

    return oracle


def batch_norm_training(inputs, keeps):
    x, scale, b, mean, var = inputs
    axes = tuple(d for d in range(x.ndim) if d != 1)
    now_mean, now_var = moments(x, weights(keeps), axes)
    y = (x - now_mean) / np.sqrt(now_var + 1e-5) * channels(scale, x) + channels(b, x)
    return [y, mean * 0.9 + now_mean.reshape(-1) * 0.1, var * 0.9 + now_var.reshape(-1) * 0.1]


@pytest.mark.parametrize("training", [0, 1])
def test_batch_norm(training):
    inputs = [array(3, 6, 4, 5), array(6), array(6), array(6), np.abs(array(6))]
    oracle = batch_norm_training if training else None
    check_relation(
        "BatchNormalization", inputs, "n c ~1 ~2", 3 if training else 1, oracle=oracle, training_mode=training
    )


def test_instance_norm():
    check_relation("InstanceNormalization", [array(2, 6, 4, 5), array(6), array(6)], "n c ~1 ~2", oracle=group_norm(6))


@pytest.mark.parametrize(("groups", "free"), [(1, "n c ~1 ~2"), (2, "n g c ~1 ~2"), (6, "n g ~1 ~2")])
def test_group_norm(groups, free):
    inputs = [array(2, 6, 4, 5), array(6), array(6)]
    check_relation("GroupNormalization", inputs, free, oracle=group_norm(groups), num_groups=groups)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_layer_norm(axis, bias):
    tail = (4, 5, 6)[axis:]
    inputs = [array(4, 5, 6), array(*tail), *([array(*tail)] if bias else [])]
    check_relation("LayerNormalization", inputs, "d0 d1 d2", 3, oracle=layer_norm(axis), axis=axis)


def test_layer_norm_with_broadcast_scale():
    check_relation("LayerNormalization", [array(4, 5, 6), array(5, 1)], "d0 d1 d2", 3, oracle=layer_norm(1), axis=1)


@pytest.mark.parametrize("axis", [1, 2])
def test_rms_norm(axis):
    inputs = [array(4, 5, 6), array(*(4, 5, 6)[axis:])]
    check_relation("RMSNormalization", inputs, "d0 d1 d2", oracle=rms_norm(axis), axis=axis)


@pytest.mark.parametrize("axes", [(0, 2, 3), (1,)])
def test_mean_variance_norm(axes):
    inputs = [array(4, 5, 6, 7)]
    check_relation("MeanVarianceNormalization", inputs, "~1 ~2 ~3 ~4", oracle=mean_variance_norm(axes), axes=axes)


@pytest.mark.parametrize("p", [1, 2])
def test_lp_norm(p):
    check_relation("LpNormalization", [array(4, 5, 6)], "~1 ~2 ~3", p=p, axis=1)


def test_lrn():
    check_relation("LRN", [array(2, 6, 3, 4)], "n ~1 ~2", size=3)


# -- attention


def qkv(heads, kv_heads, merged, value_depth=6):
    shapes = [(2, heads, 5, 8), (2, kv_heads, 7, 8), (2, kv_heads, 7, value_depth)]
    arrays = [array(*shape) for shape in shapes]
    if not merged:
        return arrays
    return [np.ascontiguousarray(a.swapaxes(1, 2)).reshape(2, a.shape[2], -1) for a in arrays]


@pytest.mark.parametrize(("heads", "kv_heads", "free"), [(4, 4, "n k d e"), (6, 3, "n k r d e"), (4, 1, "n r d e")])
@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("outputs", [1, 4])
def test_attention(heads, kv_heads, free, merged, outputs):
    more = {"q_num_heads": heads, "kv_num_heads": kv_heads} if merged else {}
    check_relation("Attention", qkv(heads, kv_heads, merged), free, outputs, is_causal=1, **more)


@pytest.mark.parametrize("shape", [(5, 10), (2, 1, 5, 10), (2, 6, 5, 10), (6, 1, 10), (1, 10)])
@pytest.mark.parametrize("merged", [False, True])
def test_attention_with_mask_and_cache(shape, merged):
    more = {"q_num_heads": 6, "kv_num_heads": 3} if merged else {}
    past = [array(2, 3, 3, 8), array(2, 3, 3, 6)]
    check_relation("Attention", [*qkv(6, 3, merged), array(*shape), *past], "n k r d e", 3, scale=0.3, **more)


def test_attention_keeps_the_scale_of_the_original_depth():
    _, node = graph_of("Attention", qkv(4, 4, False))
    record_of(node).shrink(node, Keeping(node.inputs[0], 3, [0, 2, 5]))
    assert node.attributes["scale"] == pytest.approx(8**-0.5)
    _, node = graph_of("Attention", qkv(4, 4, False))
    record_of(node).shrink(node, Keeping(node.inputs[0], 1, [0, 2]))
    assert "scale" not in node.attributes


class Keeping:
    def __init__(self, value, dim, kept):
        self.ref, self.index = (value, dim), torch.tensor(kept)

    def kept(self, value, dim):
        return self.index if (value, dim) == self.ref else None


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize(("partial", "free"), [(0, "n s h f"), (4, "n s h")])
@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("merged", [False, True])
def test_rotary(interleaved, partial, free, positions, merged):
    x = array(2, 5, 24) if merged else array(2, 3, 5, 8)
    caches = [array(*((20,) if positions else (2, 5)), (partial or 8) // 2) for _ in range(2)]
    inputs = [x, *caches, *([RNG.integers(0, 20, (2, 5))] if positions else [])]
    more = {"num_heads": 3} if merged else {}
    check_relation("RotaryEmbedding", inputs, free, interleaved=interleaved, rotary_embedding_dim=partial, **more)


# -- recurrent networks


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize(("direction", "dirs"), [("forward", 1), ("bidirectional", 2)])
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("lengths", [None, [5, 2, 3]])
def test_recurrent(op, direction, dirs, layout, lengths):
    gates, count = {"RNN": 1, "GRU": 3, "LSTM": 4}[op], 2 if op == "LSTM" else 1
    states = [array(*((3, dirs, 6) if layout else (dirs, 3, 6))) for _ in range(count)]
    x, rows = array(*((3, 5, 4) if layout else (5, 3, 4))), gates * 6
    ends = None if lengths is None else np.array(lengths, np.int32)
    inputs = [x, array(dirs, rows, 4), array(dirs, rows, 6), array(dirs, 2 * rows), ends, *states]
    check_relation(op, inputs, "n i h", count + 1, trials=3, hidden_size=6, direction=direction, layout=layout)


def test_peepholes():
    inputs = [array(5, 3, 4), array(1, 24, 4), array(1, 24, 6), array(1, 48), None, None, None, array(1, 18)]
    check_relation("LSTM", inputs, "n i h", 3, hidden_size=6)


@pytest.mark.parametrize(
    ("op", "gates", "activations", "free"),
    [("LSTM", 4, ("Sigmoid", "Tanh", "Sigmoid"), "n i"), ("LSTM", 4, ("HardSigmoid", "Relu", "Softsign"), "n i h"),
     ("GRU", 3, ("Sigmoid", "Sigmoid"), "n i"), ("GRU", 3, ("HardSigmoid", "Elu"), "n i h"),
     ("RNN", 1, ("Softplus",), "n i"), ("RNN", 1, ("Affine",), "n i h")],
)  # fmt: skip
def test_activations_that_are_not_zero_at_zero_freeze_units(op, gates, activations, free):
    inputs = [array(5, 3, 4), array(1, gates * 6, 4), array(1, gates * 6, 6)]
    check_relation(op, inputs, free, hidden_size=6, activations=activations)
