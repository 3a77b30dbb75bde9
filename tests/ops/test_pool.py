"""Pools against ONNX Runtime."""

import numpy as np
import pytest
import torch

from graphopt.errors import ShapeError
from graphopt.ir.dims import symbol
from graphopt.ops import execute, find, record_of
from tests.ops.oracle import check, graph_of, onnx_model, run_onnx

RNG = np.random.default_rng(0)


def array(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


WINDOWS = [
    {"kernel_shape": [3, 2]},
    {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]},
    {"kernel_shape": [3, 3], "pads": [1, 0, 2, 1], "strides": [2, 3]},
    {"kernel_shape": [2, 3], "strides": [2, 2], "dilations": [2, 2], "pads": [1, 1, 0, 1]},
    {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [0, 0, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [3, 2], "strides": [1, 2], "auto_pad": "SAME_LOWER"},
    {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "VALID"},
]
SYMBOLIC = {0: ("n", 3, "h", "w")}


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize("storage_order", [0, 1])
def test_max_pool(window, ceil_mode, storage_order):
    check("MaxPool", [array(2, 3, 8, 7)], 2, symbolic=SYMBOLIC, ceil_mode=ceil_mode, storage_order=storage_order,
          **window)  # fmt: skip


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(("ceil_mode", "count_include_pad"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_average_pool(window, ceil_mode, count_include_pad):
    check("AveragePool", [array(2, 3, 8, 7)], symbolic=SYMBOLIC, ceil_mode=ceil_mode,
          count_include_pad=count_include_pad, **window)  # fmt: skip


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("p", [1, 2, 3])
def test_lp_pool(window, p):
    check("LpPool", [array(2, 3, 8, 7)], symbolic=SYMBOLIC, p=p, **window)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("more", [{}, {"pads": 1}, {"dilations": 2}, {"ceil_mode": 1}])
def test_pool_other_ranks(op, rank, more):
    attributes = {k: v if k == "ceil_mode" else [v] * (2 * rank if k == "pads" else rank) for k, v in more.items()}
    check(op, [array(1, 2, *[6] * rank)], 2 if op == "MaxPool" else 1, kernel_shape=[3] * rank, strides=[2] * rank,
          **attributes)  # fmt: skip


def test_lp_pool_ceil():
    check(
        "LpPool",
        [array(1, 2, 6, 6)],
        kernel_shape=[3, 3],
        strides=[2, 2],
        ceil_mode=1,
        symbolic={0: ("n", 2, "h", "w")},
    )


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.float64, np.float16])
def test_max_pool_types(dtype):
    x = (RNG.standard_normal((1, 2, 6, 6)) * 50).astype(dtype)
    check("MaxPool", [x], kernel_shape=[3, 3], pads=[1, 1, 1, 1], reference=dtype == np.float16)
    check("MaxPool", [x], kernel_shape=[3, 3], pads=[1, 1, 2, 2], strides=[2, 2], reference=dtype == np.float16)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 5, 4), (2, 3, 2, 3, 4)])
def test_global(op, shape):
    if op == "GlobalLpPool":  # ONNX Runtime's kernel stops at opset 21, and onnx.reference has none
        check_at_opset_21(op, array(*shape))
        check_at_opset_21(op, array(*shape), p=3)
        return
    check(op, [array(*shape)], symbolic={0: ("n", 3, *"hwd"[: len(shape) - 2])})


def check_at_opset_21(op, x, **attributes):
    model = onnx_model(op, [x], 1, **attributes)
    model.opset_import[0].version = 21
    (want,) = run_onnx(model, [x])
    _, node = graph_of(op, [x], shapes={0: ("n", *x.shape[1:])}, **attributes)
    np.testing.assert_allclose(execute(node, [torch.from_numpy(x)])[0].numpy(), want, rtol=1e-5)
    assert record_of(node).infer(node)[0].shape == (symbol("n"), *want.shape[1:])


@pytest.mark.parametrize("extent", [4, 5])
def test_max_unpool(extent):
    x = array(2, 3, extent, extent)
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    y, index = (t.numpy() for t in check("MaxPool", [x], 2, **pool))
    if extent == 4:
        check("MaxUnpool", [y, index], symbolic={0: ("n", 3, "h", "w")}, **pool)
    check("MaxUnpool", [y, index, np.array(x.shape)], constant=[2], **pool)


def test_indices_where_the_padded_plane_is_as_large():
    check("MaxPool", [array(1, 2, 5, 5)], 2, kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 0, 0])


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_pools_export_with_dynamic_sizes(op):
    class Pool(torch.nn.Module):
        def forward(self, x):
            attributes = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 0, 0, 1), "dilations": (1, 2)}
            return find(op).compute(x, **attributes, **({"outputs": 1} if op == "MaxPool" else {}))

    size = torch.export.Dim("size", min=6, max=64)
    program = torch.export.export(Pool(), (torch.rand(1, 2, 9, 9),), dynamic_shapes=({2: size},))
    x = torch.rand(1, 2, 14, 9)
    torch.testing.assert_close(program.module()(x), Pool()(x))


def test_ceil_never_starts_a_window_behind_the_end():
    _, node = graph_of("MaxPool", [array(1, 1, 3)], kernel_shape=[1], strides=[2], pads=[0, 0], ceil_mode=1)
    assert record_of(node).infer(node)[0].shape == (1, 1, 2)
    check("MaxPool", [array(1, 1, 4)], kernel_shape=[1], strides=[3], ceil_mode=1, symbolic={0: (1, 1, "w")})
    check("AveragePool", [array(1, 1, 4)], kernel_shape=[2], strides=[3], pads=[0, 1], ceil_mode=1,
          symbolic={0: (1, 1, "w")})  # fmt: skip


@pytest.mark.parametrize(
    ("attributes", "words"),
    [({"kernel_shape": [3]}, "kernel_shape"), ({"kernel_shape": [9, 9]}, "does not fit"),
     ({"kernel_shape": [2, 2], "strides": [1]}, "strides has 1 entries")],
)  # fmt: skip
def test_errors(attributes, words):
    _, node = graph_of("MaxPool", [array(1, 1, 4, 4)], **attributes)
    with pytest.raises(ShapeError, match=words):
        record_of(node).infer(node)
