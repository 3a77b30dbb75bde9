"""Views moved to where they vanish.

Contract of every rule here: exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.ir import Dim, Node, Value
from graphopt.ir import dims as D
from graphopt.ops import attribute, record_of
from graphopt.ops.builder import Builder
from graphopt.passes.simplify.conditions import same_shape
from graphopt.rewrite import Match, Pattern, Patterns, Result, Rule, Var

_VIEWS = "Reshape|Flatten|Squeeze|Unsqueeze"


class SoftmaxBetweenViews(Rule):
    """Softmax, LogSoftmax or Hardmax of a view of x, viewed as x was, is that of x.

    Softmax before opset 13 made a matrix of x by itself; a loader writes that out while the rank of x is unknown.
    Conditions: it runs over the last dimension, which the first view keeps; the second one undoes the first.
    """

    def pattern(self, op: Patterns, x: Var, *rest: Any) -> Pattern:
        # The operands besides x are read off the nodes: views have a variable number of them.
        view = op.shared(op(_VIEWS, x, *rest))
        return op(_VIEWS, op("Softmax|LogSoftmax|Hardmax", view).named("softmax"), op.anything(), op.anything())

    def rewrite(self, op: Builder, m: Match) -> Result:
        x, node = m["x"], m.node("softmax")
        seen = node.operand(0).shape
        if not same_shape(x, m.root.output):
            return m.fail("the second view does not undo the first")
        if not seen or not x.shape or attribute(node, "axis") % len(seen) != len(seen) - 1:
            return m.fail("it does not run over the last dimension")
        if not D.same(x.shape[-1], seen[-1]):
            return m.fail("the view changes the last dimension")
        return op.like(node, x, axis=-1)


class ReshapedConstant(Rule):
    """A Reshape of what numbers make of a constant, element by element, is what they make of the reshaped constant.

    A Conv that was quantized dynamically rounds and reshapes its bias like that on every run. Conditions: all but the
    constant are scalars; it is no parameter; nothing else reads it or what is made of it; the shape is known.
    """

    def pattern(self, op: Patterns, x: Var) -> Pattern:
        return op.Reshape(op.where(x, _is_elementwise), op.anything())

    def rewrite(self, op: Builder, m: Match) -> Result:
        shape = m.root.output.shape
        if shape is None or not D.is_static(shape):
            return m.fail("the shape is not known")
        made = _reshaped(op, m["x"], shape)
        return m.fail("it is not made of one constant and of scalars, for itself alone") if made is None else made


def _is_elementwise(value: Value) -> bool:
    node = value.producer
    record = None if node is None or node.domain else record_of(node)
    return record is not None and record.elementwise and node is not None and len(node.outputs) == 1


def _reshaped(op: Builder, value: Value, shape: Sequence[Dim]) -> Value | None:
    """`value` computed in another shape, up to the constant that it is made of; ``None`` when there is none."""
    if len(value.uses) != 1 or value.parameter is not None or value.is_output:
        return None
    if value.is_constant and value.data is not None:
        return op.constant(value.data.reshape([int(str(dim)) for dim in shape]), name=value.name, dtype=value.dtype)
    node = value.producer
    if node is None or node.graph is not op.graph or not _is_elementwise(value):
        return None
    carried = _carried(node)
    made = None if carried is None else _reshaped(op, carried, shape)
    return None if made is None else op.like(node, *(made if each is carried else each for each in node.inputs))


def _carried(node: Node) -> Value | None:
    """The one operand of an elementwise operator that has elements, all others being scalars."""
    wide = [value for value in node.inputs if value is not None and value.shape != ()]
    return wide[0] if len(wide) == 1 and same_shape(wide[0], node.output) else None


RULES: tuple[type[Rule], ...] = (SoftmaxBetweenViews, ReshapedConstant)
