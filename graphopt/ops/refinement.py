"""Relations of operators that move no element in row-major order (Reshape, Flatten), and small ties.

Two shapes of the same elements are cut wherever the products of their dimensions coincide, counted from the right or
from the left; symbolic sizes take part as expressions. Between two cuts, both sides are split into the coarsest list of
common factors, which become the axes of the relation: ``[12, 64] -> [768]`` gives ``h d -> (h d)``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from graphopt.ir import Dim, Shape, Value
from graphopt.ir import dims as D
from graphopt.ops.relation import Axis, DimRef, Relation


def extent(ref: DimRef) -> Dim:
    """The size of a dimension."""
    value, dim = ref
    return None if value.shape is None else value.shape[dim]


def tie(relation: Relation, label: str, *refs: DimRef) -> None:
    """Puts one axis on all of `refs` when they have the same known size; ones stay free."""
    sizes = {extent(ref) for ref in refs}
    size = sizes.pop() if len(sizes) == 1 else None
    for ref in refs:
        if isinstance(size, int):
            relation.axes[ref] = () if size == 1 else (Axis(label, size),)
        else:
            freeze(relation, "the sizes of its dimensions are not known or not equal", ref)


def freeze(relation: Relation, reason: str, *refs: DimRef) -> None:
    """Labels dimensions as immovable, each for itself, with a reason that reports can show."""
    for ref in refs:
        size = extent(ref)
        if not isinstance(size, int):
            continue
        label = f"frozen{len(relation.frozen)}"
        relation.axes[ref] = (Axis(label, size),)
        relation.frozen[label] = reason


def freeze_all(relation: Relation, reason: str, *values: Value | None) -> None:
    """`freeze` for every dimension of `values`."""
    for value in values:
        if value is not None:
            freeze(relation, reason, *((value, dim) for dim in range(value.rank or 0)))


def tie_dims(relation: Relation, source: Value, target: Value, pairs: Iterable[tuple[int, int]]) -> None:
    """Ties dimension i of `source` to dimension j of `target` for each pair."""
    for i, j in pairs:
        tie(relation, f"d{i}", (source, i), (target, j))


@dataclass(frozen=True)
class Factor:
    """A common factor of two shapes: its size and the dimension of either shape that it lies in."""

    size: Dim
    source: int
    target: int


@dataclass(frozen=True)
class Refinement:
    """How two shapes of the same elements factor.

    Attributes:
        factors: innermost first.
        ragged_source: dimensions of the source that could not be factored.
        ragged_target: dimensions of the target that could not be factored.
    """

    factors: list[Factor]
    ragged_source: set[int]
    ragged_target: set[int]


def refine(source: Shape, target: Shape) -> Refinement:
    """The row-major common refinement of two shapes. O(rank^2) symbolic comparisons."""
    left = [i for i, d in enumerate(source) if d != 1]
    right = [i for i, d in enumerate(target) if d != 1]
    found = Refinement([], set(), set())
    cuts = _cuts([source[i] for i in left], [target[i] for i in right])
    for (i0, j0), (i1, j1) in pairwise(cuts):
        _factor_group(found, source, target, left[i0:i1], right[j0:j1])
    return found


def _cuts(source: Sequence[Dim], target: Sequence[Dim]) -> list[tuple[int, int]]:
    found = {(0, 0), (len(source), len(target))}
    for reverse in (False, True):
        a, b = _products(source, reverse), _products(target, reverse)
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                if D.same(x, y):
                    found.add((len(source) - i, len(target) - j) if reverse else (i, j))
    end = (len(source), len(target))
    ordered = [(0, 0)]
    for cut in sorted(found - {end}):
        if cut[0] > ordered[-1][0] and cut[1] > ordered[-1][1] and cut[0] < end[0] and cut[1] < end[1]:
            ordered.append(cut)
    return [*ordered, end]


def _products(dims: Sequence[Dim], reverse: bool) -> list[Dim]:
    products: list[Dim] = [1]
    for dim in reversed(dims) if reverse else dims:
        products.append(D.mul(products[-1], dim))
    return products


def _divide(a: Dim, b: Dim) -> Dim:
    """``a / b`` when it is exact for all sizes, else ``None``."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b if b and a % b == 0 else None
    ratio = D.floor_div(a, b)
    return ratio if D.same(D.mul(ratio, b), a) else None


def _factor_group(found: Refinement, source: Shape, target: Shape, left: Sequence[int], right: Sequence[int]) -> None:
    i, j = len(left) - 1, len(right) - 1
    a, b = (source[left[i]] if left else 1), (target[right[j]] if right else 1)
    while i >= 0 and j >= 0:
        if D.same(a, b):
            size, a, b = a, 1, 1
        elif (rest := _divide(b, a)) is not None:
            size, a, b = a, 1, rest
        elif (rest := _divide(a, b)) is not None:
            size, a, b = b, rest, 1
        else:
            break
        found.factors.append(Factor(size, left[i], right[j]))
        if a == 1:
            i -= 1
            a = source[left[i]] if i >= 0 else 1
        if b == 1:
            j -= 1
            b = target[right[j]] if j >= 0 else 1
    found.ragged_source.update(left[: i + 1])
    found.ragged_target.update(right[: j + 1])


def relate_row_major(source: Value, target: Value) -> Relation:
    """The relation of two values that hold the same elements in the same order."""
    relation = Relation()
    if source.shape is None or target.shape is None or 0 in source.shape or 0 in target.shape:
        return relation
    found = refine(source.shape, target.shape)
    _label(relation, source, found, [f.source for f in found.factors], found.ragged_source)
    _label(relation, target, found, [f.target for f in found.factors], found.ragged_target)
    for index, factor in enumerate(found.factors):
        whole = isinstance(source.shape[factor.source], int) and isinstance(target.shape[factor.target], int)
        ragged = factor.source in found.ragged_source or factor.target in found.ragged_target
        if isinstance(factor.size, int) and (ragged or not whole):
            relation.frozen[f"f{index}"] = "it is part of a dimension that cannot be divided"
    return relation


def _label(relation: Relation, value: Value, found: Refinement, places: Sequence[int], ragged: Collection[int]) -> None:
    for dim, size in enumerate(value.shape or ()):
        if size == 1:
            relation.axes[value, dim] = ()
        elif dim in ragged:
            freeze(relation, "its indices do not line up with whole dimensions on the other side", (value, dim))
        elif isinstance(size, int):
            members = [k for k, place in enumerate(places) if place == dim]
            sizes = {k: extent for k in members if isinstance(extent := found.factors[k].size, int)}
            relation.axes[value, dim] = tuple(Axis(f"f{k}", sizes[k]) for k in reversed(members))


__all__ = ["extent", "freeze", "freeze_all", "refine", "relate_row_major", "tie", "tie_dims"]
