"""Normalisations against ONNX Runtime."""

import numpy as np
import pytest
import torch

from graphopt.errors import ShapeError
from graphopt.ops import execute, record_of
from tests.ops.oracle import check, graph_of

RNG = np.random.default_rng(0)


def array(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def positive(*shape):
    return np.abs(array(*shape)) + 0.5


SHAPES = [(2, 6), (2, 6, 5), (2, 6, 5, 4), (2, 6, 2, 3, 4)]


def symbolic(shape):
    return {0: ("n", shape[1], *"hwd"[: len(shape) - 2])}


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm(shape):
    vectors = [array(6), array(6), array(6), positive(6)]
    check("BatchNormalization", [array(*shape), *vectors], symbolic=symbolic(shape))
    check("BatchNormalization", [array(*shape), *vectors], epsilon=0.1)


def test_batch_norm_of_a_vector():
    check("BatchNormalization", [array(5), array(1), array(1), array(1), positive(1)], reference=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm_training(shape):
    vectors = [array(6), array(6), array(6), positive(6)]
    check("BatchNormalization", [array(*shape), *vectors], 3, training_mode=1, momentum=0.7, symbolic=symbolic(shape))


def test_batch_norm_mixed_types():
    x, vectors = array(2, 6, 5, dtype=np.float16), [array(6), array(6), array(6), positive(6)]
    check("BatchNormalization", [x, *vectors], rtol=2e-3, atol=2e-3, reference=True)


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_instance_norm(shape):
    check("InstanceNormalization", [array(*shape), array(6), array(6)], symbolic=symbolic(shape), epsilon=1e-3)


def test_instance_norm_of_single_elements():
    check("InstanceNormalization", [array(2, 6, 1, 1), array(6), array(6)])


@pytest.mark.parametrize("shape", SHAPES[1:])
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_group_norm(shape, groups):
    check("GroupNormalization", [array(*shape), array(6), array(6)], symbolic=symbolic(shape), num_groups=groups)


def test_group_norm_half():
    inputs = [array(2, 6, 5, 4, dtype=np.float16), array(6, dtype=np.float16), array(6, dtype=np.float16)]
    check("GroupNormalization", inputs, rtol=5e-3, atol=5e-3, num_groups=2)


@pytest.mark.parametrize("axis", [-1, -2, 1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_layer_norm(axis, bias):
    shape = (2, 3, 4, 5)
    tail = shape[axis:]
    inputs = [array(*shape), array(*tail), *([array(*tail)] if bias else [])]
    check("LayerNormalization", inputs, axis=axis, symbolic={0: ("n", *shape[1:])})
    check("LayerNormalization", inputs, 3, axis=axis, epsilon=1e-2)


@pytest.mark.parametrize("scale", [(5,), (1,), (1, 5), (4, 1)])
def test_layer_norm_broadcasts_its_scale(scale):
    check("LayerNormalization", [array(2, 3, 4, 5), array(*scale)], axis=2, reference=scale != (4, 5))


@pytest.mark.parametrize("axis", [-1, -2, 1])
def test_rms_norm(axis):
    shape = (2, 3, 4, 5)
    check("RMSNormalization", [array(*shape), array(*shape[axis:])], axis=axis, symbolic={0: ("n", *shape[1:])})
    check("RMSNormalization", [array(*shape), array(5)], axis=axis, epsilon=1e-2)


@pytest.mark.parametrize("op", ["LayerNormalization", "RMSNormalization"])
def test_half_is_normalised_in_float(op):
    x = array(2, 3, 64, dtype=np.float16) * np.float16(100)
    check(op, [x, array(64, dtype=np.float16)], rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("axis", [-1, 0, 1, 2])
@pytest.mark.parametrize("p", [1, 2])
def test_lp_norm(axis, p):
    x = array(3, 4, 5)
    x[1] = 0
    check("LpNormalization", [x], axis=axis, p=p, symbolic={0: ("a", "b", "c")})


@pytest.mark.parametrize("axes", [None, [0, 2, 3], [1], [-1, -2]])
def test_mean_variance_norm(axes):
    more = {} if axes is None else {"axes": axes}
    symbolic = {0: ("n", 3, "h", "w")}
    check("MeanVarianceNormalization", [array(2, 3, 4, 5)], symbolic=symbolic, reference=axes == [-1, -2], **more)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_lrn(size):
    x = array(6, 6, 3, 1)  # onnx.reference walks through as many channels as there are batches
    even = size % 2 == 0  # ONNX Runtime takes even sizes for odd ones
    attributes = {"size": size, "alpha": 0.1, "beta": 0.6, "bias": 1.5}
    (y,) = check("LRN", [x], symbolic={0: ("n", 6, "h", 1)}, reference=even, **attributes)
    _, node = graph_of("LRN", [x[..., 0]], **attributes)
    assert torch.equal(execute(node, [torch.from_numpy(x[..., 0])])[0], y[..., 0])


@pytest.mark.parametrize(
    ("op", "shapes", "attributes", "words"),
    [("BatchNormalization", [(2, 3, 4), (3,), (4,), (3,), (3,)], {}, "input 2"),
     ("InstanceNormalization", [(2, 3, 4), (3,), (3, 1)], {}, "input 2"),
     ("GroupNormalization", [(2, 3, 4), (3,), (3,)], {"num_groups": 2}, "groups"),
     ("LayerNormalization", [(2, 3, 4), (3,)], {}, "broadcast"),
     ("LayerNormalization", [(2, 3, 4), (4,)], {"axis": 3}, "axis 3"),
     ("RMSNormalization", [(3, 4), (2, 3, 4)], {}, "broadcast")],
)  # fmt: skip
def test_errors(op, shapes, attributes, words):
    _, node = graph_of(op, [array(*shape) for shape in shapes], **attributes)
    with pytest.raises(ShapeError, match=words):
        record_of(node).infer(node)


@pytest.mark.parametrize(
    ("op", "rank", "attributes", "dims"),
    [("BatchNormalization", 4, {}, ()), ("BatchNormalization", 4, {"training_mode": 1}, (0, 2, 3)),
     ("InstanceNormalization", 4, {}, (2, 3)), ("GroupNormalization", 4, {"num_groups": 1}, (1, 2, 3)),
     ("LayerNormalization", 3, {}, (2,)), ("LayerNormalization", 3, {"axis": 1}, (1, 2)),
     ("RMSNormalization", 3, {}, (2,)), ("MeanVarianceNormalization", 4, {"axes": (0, -1)}, (0, 3))],
)  # fmt: skip
def test_normalised_dimensions(op, rank, attributes, dims):
    _, node = graph_of(op, [array(*range(2, 2 + rank))], **attributes)
    assert record_of(node).normalises(node) == dims
