"""Identities of views: operators that move elements, but not this time.

Contract of every rule here: exact. Condition: shape propagation proves that input and output have the same shape
(symbolic dimensions included), and the operator keeps the row-major order of elements or is told to do nothing.
"""

from __future__ import annotations

from typing import Any

from graphopt.ir import Node
from graphopt.ops import attribute
from graphopt.ops.builder import Builder
from graphopt.ops.infer import static_integers
from graphopt.passes.simplify.conditions import same_shape, stand_in
from graphopt.rewrite import Match, Pattern, Patterns, Result, Rule, Var


def _keeps_shape(node: Node) -> bool:
    return same_shape(node.operand(0), node.output)


class _Drop(Rule):
    """What is matched is its operand `x`."""

    def rewrite(self, op: Builder, m: Match) -> Result:
        return stand_in(m, m["x"])


class DropReshape(_Drop):
    """Reshape, Flatten, Squeeze, Unsqueeze and Expand to the shape that x has are x."""

    def pattern(self, op: Patterns, x: Var, *rest: Any) -> Pattern:
        return op("Reshape|Flatten|Squeeze|Unsqueeze|Expand", x, *rest).when(_keeps_shape)


class DropTranspose(_Drop):
    """A Transpose that leaves every dimension where it is, or moves none but dimensions of one element, is x."""

    def pattern(self, op: Patterns, x: Var) -> Pattern:
        return op.Transpose(x).when(_keeps_order)


def _keeps_order(node: Node) -> bool:
    shape = node.operand(0).shape
    if shape is None or not _keeps_shape(node):
        return False
    perm = tuple(attribute(node, "perm") or reversed(range(len(shape))))
    moved = [dim for dim in perm if shape[dim] != 1]
    return moved == sorted(moved)


class DropSlice(_Drop):
    """A Slice with steps of 1 that keeps every element is x."""

    def pattern(self, op: Patterns, x: Var, starts: Var, ends: Var, axes: Any = None, steps: Any = None) -> Pattern:
        return op.Slice(x, starts, ends, axes, steps).when(_keeps_all)


def _keeps_all(node: Node) -> bool:
    steps = [1] if node.input(4) is None else static_integers(node.input(4))
    return steps is not None and all(step == 1 for step in steps) and _keeps_shape(node)


class DropPad(_Drop):
    """A Pad, by nothing, in any mode, is x; so is a Tile of 1 and 1."""

    def pattern(self, op: Patterns, x: Var, amounts: Var, value: Any = None, axes: Any = None) -> Pattern:
        pad = op.Pad(x, amounts, value, axes).when(lambda node: _all(node, 0))
        return op.any(pad, op.Tile(x, amounts).when(lambda node: _all(node, 1)))


def _all(node: Node, number: int) -> bool:
    amounts = static_integers(node.input(1))
    return amounts is not None and all(amount == number for amount in amounts)


class DropReduction(_Drop):
    """ReduceSum, -Mean, -Max, -Min and -Prod over dimensions of one element, which stay, or over none, are x."""

    def pattern(self, op: Patterns, x: Var, axes: Any = None) -> Pattern:
        return op("ReduceSum|ReduceMean|ReduceMax|ReduceMin|ReduceProd", x, axes).when(_reduces_nothing)


def _reduces_nothing(node: Node) -> bool:
    shape, axes = node.operand(0).shape, static_integers(node.input(1)) if node.input(1) is not None else []
    if shape is None or axes is None:
        return False
    if not axes and attribute(node, "noop_with_empty_axes"):
        return True
    reduced = axes or range(len(shape))
    return bool(attribute(node, "keepdims")) and all(shape[axis] == 1 for axis in reduced)


class DropPool(_Drop):
    """MaxPool and AveragePool with windows of one element, side by side and without pads, are x."""

    def pattern(self, op: Patterns, x: Var) -> Pattern:
        return op("MaxPool|AveragePool", x).when(_sees_one_element)


def _sees_one_element(node: Node) -> bool:
    windows = [*attribute(node, "kernel_shape"), *(node.attributes.get("strides") or ())]
    return all(n == 1 for n in windows) and not any(node.attributes.get("pads") or ()) and _keeps_shape(node)


RULES: tuple[type[Rule], ...] = (
    DropReshape, DropTranspose, DropSlice, DropPad, DropReduction, DropPool,
)  # fmt: skip
