"""Pools over regions against ONNX Runtime."""

import numpy as np
import pytest
import torch

from graphopt.ops import execute, record_of
from tests.ops.masking import check_relation
from tests.ops.oracle import check, graph_of, onnx_model, run_onnx

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 12, 10)).astype(np.float32)
ROIS = np.array([[0, 0, 9, 11], [2.3, 1.7, 6.1, 8.9], [-3, -2, 4, 5], [7, 8, 15, 16], [4, 4, 4.2, 4.3]], np.float32)
BATCH = np.array([0, 1, 1, 0, 1])


@pytest.mark.parametrize("transform", ["half_pixel", "output_half_pixel"])
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [0, 1, 2])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_roi_align(transform, mode, ratio, scale):
    attributes = {"coordinate_transformation_mode": transform, "mode": mode, "sampling_ratio": ratio,
                  "spatial_scale": scale, "output_height": 3, "output_width": 2}  # fmt: skip
    check("RoiAlign", [X, ROIS, BATCH], symbolic={0: ("n", 3, "h", "w"), 1: ("r", 4), 2: ("r",)}, **attributes)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_max_roi_pool(scale):
    rois = np.concatenate([BATCH[:, None].astype(np.float32), ROIS.round()], 1)
    attributes = {"pooled_shape": [3, 2], "spatial_scale": scale}
    model = onnx_model("MaxRoiPool", [X, rois], 1, **attributes)
    model.opset_import[0].version = 21  # ONNX Runtime's kernel stops there, and onnx.reference has none
    (want,) = run_onnx(model, [X, rois])
    _, node = graph_of("MaxRoiPool", [X, rois], **attributes)
    np.testing.assert_array_equal(execute(node, [torch.from_numpy(X), torch.from_numpy(rois)])[0].numpy(), want)
    assert record_of(node).infer(node)[0].shape == want.shape


def test_relation():
    check_relation("RoiAlign", [X, ROIS[:3], BATCH[:3]], "c r", output_height=3, output_width=2)
