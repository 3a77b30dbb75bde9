"""NonMaxSuppression."""

from __future__ import annotations

import torch

from graphopt.errors import ShapeError
from graphopt.ir import DType, Node, TensorType, ValueType
from graphopt.ops.infer import input_type
from graphopt.ops.record import Operator, register


def corners(boxes: torch.Tensor, center_point_box: int) -> torch.Tensor:
    """Boxes [..., 4] in either of ONNX's formats as [..., (low, low, high, high)]."""
    first, second = boxes[..., :2], boxes[..., 2:]
    if center_point_box:
        return torch.cat([first - second / 2, first + second / 2], -1)
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], -1)


def overlaps(box: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Intersection over union of a box [4] with each of `others` [n, 4], as corners; 0 where either is empty."""
    sides = (torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])).clamp(min=0)
    common = sides.prod(-1)
    area, areas = (box[2:] - box[:2]).prod(), (others[:, 2:] - others[:, :2]).prod(-1)
    union = area + areas - common
    valid = (common > 0) & (area > 0) & (areas > 0) & (union > 0)
    return torch.where(valid, common / union, torch.zeros_like(union))


def _select(boxes: torch.Tensor, scores: torch.Tensor, limit: int, iou: float, least: float | None) -> list[int]:
    """Indices of the boxes of one class that stay, best first; of equal scores the lower index goes first."""
    order = torch.sort(scores, descending=True, stable=True).indices
    if least is not None:
        order = order[scores[order] > least]
    chosen: list[int] = []
    while order.numel() and len(chosen) < limit:
        best, order = int(order[0]), order[1:]
        chosen.append(best)
        order = order[overlaps(boxes[best], boxes[order]) <= iou]
    return chosen


def non_max_suppression(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    max_output_boxes_per_class: torch.Tensor | None = None,
    iou_threshold: torch.Tensor | None = None,
    score_threshold: torch.Tensor | None = None,
    *,
    center_point_box: int = 0,
) -> torch.Tensor:
    """ONNX NonMaxSuppression: boxes [N, B, 4], scores [N, C, B] to rows (batch, class, box), int64."""
    limit = 0 if max_output_boxes_per_class is None else int(max_output_boxes_per_class)
    # A threshold is compared as float32, in which it came.
    iou = 0.0 if iou_threshold is None else iou_threshold.reshape(()).item()
    least = None if score_threshold is None else score_threshold.reshape(()).item()
    at = corners(boxes, center_point_box)
    rows = [
        (batch, kind, box)
        for batch in range(scores.shape[0])
        for kind in range(scores.shape[1])
        for box in _select(at[batch], scores[batch, kind], limit, iou, least)
    ]
    return torch.tensor(rows, dtype=torch.int64, device=boxes.device).reshape(-1, 3)


def infer_non_max_suppression(node: Node) -> list[ValueType]:
    """Type rule of NonMaxSuppression: how many boxes stay is not known."""
    boxes, scores = input_type(node, 0).shape, input_type(node, 1).shape
    if boxes is not None and (len(boxes) != 3 or boxes[2] not in (4, None)):
        raise ShapeError(f"boxes have shape {list(boxes)}, expected [batch, boxes, 4]", where=node.describe())
    if scores is not None and len(scores) != 3:
        raise ShapeError(f"scores have rank {len(scores)}, expected [batch, classes, boxes]", where=node.describe())
    return [TensorType(DType.INT64, (None, 3))]


register(Operator("NonMaxSuppression", infer_non_max_suppression, non_max_suppression))

__all__ = ["non_max_suppression"]
