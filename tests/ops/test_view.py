"""Reshape, Flatten, Squeeze, Unsqueeze, Transpose and the block operators against ONNX Runtime."""

import numpy as np
import pytest
import torch

from graphopt.errors import ShapeError
from graphopt.ir import Graph, TensorType
from graphopt.ir import dims as D
from graphopt.ops import execute, record_of
from tests.ops.oracle import check, graph_of

RNG = np.random.default_rng(0)


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*items):
    return np.array(items, dtype=np.int64)


def inferred(op, shape, *steering, **attributes):
    arrays = [np.zeros([2 if not isinstance(d, int) else d for d in shape], np.float32), *steering]
    _, node = graph_of(op, arrays, 1, range(1, len(arrays)), {0: shape}, **attributes)
    return tuple(map(D.format_dim, record_of(node).infer(node)[0].shape))


@pytest.mark.parametrize(
    ("shape", "target"),
    [((2, 3, 4), (6, 4)), ((2, 3, 4), (0, -1)), ((2, 3, 4), (-1,)), ((2, 3, 4), (0, 0, 2, -1)), ((4,), (2, 1, 2)),
     ((), (1, 1)), ((1,), ()), ((0, 3), (0, 3)), ((0, 3), (-1, 3)), ((1, 1), (-1,))],
)  # fmt: skip
def test_reshape(shape, target):
    check("Reshape", [array(*shape), ints(*target)], constant=[1])


def test_reshape_of_nothing_to_0_and_minus_1():
    _, node = graph_of("Reshape", [array(0, 3, 4), ints(0, -1)], 1, [1])
    assert execute(node, [torch.zeros(0, 3, 4), torch.tensor([0, -1])])[0].shape == (0, 12)
    assert record_of(node).infer(node)[0].shape == (0, 12)


def test_reshape_allowzero():
    check("Reshape", [array(0, 3), ints(3, 0, 4)], constant=[1], allowzero=1, reference=True)


@pytest.mark.parametrize(
    ("shape", "target", "want"),
    [(("batch", 128, 7, 7), (-1, 6272), ("batch", "6272")), (("batch", 128, 7, 7), (0, -1), ("batch", "6272")),
     (("b", "s", 768), (0, 0, 12, 64), ("b", "s", "12", "64")),
     (("b", "s", 768), (0, -1, 12, 64), ("b", "s", "12", "64")),
     (("b", "s", 768), (-1, 768), ("b*s", "768")), (("b", 12, "s", 64), (0, 12, -1, 128), ("b", "12", "s/2", "128")),
     ((None, 12, 64), (-1, 768), ("?", "768")), ((None, 12, 64), (0, -1), ("?", "768")),
     (("b", 0), (-1, 4), ("0", "4"))],
)  # fmt: skip
def test_reshape_keeps_symbols(shape, target, want):
    got = inferred("Reshape", shape, ints(*target))
    assert got == want or got == tuple(w.replace("s/2", "floor(s/2)") for w in want)


def test_reshape_to_an_unknown_shape_keeps_the_rank():
    graph = Graph()
    x = graph.add_input("x", TensorType.make(1, ("n", 6)))
    y = graph.add("Reshape", x, graph.add_input("shape", TensorType.make(7, (3,))))
    assert record_of(y.producer).infer(y.producer)[0].shape == (None, None, None)


@pytest.mark.parametrize("target", [(5, -1), (7,), (-1, -1), (1, 1, 0)])
def test_reshape_rejects(target):
    with pytest.raises(ShapeError):
        inferred("Reshape", (2, 3), ints(*target))


@pytest.mark.parametrize("shape", [(2, 3, 4), (5,), (0, 3)])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_flatten(shape, axis):
    check("Flatten", [array(*shape)], symbolic={0: ["a", "b", "c"][: len(shape)]}, axis=axis)


def test_flatten_of_a_scalar():
    check("Flatten", [array()], axis=0)


@pytest.mark.parametrize("axes", [(0,), (-1,), (0, 3), None])
def test_squeeze(axes):
    inputs = [array(1, 3, 4, 1)] + ([] if axes is None else [ints(*axes)])
    check("Squeeze", inputs, constant=[1], symbolic=None if axes is None else {0: (1, "a", "b", 1)})


def test_squeeze_rejects_large_dimensions():
    with pytest.raises(ShapeError, match="not of size one"):
        inferred("Squeeze", (2, 1), ints(0))


@pytest.mark.parametrize("axes", [(0,), (-1,), (0, 2, 4), (3, 1), (-1, 0)])
def test_unsqueeze(axes):
    check("Unsqueeze", [array(2, 3), ints(*axes)], constant=[1], symbolic={0: ("a", "b")})


def test_unsqueeze_of_a_scalar():
    check("Unsqueeze", [array(), ints(0)], constant=[1])


def test_unsqueeze_rejects_equal_axes():
    with pytest.raises(ShapeError, match="twice"):
        inferred("Unsqueeze", (2, 3), ints(0, -4))


@pytest.mark.parametrize("attributes", [{}, {"perm": [0, 2, 1]}, {"perm": [2, 0, 1]}])
def test_transpose(attributes):
    check("Transpose", [array(2, 3, 4)], symbolic={0: ("a", "b", "c")}, **attributes)


def test_transpose_rejects_what_is_no_permutation():
    with pytest.raises(ShapeError, match="no permutation"):
        inferred("Transpose", (2, 3), perm=[0, 0])


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode):
    check("DepthToSpace", [array(2, 12, 3, 4)], symbolic={0: ("n", 12, "h", "w")}, blocksize=2, mode=mode)


def test_space_to_depth():
    check("SpaceToDepth", [array(2, 3, 4, 6)], symbolic={0: ("n", 3, "h", "w")}, blocksize=2)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_space_to_depth_undoes_depth_to_space(mode):
    x = torch.from_numpy(array(2, 12, 3, 5))
    deep = execute(graph_of("DepthToSpace", [x.numpy()], blocksize=2, mode=mode)[1], [x])
    (back,) = execute(graph_of("SpaceToDepth", [deep[0].numpy()], blocksize=2, mode=mode)[1], deep)
    torch.testing.assert_close(back, x)


def test_depth_to_space_rejects_channels_that_do_not_divide():
    with pytest.raises(ShapeError, match="divisible"):
        inferred("DepthToSpace", (1, 6, 2, 2), blocksize=2)
