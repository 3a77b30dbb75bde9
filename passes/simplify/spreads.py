"""Expand: what broadcasting does anyway.

Contract of every rule here: exact.
"""

from __future__ import annotations

from typing import Any

from graphopt.ir import Node, Value
from graphopt.ir import dims as D
from graphopt.ops import record_of
from graphopt.ops.builder import Builder
from graphopt.passes.simplify.conditions import same_shape
from graphopt.rewrite import Match, Pattern, Patterns, Result, Rule, Var

_BROADCASTING = "Add|Sub|Mul|Div|Pow|Max|Min|And|Or|Xor|Equal|Greater|GreaterOrEqual|Less|LessOrEqual|Where|Mod"


class ImplicitExpand(Rule):
    """An operator that broadcasts needs no Expand in front. Condition: the other operands have the whole shape."""

    def pattern(self, op: Patterns, *operands: Any) -> Pattern:
        return op(_BROADCASTING, *operands).when(lambda node: bool(_spare(node)))

    def rewrite(self, op: Builder, m: Match) -> Result:
        spare = _spare(m.root)
        inputs = [_source(value) if index in spare else value for index, value in enumerate(m.root.inputs)]
        made = op.like(m.root, *inputs)
        return made if same_shape(made, m.root.output) else m.fail("the result would have another shape")


def _source(value: Value | None) -> Value | None:
    node = None if value is None else value.producer
    if node is None or node.op != "Expand" or node.domain:
        return None
    return node.operand(0)


def _spare(node: Node) -> set[int]:
    """Positions of operands whose Expand adds nothing to what the others bring along."""
    spare: set[int] = set()
    for index in range(len(node.inputs)):
        if _source(node.inputs[index]) is not None and _covers(node, {*spare, index}):
            spare.add(index)
    return spare


def _covers(node: Node, without: set[int]) -> bool:
    """Whether the operands have every dimension of the result also when some are taken as before their Expand."""
    target = node.output.shape
    if target is None or record_of(node) is None:
        return False
    shapes = []
    for index, value in enumerate(node.inputs):
        source = _source(value) if index in without else value
        if source is None or source.shape is None:
            return False
        shapes.append(source.shape)
    return all(
        any(len(shape) >= place and D.same(shape[-place], extent) for shape in shapes)
        for place, extent in ((len(target) - i, extent) for i, extent in enumerate(target))
    )


class MergeExpands(Rule):
    """Expand of Expand is one Expand. Condition: the second one's target has the whole shape of the result."""

    def pattern(self, op: Patterns, x: Var, first: Var, second: Var) -> Pattern:
        return op.Expand(op.shared(op.Expand(x, first)), op.constant(second))

    def rewrite(self, op: Builder, m: Match) -> Result:
        shape = m.root.output.shape
        if shape is None or not all(isinstance(extent, int) for extent in shape):
            return m.fail("the shape is not known")
        return op.Expand(m["x"], [extent for extent in shape if isinstance(extent, int)])


RULES: tuple[type[Rule], ...] = (ImplicitExpand, MergeExpands)
