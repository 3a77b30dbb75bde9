"""Slices, splits and sequences of parts: fewer operators that pick the same elements.

Contract of every rule here: exact.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from graphopt.ir import Node, Value
from graphopt.ops import attribute
from graphopt.ops.builder import Builder
from graphopt.ops.infer import static_integers
from graphopt.passes.simplify.conditions import same_shape, stand_in
from graphopt.rewrite import Match, Pattern, Patterns, Result, Rule, Var

_FAR = 1 << 62
# Most elements of an axis that are picked by a list of their indices.
_MAX_INDICES = 1024


def taken(node: Node) -> dict[int, slice] | None:
    """What a Slice takes of each axis that it names; ``None`` when that is not constant."""
    rank = node.operand(0).rank
    starts, ends = static_integers(node.input(1)), static_integers(node.input(2))
    if rank is None or starts is None or ends is None:
        return None
    axes = list(range(len(starts))) if node.input(3) is None else static_integers(node.input(3))
    steps = [1] * len(starts) if node.input(4) is None else static_integers(node.input(4))
    if axes is None or steps is None or any(step == 0 for step in steps):
        return None
    found = zip(axes, starts, ends, steps, strict=True)
    return {axis % rank: slice(start, end, step) for axis, start, end, step in found}


def indices(x: Value, axis: int, part: slice) -> range | None:
    """The indices of an axis of `x` that a slice takes, as ONNX counts; ``None`` while the extent is not known."""
    extent = x.shape[axis] if x.shape is not None else None
    if not isinstance(extent, int):
        return None
    if part.step > 0:
        return range(extent)[part]
    # Backwards to before the first element: Python has None for that end, ONNX any number below -extent, which as a
    # start means the first element.
    stop = None if part.stop < -extent else part.stop
    return range(extent)[max(part.start, -extent) : stop : part.step]


def as_slice(found: range) -> tuple[int, int, int]:
    """Start, end and step with which a Slice takes the indices of a range."""
    if not found:
        return 0, 0, 1
    before_first = found.step < 0 and found.stop < 0
    return found.start, -_FAR if before_first else found.stop, found.step


class MergeSlices(Rule):
    """Slice of Slice is one Slice. Conditions: constant bounds; other axes, or axes of known extent."""

    def pattern(self, op: Patterns, x: Var, *rest: Any) -> Pattern:
        return op.Slice(
            op.shared(op.Slice(x, *rest)).named("inner"), op.anything(), op.anything(), op.anything(), op.anything()
        )

    def rewrite(self, op: Builder, m: Match) -> Result:
        x, inner = m["x"], m.node("inner")
        first, second = taken(inner), taken(m.root)
        if first is None or second is None:
            return m.fail("the bounds are not constant")
        merged = {axis: (part.start, part.stop, part.step) for axis, part in (first | second).items()}
        for axis in first.keys() & second.keys():
            left = indices(x, axis, first[axis])
            again = indices(inner.output, axis, second[axis])
            if left is None or again is None:
                return m.fail("both slice the same axis, whose extent is not known")
            merged[axis] = as_slice(left[again.start : again.stop if again.stop >= 0 else None : again.step])
        axes = sorted(merged)
        starts, ends, steps = ([merged[axis][i] for axis in axes] for i in range(3))
        return op.Slice(x, starts, ends, axes, None if all(step == 1 for step in steps) else steps)


def _takes_one(node: Node) -> bool:
    parts = taken(node)
    return parts is not None and len(parts) == 1 and all(_is_single(node, *item) for item in parts.items())


def _is_single(node: Node, axis: int, part: slice) -> bool:
    """True for a slice that takes the element at its start or, where the extent is not known, nothing."""
    found = indices(node.operand(0), axis, part)
    if found is not None:
        return len(found) == 1
    follows = part.stop == part.start + 1 and part.start != -1
    return bool(part.step == 1 and (follows or (part.start == -1 and part.stop > 1 << 31)))


class SqueezedSlice(Rule):
    """Squeeze of a Slice of one element is a Gather of that element."""

    def pattern(self, op: Patterns, x: Var, axes: Var, *rest: Any) -> Pattern:
        return op.Squeeze(op.Slice(x, *rest).when(_takes_one).named("slice"), op.constant(axes))

    def rewrite(self, op: Builder, m: Match) -> Result:
        ((axis, part),) = (taken(m.node("slice")) or {}).items()
        squeezed, rank = static_integers(m["axes"]), m["x"].rank
        if squeezed is None or rank is None or [each % rank for each in squeezed] != [axis]:
            return m.fail("other axes are squeezed")
        found = indices(m["x"], axis, part)
        return _pick(op, m["x"], part.start if found is None else found.start, axis)


def _pick(op: Builder, x: Value, index: int, axis: int) -> Value:
    return op.Gather(x, index, axis=axis)


def part_sizes(node: Node) -> list[int] | None:
    """The extents of the outputs of a Split along its axis, where all are known."""
    rank = node.operand(0).rank
    if rank is None:
        return None
    axis = attribute(node, "axis") % rank
    sizes = [value.shape[axis] if value.shape is not None else None for value in node.outputs]
    known = [size for size in sizes if isinstance(size, int)]
    return known if len(known) == len(sizes) else None


def _splits_into_ones(node: Node) -> bool:
    sizes = part_sizes(node)
    readers = [use.user for value in node.outputs for use in value.uses]
    return sizes is not None and set(sizes) == {1} and all(
        isinstance(user, Node) and user.op == "Squeeze" for user in readers
    )  # fmt: skip


class SqueezedSplit(Rule):
    """Squeezes of all parts of a Split into single elements are Gathers of these."""

    def pattern(self, op: Patterns, part: Var, axes: Var) -> Pattern:
        return op.Squeeze(op.where(part, _is_single_part), op.constant(axes))

    def rewrite(self, op: Builder, m: Match) -> Result:
        split = m["part"].producer
        squeezed = static_integers(m["axes"])
        if split is None or split.graph is not m.graph or squeezed is None or split.operand(0).rank is None:
            return m.fail("the split lies in another graph")
        x = split.operand(0)
        axis = attribute(split, "axis") % (x.rank or 1)
        if [each % (x.rank or 1) for each in squeezed] != [axis]:
            return m.fail("other axes are squeezed")
        return _pick(op, x, m["part"].index, axis)


def _is_single_part(value: Value) -> bool:
    producer = value.producer
    return producer is not None and producer.op == "Split" and not producer.domain and _splits_into_ones(producer)


class SequenceElement(Rule):
    """An element, at a constant position, of a tensor that was split into a sequence is an output of a Split.

    Condition: the extents of all parts are known.
    """

    def pattern(self, op: Patterns, x: Var, i: Var, split: Any = None) -> Pattern:
        sequence = op.SplitToSequence(x, split, keepdims=lambda keep: keep in (0, 1)).named("sequence")
        return op.SequenceAt(op.shared(sequence), op.constant(i))

    def rewrite(self, op: Builder, m: Match) -> Result:
        x, node, position = m["x"], m.node("sequence"), static_integers(m["i"])
        if x.rank is None or x.shape is None or position is None:
            return m.fail("the rank or the position is not known")
        axis = attribute(node, "axis") % x.rank
        sizes = _sequence_sizes(m.get("split"), x.shape[axis])
        if not sizes or not -len(sizes) <= position[0] < len(sizes):
            return m.fail("the extents of the parts are not known")
        index = position[0] % len(sizes)
        if m.get("split") is None and not attribute(node, "keepdims"):
            return _pick(op, x, index, axis)
        if len(sizes) == 1:
            return stand_in(m, x)
        return op.Split(x, sizes, axis=axis, outputs=len(sizes))[index]


def _sequence_sizes(split: Value | None, extent: Any) -> list[int] | None:
    if split is not None and split.rank == 1:
        return static_integers(split)
    each = [1] if split is None else static_integers(split)
    if each is None or not isinstance(extent, int) or each[0] < 1:
        return None
    whole, left = divmod(extent, each[0])
    return [each[0]] * whole + [left] * (left > 0)


class ConcatOfParts(Rule):
    """Concat of slices or parts of one tensor, along the axis that they were cut, is a Slice or Gather of it, or it.

    Conditions: the extent is known, and no more than 1024 elements are listed.
    """

    def pattern(self, op: Patterns, *parts: Any) -> Pattern:
        return op.Concat(*parts).when(_joins_parts)

    def rewrite(self, op: Builder, m: Match) -> Result:
        axis = attribute(m.root, "axis") % (m.root.output.rank or 1)
        origins = [part_of(value, axis) for value in m.root.inputs if value is not None]
        found = [origin for origin in origins if origin is not None]
        x = found[0][0]
        listed = [index for _, part in found for index in part]
        if x.producer is not None and x.graph is not m.graph and m.root.output.is_output:
            return m.fail("it hands on a value of another graph")
        if listed == list(range(len(listed))) and same_shape(x, m.root.output):
            return stand_in(m, x)
        steps = {second - first for first, second in itertools.pairwise(listed)}
        if len(steps) == 1 and (step := steps.pop()):
            start, end, step = as_slice(range(listed[0], listed[-1] + (1 if step > 0 else -1), step))
            return op.Slice(x, [start], [end], [axis], None if step == 1 else [step])
        if len(listed) > _MAX_INDICES:
            return m.fail(f"more than {_MAX_INDICES} indices would be listed")
        return op.Gather(x, listed, axis=axis)


def part_of(value: Value, axis: int) -> tuple[Value, range] | None:
    """The tensor that a value is a part of along an axis, and the indices of the part."""
    node = value.producer
    if node is None or node.domain or value.rank is None:
        return None
    if node.op == "Slice":
        parts = taken(node)
        found = indices(node.operand(0), axis, parts[axis]) if parts is not None and list(parts) == [axis] else None
        return None if found is None else (node.operand(0), found)
    if node.op == "Split" and attribute(node, "axis") % value.rank == axis:
        sizes = part_sizes(node)
        if sizes is None:
            return None
        start = sum(sizes[: value.index])
        return node.operand(0), range(start, start + sizes[value.index])
    return None


def _joins_parts(node: Node) -> bool:
    """True when all operands are parts of one tensor, and enough of these go for a Gather to be no more work."""
    rank = node.output.rank
    if rank is None or len(node.inputs) < 2:
        return False
    axis = attribute(node, "axis") % rank
    origins = [None if value is None else part_of(value, axis) for value in node.inputs]
    first = origins[0]
    if first is None or any(origin is None or origin[0] is not first[0] for origin in origins):
        return False
    return all(all(user is node for user in value.users) and not value.is_output for value in _siblings(node))


def _siblings(node: Node) -> Sequence[Value]:
    found: dict[Value, None] = {}
    for value in node.inputs:
        if value is not None and value.producer is not None:
            found.update(dict.fromkeys(value.producer.outputs))
    return list(found)


class MergeConcats(Rule):
    """Concat of Concat along the same axis is one Concat. Condition: nothing else reads the inner one."""

    def pattern(self, op: Patterns, *parts: Any) -> Pattern:
        return op.Concat(*parts).when(lambda node: any(_is_inner(value, node) for value in node.inputs))

    def rewrite(self, op: Builder, m: Match) -> Result:
        flat: list[Value | None] = []
        for value in m.root.inputs:
            inner = value.producer if value is not None and _is_inner(value, m.root) else None
            flat.extend([value] if inner is None else inner.inputs)
        rank = m.root.output.rank or 1
        return op.Concat(*flat, axis=attribute(m.root, "axis") % rank)


def _is_inner(value: Value | None, outer: Node) -> bool:
    node = None if value is None else value.producer
    if value is None or node is None or node.op != "Concat" or node.domain or node.graph is not outer.graph:
        return False
    rank = outer.output.rank
    if rank is None or len(value.uses) != 1:
        return False
    return bool(attribute(node, "axis") % rank == attribute(outer, "axis") % rank)


RULES: tuple[type[Rule], ...] = (
    MergeSlices, SqueezedSlice, SqueezedSplit, SequenceElement, ConcatOfParts, MergeConcats,
)  # fmt: skip
