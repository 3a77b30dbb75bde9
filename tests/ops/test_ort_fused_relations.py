"""Relations of ONNX Runtime's fused operators: what loses indices computes what the masked original does."""

import numpy as np
import pytest

from graphopt.ops import record_of
from tests.ops.masking import check_relation
from tests.ops.oracle import graph_of

RNG = np.random.default_rng(0)
DOMAIN = "com.microsoft"


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("group", [1, 2, 6])
@pytest.mark.parametrize("activation", ["", "Relu"])
def test_conv(group, activation):
    inputs = [array(2, 6, 5, 5), array(6, 6 // group, 3, 3), array(6), array(2, 6, 5, 5)]
    free = {1: "n i o", 2: "n g i o", 6: "n g"}[group]
    attributes = {"pads": [1, 1, 1, 1], "group": group, "activation": activation, "domain": DOMAIN}
    check_relation("FusedConv", inputs, free, **attributes)
    check_relation("FusedConv", inputs[:3], free, **attributes)


@pytest.mark.parametrize("trans", [0, 1])
def test_products(trans):
    a, b = array(*((4, 3) if trans else (3, 4))), array(*((5, 4) if trans else (4, 5)))
    check_relation(
        "FusedGemm", [a, b, array(1, 5)], "m k n", transA=trans, transB=trans, activation="Relu", domain=DOMAIN
    )
    a, b = np.stack([a, a + 1]), np.stack([b, b - 1])
    check_relation("FusedMatMul", [a, b], "~1 m k n", transA=trans, transB=trans, alpha=0.5, domain=DOMAIN)
    check_relation(
        "FusedMatMul", [array(4), b[:, ::-1].copy() if not trans else b], "~1 k n", transB=trans, domain=DOMAIN
    )


def test_a_product_that_moves_the_batch_says_nothing():
    _, node = graph_of("FusedMatMul", [array(2, 3, 4), array(2, 4, 5)], transBatchA=1, domain=DOMAIN)
    assert record_of(node).relate(node) is None


@pytest.mark.parametrize(
    ("op", "bias"),
    [("BiasGelu", True), ("FastGelu", True), ("FastGelu", False), ("QuickGelu", False), ("Gelu", False)],
)
def test_activations(op, bias):
    check_relation(op, [array(2, 3, 4), *([array(4)] if bias else [])], "d1 d2 d3", domain=DOMAIN)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("broadcast", [True, False])
def test_norms_of_a_sum(centred, broadcast):
    x, skip, vectors = array(2, 3, 6), array(*((1,) if broadcast else (2,)), 3, 6), [array(6) for _ in range(3)]
    inputs = [x, skip, *vectors] if centred else [x, skip, vectors[0], vectors[2]]

    def oracle(arrays, keeps):
        x, skip, gamma, *rest = arrays
        weight = keeps[-1]
        total = (x + skip + rest[-1]) * weight
        mean = (total * weight).sum(-1, keepdims=True) / weight.sum() if centred else np.zeros((2, 3, 1))
        inverse = 1 / np.sqrt((((total - mean) ** 2) * weight).sum(-1, keepdims=True) / weight.sum() + 1e-12)
        return [(total - mean) * inverse * gamma + (rest[0] if centred else 0), mean, inverse, total]

    op = "SkipLayerNormalization" if centred else "SkipSimplifiedLayerNormalization"
    check_relation(op, inputs, "~1 ~2 c", outputs=4, compare=4, oracle=oracle, domain=DOMAIN)


@pytest.mark.parametrize("mask", [None, (2, 3, 4, 5), (1, 1, 4, 5)])
@pytest.mark.parametrize("scale", [0.0, 0.7])
def test_attention(mask, scale):
    inputs = [array(2, 4, 12), array(2, 5, 12), array(2, 5, 6), None, None, None if mask is None else array(*mask)]
    attributes = {"num_heads": 3, "domain": DOMAIN} | ({"scale": scale} if scale else {})
    check_relation("MultiHeadAttention", inputs, "n h d e", **attributes)


def test_attention_of_another_width_says_nothing():
    _, node = graph_of(
        "MultiHeadAttention", [array(2, 4, 12), array(2, 5, 12), array(2, 5, 6)], num_heads=5, domain=DOMAIN
    )
    assert record_of(node).relate(node) is None
