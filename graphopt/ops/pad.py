"""Pad and CenterCropPad."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from graphopt.errors import ShapeError
from graphopt.ir import Dim, Node, ValueType
from graphopt.ir import dims as D
from graphopt.ops.infer import contents, input_type, integers, normalise_axis, static_integers
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.refinement import freeze, tie
from graphopt.ops.relation import Relation, Shrinkage
from graphopt.ops.vectors import IntVector, ints, rewritable, rewrite, scalar

# -- Pad


def pad(
    x: torch.Tensor,
    pads: IntVector,
    value: torch.Tensor | float | None = None,
    axes: IntVector | None = None,
    *,
    mode: str = "constant",
) -> torch.Tensor:
    """ONNX Pad: `pads` holds the begins, then the ends, of `axes` (all by default); negative ones crop.

    Modes: constant (with `value`, 0 by default), reflect (without the border), edge, wrap.
    """
    amounts = ints(pads)
    half = len(amounts) // 2
    where = list(range(x.dim())) if axes is None else [a % x.dim() for a in ints(axes)]
    both = {axis: (amounts[i], amounts[i + half]) for i, axis in enumerate(where)}
    if mode == "constant":
        flat = [p for axis in reversed(range(x.dim())) for p in both.get(axis, (0, 0))]
        return torch.constant_pad_nd(x, flat, 0 if value is None else scalar(value))
    for axis, (begin, end) in both.items():
        if begin or end:
            x = x.index_select(axis, _mirror(x.shape[axis], begin, end, mode).to(x.device))
    return x


def _mirror(size: int, begin: int, end: int, mode: str) -> torch.Tensor:
    """For each position of a padded dimension the position that it copies."""
    index = torch.arange(-begin, size + end)
    if mode == "edge":
        return index.clamp(0, size - 1)
    if mode == "wrap":
        return index % size
    period = max(2 * (size - 1), 1)
    index = index % period
    return torch.where(index >= size, period - index, index)


def _pads(node: Node) -> dict[int, tuple[Dim, Dim, int]] | None:
    """Begin, end and position in the pads input by axis; ``None`` when the axes are not known."""
    rank = node.operand(0).rank
    pads, axes = integers(node.input(1)), node.input(3)
    where = list(range(rank or 0)) if axes is None else static_integers(axes)
    if rank is None or where is None:
        return None
    half = len(where)
    if pads is not None and len(pads) != 2 * half:
        raise ShapeError(f"{len(pads)} pads for {half} axes", where=node.describe())
    amounts: Sequence[Dim] = pads or [None] * 2 * half
    return {normalise_axis(a, rank, node): (amounts[i], amounts[i + half], i) for i, a in enumerate(where)}


def infer_pad(node: Node) -> list[ValueType]:
    x, pads = input_type(node, 0), _pads(node)
    if x.shape is None or pads is None:
        return [x.with_shape(None if x.shape is None else (None,) * len(x.shape))]
    return [x.with_shape(D.add(d, *pads[i][:2]) if i in pads else d for i, d in enumerate(x.shape))]


def evaluate_pad(node: Node) -> list[np.ndarray | None]:
    known, amounts = contents(node.input(0)), static_integers(node.input(1))
    fill = [0] if node.input(2) is None else integers(node.input(2))
    if known is None or amounts is None or fill is None or node.input(3) is not None or min(amounts, default=0) < 0:
        return [None]
    if attribute(node, "mode") != "constant":
        return [None]
    pairs = list(zip(amounts[: known.ndim], amounts[known.ndim :], strict=True))
    return [np.pad(known, pairs, constant_values=np.array(fill[0], dtype=object))]


def relate_pad(node: Node) -> Relation:
    relation, x, y, pads = Relation(), node.operand(0), node.output, _pads(node)
    if x.shape is None or y.shape is None or pads is None:
        return relation
    constant = attribute(node, "mode") == "constant"
    for dim, size in enumerate(x.shape):
        begin, end, place = pads.get(dim, (0, 0, 0))
        half = len(pads)
        if begin == 0 and end == 0:
            tie(relation, f"d{dim}", (x, dim), (y, dim))
        elif not (isinstance(size, int) and isinstance(begin, int) and isinstance(end, int)):
            freeze(relation, "it is padded by an amount that is not known", (x, dim), (y, dim))
        elif not constant or not all(rewritable(node.input(1), place + offset) for offset in (0, half)):
            freeze(relation, "it is padded with its own elements", (x, dim), (y, dim))
        elif begin >= 0 and end >= 0:
            relation.select((x, dim), (y, dim), range(begin, begin + size))
        elif begin <= 0 and end <= 0:
            relation.select((y, dim), (x, dim), range(-begin, size + end))
        else:
            freeze(relation, "it is padded at one end and cropped at the other", (x, dim), (y, dim))
    return relation


def shrink_pad(node: Node, edit: Shrinkage) -> None:
    x, y, pads = node.operand(0), node.output, _pads(node)
    if x.shape is None or pads is None or integers(node.input(1)) is None:
        return
    new: dict[int, int] = {}
    for dim, (begin, end, place) in pads.items():
        size = x.shape[dim]
        if not (isinstance(begin, int) and isinstance(end, int) and isinstance(size, int)) or begin == end == 0:
            continue
        if begin < 0 or end < 0:
            first, last = (
                -_kept_between(edit.kept(x, dim), 0, -begin),
                -_kept_between(edit.kept(x, dim), size + end, size),
            )
        else:
            first = _kept_between(edit.kept(y, dim), 0, begin)
            last = _kept_between(edit.kept(y, dim), begin + size, begin + size + end)
        new.update({place: first, place + len(pads): last})
    if new:
        rewrite(node, 1, edit, new)


def _kept_between(kept: torch.Tensor | None, low: int, high: int) -> int:
    """How many of the indices from `low` up to `high` stay."""
    return high - low if kept is None else int(((kept >= low) & (kept < high)).sum())


# -- CenterCropPad


def center_crop_pad(x: torch.Tensor, shape: IntVector, *, axes: Sequence[int] = ()) -> torch.Tensor:
    """ONNX CenterCropPad: crops or zero-pads `axes` (all by default) to `shape`, the odd element at the end."""
    for axis, target in zip(axes or range(x.dim()), ints(shape), strict=True):
        size, axis = x.shape[axis], axis % x.dim()
        if size > target:
            x = x.narrow(axis, (size - target) // 2, target)
        elif size < target:
            begin = (target - size) // 2
            flat = [0, 0] * (x.dim() - 1 - axis) + [begin, target - size - begin]
            x = torch.constant_pad_nd(x, flat, 0)
    return x


def _targets(node: Node) -> dict[int, tuple[Dim, int]] | None:
    rank = node.operand(0).rank
    if rank is None:
        return None
    axes = list(attribute(node, "axes") or range(rank))
    shape: Sequence[Dim] = integers(node.input(1)) or [None] * len(axes)
    if len(shape) != len(axes):
        raise ShapeError(f"{len(shape)} sizes for {len(axes)} axes", where=node.describe())
    return {normalise_axis(a, rank, node): (size, i) for i, (a, size) in enumerate(zip(axes, shape, strict=True))}


def infer_center_crop_pad(node: Node) -> list[ValueType]:
    x, targets = input_type(node, 0), _targets(node)
    if x.shape is None or targets is None:
        return [x]
    return [x.with_shape(targets[i][0] if i in targets else d for i, d in enumerate(x.shape))]


def relate_center_crop_pad(node: Node) -> Relation:
    relation, x, y, targets = Relation(), node.operand(0), node.output, _targets(node)
    if x.shape is None or y.shape is None or targets is None:
        return relation
    for dim, size in enumerate(x.shape):
        target, place = targets.get(dim, (size, -1))
        if D.same(size, target) and (place < 0 or rewritable(node.input(1), place)):
            tie(relation, f"d{dim}", (x, dim), (y, dim))
        else:
            freeze(relation, "it is cropped or padded", (x, dim), (y, dim))
    return relation


def shrink_center_crop_pad(node: Node, edit: Shrinkage) -> None:
    targets = _targets(node)
    if not targets or integers(node.input(1)) is None:
        return
    new = {place: edit.size(node.output, dim) for dim, (old, place) in targets.items() if isinstance(old, int)}
    rewrite(node, 1, edit, {place: size for place, size in new.items() if isinstance(size, int)})


register(
    Operator("Pad", infer_pad, pad, relate_pad, evaluate=evaluate_pad, shrink=shrink_pad),
    Operator(
        "CenterCropPad",
        infer_center_crop_pad,
        center_crop_pad,
        relate_center_crop_pad,
        shrink=shrink_center_crop_pad,
    ),
)

__all__ = ["center_crop_pad", "pad"]
