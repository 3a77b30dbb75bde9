"""Convolutions against ONNX Runtime, and their costs against torch's counter."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from graphopt.errors import GraphoptError, ShapeError
from graphopt.ops import execute, record_of
from tests.ops.oracle import check, graph_of

RNG = np.random.default_rng(0)


def array(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def check_macs(op, inputs, **attributes):
    _, node = graph_of(op, inputs, **attributes)
    record = record_of(node)
    node.output.type = record.infer(node)[0]
    with FlopCounterMode(display=False) as counter:
        execute(node, [torch.from_numpy(a) for a in inputs])
    assert record.macs(node) * 2 == counter.get_total_flops() > 0


WINDOWS = [
    {}, {"pads": [1, 0, 2, 1]}, {"strides": [2, 3]}, {"dilations": [2, 1], "pads": [1, 1, 1, 1]},
    {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {"auto_pad": "SAME_LOWER"}, {"auto_pad": "VALID"},
]  # fmt: skip


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("attributes", WINDOWS)
def test_conv2d(group, attributes):
    x, w, b = array(2, 4, 9, 8), array(8, 4 // group, 3, 3), array(8)
    check("Conv", [x, w, b], symbolic={0: ("n", 4, "h", "w")}, group=group, **attributes)


@pytest.mark.parametrize("rank", [1, 3])
def test_conv_other_ranks(rank):
    check("Conv", [array(1, 3, *[6] * rank), array(5, 3, *[3] * rank)])


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize(
    "attributes",
    [*WINDOWS, {"strides": [2, 2], "output_padding": [1, 1], "pads": [1, 1, 1, 1]},
     {"strides": [3, 2], "output_padding": [2, 1], "pads": [1, 0, 0, 1]},
     {"strides": [2, 2], "output_shape": [18, 16]}, {"strides": [2, 2], "output_shape": [17, 15]},
     {"strides": [2, 2], "output_shape": [18, 15], "auto_pad": "SAME_UPPER"},
     {"strides": [2, 2], "output_shape": [20, 18]},
     {"strides": [2, 2], "dilations": [2, 2], "output_padding": [1, 0]},
     {"strides": [2, 2], "auto_pad": "SAME_LOWER"}],
)  # fmt: skip
def test_conv_transpose(group, attributes):
    x, w, b = array(2, 4, 9, 8), array(4, 8 // group, 3, 3), array(8)
    symbolic = {0: ("n", 4, "h", "w")}
    check("ConvTranspose", [x, w, b], symbolic=symbolic, group=group, **attributes)
    check("ConvTranspose", [x, w], symbolic=symbolic, group=group, **attributes)


@pytest.mark.parametrize("rank", [1, 3])
def test_conv_transpose_other_ranks(rank):
    x, w = array(1, 3, *[5] * rank), array(3, 2, *[3] * rank)
    check("ConvTranspose", [x, w], strides=[2] * rank, pads=[1] * rank + [0] * rank)
    check("ConvTranspose", [x, w], strides=[2] * rank, pads=[1] * 2 * rank, output_padding=[1] * rank)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("offset_group", [1, 2])
@pytest.mark.parametrize("more", [{}, {"strides": [2, 1], "pads": [1, 0, 1, 0], "dilations": [1, 2]}])
def test_deform_conv(group, offset_group, more):
    x, w, b = array(2, 4, 7, 6), array(6, 4 // group, 3, 2), array(6)
    strides, pads, dilations = (
        more.get(k, d) for k, d in [("strides", [1, 1]), ("pads", [0] * 4), ("dilations", [1, 1])]
    )
    spatial = [
        (size + pads[i] + pads[i + 2] - dilations[i] * (k - 1) - 1) // strides[i] + 1
        for i, (size, k) in enumerate([(7, 3), (6, 2)])
    ]
    offset, mask = 2 * array(2, offset_group * 12, *spatial), array(2, offset_group * 6, *spatial)
    attributes = {"group": group, "offset_group": offset_group, "kernel_shape": [3, 2], **more}
    check("DeformConv", [x, w, offset, b, mask], rtol=1e-3, atol=1e-4, **attributes)
    check("DeformConv", [x, w, offset], rtol=1e-3, atol=1e-4, **attributes)


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("attributes", [{}, {"strides": [2, 1], "pads": [1, 1, 1, 1]}, {"pads": [1, 0, 0, 2]}])
def test_macs(group, attributes):
    check_macs("Conv", [array(2, 4, 9, 8), array(8, 4 // group, 3, 3)], group=group, **attributes)
    check_macs("ConvTranspose", [array(2, 4, 9, 8), array(4, 8 // group, 3, 3)], group=group, **attributes)


@pytest.mark.parametrize(
    ("op", "shapes", "attributes", "words"),
    [("Conv", [(1, 3, 5, 5), (4, 2, 3, 3)], {}, "3 channels"),
     ("Conv", [(1, 3, 5, 5), (4, 3, 3)], {}, "rank"),
     ("Conv", [(1, 4, 5, 5), (3, 2, 3, 3)], {"group": 2}, "groups"),
     ("Conv", [(1, 3, 5, 5), (4, 3, 3, 3), (3,)], {}, "bias"),
     ("Conv", [(1, 3, 2, 2), (4, 3, 3, 3)], {}, "does not fit"),
     ("Conv", [(1, 3, 5, 5), (4, 3, 3, 3)], {"pads": [1, 1]}, "pads has 2 entries"),
     ("ConvTranspose", [(1, 3, 5, 5), (4, 3, 3, 3)], {}, "3 channels"),
     ("ConvTranspose", [(1, 3, 5, 5), (3, 3, 3, 3), (4,)], {}, "bias"),
     ("ConvTranspose", [(1, 3, 5, 5), (3, 3, 3)], {}, "rank")],
)  # fmt: skip
def test_errors(op, shapes, attributes, words):
    _, node = graph_of(op, [array(*shape) for shape in shapes], **attributes)
    with pytest.raises(ShapeError, match=words):
        record_of(node).infer(node)


def test_four_spatial_dimensions_are_refused():
    inputs = [array(1, 1, 2, 2, 2, 2), array(1, 1, 1, 1, 1, 1)]
    _, node = graph_of("Conv", inputs)
    with pytest.raises(GraphoptError, match="4 spatial dimensions"):
        execute(node, [torch.from_numpy(a) for a in inputs])
