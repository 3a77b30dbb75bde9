"""Losses against ONNX Runtime."""

import numpy as np
import pytest

from graphopt.errors import ShapeError
from graphopt.ops import record_of
from tests.ops.oracle import check, graph_of

RNG = np.random.default_rng(0)


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("op", ["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3), (2, 5, 3, 4)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore", [None, 2, -1])
def test_loss(op, shape, reduction, weighted, ignore):
    target = RNG.integers(0, 5, (shape[0], *shape[2:]))
    if ignore == -1:
        target.reshape(-1)[:2] = -1
    inputs = [array(*shape), target, *([np.abs(array(5))] if weighted else [])]
    more = {} if ignore is None else {"ignore_index": ignore}
    rest = "hw"[: len(shape) - 2]
    check(op, inputs, 1 if op.startswith("Neg") else 2, reduction=reduction,
          symbolic={0: ("n", 5, *rest), 1: ("n", *rest)}, **more)  # fmt: skip


def test_errors():
    _, node = graph_of("SoftmaxCrossEntropyLoss", [array(4, 5, 6), np.zeros(4, np.int64)])
    with pytest.raises(ShapeError, match="rank 3"):
        record_of(node).infer(node)
