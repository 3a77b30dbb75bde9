"""Resize."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from graphopt.errors import ShapeError
from graphopt.ir import Dim, Node, Value, ValueType
from graphopt.ir import dims as D
from graphopt.ops.infer import input_type, integers, normalise_axis
from graphopt.ops.interpolate import Filter, Stretch, resize_axis, torch_interpolate
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.refinement import freeze, tie
from graphopt.ops.relation import Relation, Shrinkage
from graphopt.ops.vectors import IntVector, ints, rewritable, rewrite

FloatVector = torch.Tensor | Sequence[float]


def resize(
    x: torch.Tensor,
    roi: FloatVector | None = None,
    scales: FloatVector | None = None,
    sizes: IntVector | None = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] = (),
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> torch.Tensor:
    """ONNX Resize, by `scales` or to `sizes` of `axes` (all by default)."""
    where = [a % x.dim() for a in axes] or list(range(x.dim()))
    old = [x.shape[a] for a in where]
    factors = _floats(scales)
    if factors:
        new = [scaled(size, factor) for size, factor in zip(old, factors, strict=True)]
    else:
        new, factors = fitted(old, ints(() if sizes is None else sizes), keep_aspect_ratio_policy)
    cropped = coordinate_transformation_mode == "tf_crop_and_resize"
    region = _floats(roi) if cropped else [0.0] * len(where) + [1.0] * len(where)
    bounds = zip(region[: len(where)], region[len(where) :], strict=True)
    stretches = [Stretch(*each) for each in zip(where, old, new, factors, bounds, strict=True)]
    stretches = [s for s in stretches if s.old != s.new or s.scale != 1 or s.region != (0.0, 1.0)]
    how = Filter(
        mode, coordinate_transformation_mode, nearest_mode, cubic_coeff_a, bool(antialias), bool(exclude_outside),
        extrapolation_value,
    )  # fmt: skip
    return _resize(x, stretches, how)


def _resize(x: torch.Tensor, stretches: Sequence[Stretch], how: Filter) -> torch.Tensor:
    known = torch_interpolate(x, stretches, how)
    if known is not None:
        return known
    dtype = x.dtype
    if how.mode != "nearest" and dtype != torch.float64:
        x = x.float()
    for stretch in stretches:
        x = resize_axis(x, stretch, how)
    if x.dtype == dtype:
        return x
    if not dtype.is_floating_point:
        x = x.clamp(torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    return x.to(dtype)


def _floats(vector: FloatVector | None) -> list[float]:
    if vector is None:
        return []
    return [float(item) for item in (vector.tolist() if isinstance(vector, torch.Tensor) else vector)]


def scaled(size: int, factor: float) -> int:
    """The size that a factor gives; the product is taken in float32, as ONNX Runtime and shape inference do."""
    return int(np.floor(np.float32(size) * np.float32(factor)))


def fitted(old: Sequence[int], wanted: Sequence[int], policy: str) -> tuple[list[int], list[float]]:
    """Sizes and factors for `wanted` sizes under a keep_aspect_ratio_policy."""
    factors = [new / size if size else 1.0 for new, size in zip(wanted, old, strict=True)]
    if policy == "stretch":
        return list(wanted), factors
    factor = min(factors) if policy == "not_larger" else max(factors)
    return [math.floor(factor * size + 0.5) for size in old], [factor] * len(old)


# -- types and relations


def _axes(node: Node, rank: int) -> list[int]:
    return [normalise_axis(a, rank, node) for a in attribute(node, "axes")] or list(range(rank))


def _scales(node: Node) -> list[float] | None:
    """The factors, when Resize goes by factors that are known; an empty list when it goes by sizes."""
    value = node.input(2)
    if value is None or value.shape == (0,):
        return []
    return _floats(value.data) if value.is_constant and value.data is not None else None


def new_sizes(node: Node) -> Mapping[int, Dim]:
    """The new size of each axis that Resize names, as far as known."""
    shape = node.operand(0).shape
    if shape is None:
        return {}
    axes = _axes(node, len(shape))
    factors = _scales(node)
    if factors is None:
        return dict.fromkeys(axes)
    wanted = integers(node.input(3)) or [None] * len(axes)
    if len(factors or wanted) != len(axes):
        raise ShapeError(f"{len(factors or wanted)} scales or sizes for {len(axes)} axes", where=node.describe())
    if factors:
        return {a: _scaled_dim(shape[a], f) for a, f in zip(axes, factors, strict=True)}
    policy = attribute(node, "keep_aspect_ratio_policy")
    if policy == "stretch":
        return dict(zip(axes, wanted, strict=True))
    old, known = [shape[a] for a in axes], [d for d in wanted if isinstance(d, int)]
    numbers = [d for d in old if isinstance(d, int)]
    if len(numbers) < len(axes) or len(known) < len(axes):
        return dict.fromkeys(axes)
    return dict(zip(axes, fitted(numbers, known, policy)[0], strict=True))


def _scaled_dim(size: Dim, factor: float) -> Dim:
    if isinstance(size, int):
        return scaled(size, factor)
    top, bottom = float(factor).as_integer_ratio()
    return D.floor_div(D.mul(size, top), bottom) if bottom <= 1024 else None


def infer_resize(node: Node) -> list[ValueType]:
    x = input_type(node, 0)
    if x.shape is None:
        return [x]
    sizes = new_sizes(node)
    return [x.with_shape(sizes.get(i, d) for i, d in enumerate(x.shape))]


def relate_resize(node: Node) -> Relation:
    relation, x, y = Relation(), node.operand(0), node.output
    if x.shape is None or y.shape is None:
        return relation
    sizes, factors = new_sizes(node), _scales(node)
    axes = _axes(node, len(x.shape))
    movable = not isinstance(node.input(1), Value) or attribute(node, "coordinate_transformation_mode")[:2] != "tf"
    for dim, size in enumerate(x.shape):
        place = axes.index(dim) if dim in axes else -1
        kept = place < 0 or (D.same(size, sizes[dim]) and _stays(node, factors, place) and movable)
        if kept:
            tie(relation, f"d{dim}", (x, dim), (y, dim))
        else:
            freeze(relation, "it is resized", (x, dim), (y, dim))
    return relation


def _stays(node: Node, factors: Sequence[float] | None, place: int) -> bool:
    """True when an axis that keeps its size still would after losing indices."""
    if factors:
        return factors[place] == 1
    return attribute(node, "keep_aspect_ratio_policy") == "stretch" and rewritable(node.input(3), place)


def shrink_resize(node: Node, edit: Shrinkage) -> None:
    x, y = node.operand(0), node.output
    if x.shape is None or _scales(node) != [] or integers(node.input(3)) is None:
        return
    sizes = {
        place: edit.size(y, axis)
        for place, axis in enumerate(_axes(node, len(x.shape)))
        if edit.kept(y, axis) is not None
    }
    rewrite(node, 3, edit, {place: size for place, size in sizes.items() if isinstance(size, int)})


register(Operator("Resize", infer_resize, resize, relate_resize, shrink=shrink_resize))

__all__ = ["resize"]
