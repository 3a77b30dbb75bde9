"""NonMaxSuppression against ONNX Runtime."""

import numpy as np
import pytest

from graphopt.errors import ShapeError
from graphopt.ir import DType, TensorType
from graphopt.ops import record_of
from tests.ops.test_text import ort
from tests.ops.values import check, node_of

RNG = np.random.default_rng(0)


def compare(boxes, scores, *rest, **attributes):
    given = [boxes, scores, *rest]
    (got,) = check("NonMaxSuppression", given, want=ort("NonMaxSuppression", given, **attributes), **attributes)
    return got


def scalars(limit, iou, score=None):
    rest = [np.array(limit, np.int64), np.array(iou, np.float32)]
    return rest if score is None else [*rest, np.array(score, np.float32)]


@pytest.mark.parametrize("center", [0, 1])
@pytest.mark.parametrize("iou", [0.0, 0.3, 0.7])
@pytest.mark.parametrize(("limit", "score"), [(3, None), (100, 0.4), (1, 0.9)])
def test_random_boxes(center, iou, limit, score):
    boxes = RNG.random((2, 30, 4)).astype(np.float32)
    scores = RNG.random((2, 3, 30)).astype(np.float32)
    found = compare(boxes, scores, *scalars(limit, iou, score), center_point_box=center)
    assert len(found) > 0


def test_ties_go_to_the_first_and_flipped_corners_are_the_same_box():
    box = np.array([0, 0, 1, 1], np.float32)
    boxes = np.stack([box, box[[2, 3, 0, 1]], box + 5, box + 5])[None]
    scores = np.full((1, 1, 4), 0.5, np.float32)
    assert compare(boxes, scores, *scalars(10, 0.5)).tolist() == [[0, 0, 0], [0, 0, 2]]


def test_nothing_is_selected_by_default():
    boxes, scores = np.ones((1, 3, 4), np.float32), np.ones((1, 1, 3), np.float32)
    assert compare(boxes, scores).shape == (0, 3)
    assert compare(boxes, scores, *scalars(5, 0.5, 2.0)).shape == (0, 3)


@pytest.mark.parametrize(
    ("boxes", "scores", "words"), [((1, 3, 5), (1, 1, 3), "boxes, 4"), ((1, 3, 4), (1, 3), "rank 2")]
)
def test_shapes_that_do_not_fit(boxes, scores, words):
    node = node_of("NonMaxSuppression", *(TensorType(DType.FLOAT32, shape) for shape in (boxes, scores)))
    with pytest.raises(ShapeError, match=words):
        record_of(node).infer(node)
