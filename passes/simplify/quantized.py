"""Quantizers: those that undo one another, and those that operators in between need not wait for.

Contract of every rule here: exact.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from graphopt.ir import DType, Node, Value
from graphopt.ops import attribute
from graphopt.ops.builder import Builder
from graphopt.ops.quant import integer_range
from graphopt.passes.simplify.conditions import stand_in
from graphopt.passes.simplify.transposes import permutation
from graphopt.rewrite import Match, Pattern, Patterns, Result, Rule, Var

# What moves elements, or picks some of them.
_MOVING = frozenset({
    "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather", "Expand", "Tile", "DepthToSpace",
    "SpaceToDepth", "Concat", "MaxPool",
})  # fmt: skip
# Rounding twice, in multiplication and division, must stay below half a step.
_MANTISSA = {DType.FLOAT32: 24, DType.FLOAT16: 11, DType.BFLOAT16: 8, DType.FLOAT64: 53}
_LONGEST = 16


def _numbers(value: Value | None) -> torch.Tensor | None:
    return None if value is None or not value.is_constant or value.data is None or value.data.is_meta else value.data


def _equal(a: Value | None, b: Value | None) -> bool:
    x, y = _numbers(a), _numbers(b)
    if x is None or y is None or a is None or b is None or a.dtype is not b.dtype:
        return False
    return a is b or (x.shape == y.shape and bool((x == y).all()))


def are_alike(a: Node, b: Node) -> bool:
    """Whether two quantizers have the same constant scale and zero point, along the same dimension."""
    plain = a.operand(1).rank == 0 or math.prod(d for d in a.operand(1).shape or (0,) if isinstance(d, int)) == 1
    if not _equal(a.operand(1), b.operand(1)) or (a.input(2) is None) is not (b.input(2) is None):
        return False
    if a.input(2) is not None and not _equal(a.input(2), b.input(2)):
        return False
    if not plain and (attribute(a, "axis"), a.operand(0).rank) != (attribute(b, "axis"), b.operand(0).rank):
        return False
    return bool(attribute(a, "block_size") == attribute(b, "block_size"))


def comes_back(quantize: Node, dequantize: Node) -> bool:
    """Whether quantizing what was dequantized gives the very same integers: both alike, and rounding is fine enough."""
    scale, kind = _numbers(dequantize.operand(1)), dequantize.operand(0).dtype
    if scale is None or kind is not quantize.output.dtype or not kind.is_integer or not are_alike(quantize, dequantize):
        return False
    floats = dequantize.output.dtype
    if quantize.operand(1).dtype is not floats or _MANTISSA.get(floats, 0) < kind.bits + 3 or _is_special(quantize):
        return False
    sizes = scale.double().abs()
    limits = torch.finfo(floats.torch)
    return bool(((sizes > limits.tiny) & (sizes * 2.0 ** (kind.bits + 1) < limits.max)).all())


def _is_special(quantize: Node) -> bool:
    return bool(attribute(quantize, "precision"))


class DropRequantize(Rule):
    """Quantizing what has just been dequantized, with the same scale and zero point, gives the integers back.

    Conditions: scale and zero point are constants, and the floats in between are fine enough to tell the integers
    apart.
    """

    def pattern(self, op: Patterns, q: Var, *rest: Any) -> Pattern:
        inner = op.shared(op.DequantizeLinear(q, op.anything(), op.anything()).named("dequantize"))
        return op.QuantizeLinear(inner, op.anything(), op.anything())

    def rewrite(self, op: Builder, m: Match) -> Result:
        if not comes_back(m.root, m.node("dequantize")):
            return m.fail("scale or zero point differ, or the floats in between are too coarse")
        return stand_in(m, m["q"])


class MoveIntegers(Rule):
    """What moves elements between a DequantizeLinear and a QuantizeLinear of the same scale moves integers instead.

    Reshape, Transpose, Slice, Concat and their like, and MaxPool. Conditions: one positive scale for the whole tensor,
    the same on both sides; nothing else reads the floats in between. A module captured from torch is left, since its
    quantizers may be trained.
    """

    recursive = True

    def __init__(self, captured: bool = False) -> None:
        self.captured = captured

    def pattern(self, op: Patterns, *inputs: Any) -> Pattern:
        return op("|".join(sorted(_MOVING)), *inputs).when(_moves_dequantized)

    def rewrite(self, op: Builder, m: Match) -> Result:
        if m.graph.root.signature is not None and not self.captured:
            return m.fail("the module may be trained; captured=true allows it")
        sources = _dequantizers(m.root)
        first, following = sources[0], _requantizer(m.root)
        if following is None:
            return m.fail("what follows is not quantized")
        if not all(comes_back(following, each) and _has_one_scale(each) for each in sources):
            return m.fail("the scales on both sides differ")
        inputs = list(m.root.inputs)
        inputs[: len(sources)] = [each.operand(0) for each in sources]
        moved = op.like(m.root, *inputs)
        return op.like(first, moved, *first.inputs[1:])


def _dequantizers(node: Node) -> list[Node]:
    """The DequantizeLinears that a node's data come from; none when some come from elsewhere or are read elsewhere."""
    values = list(node.inputs) if node.op == "Concat" else node.inputs[:1]
    found = []
    for value in values:
        producer = None if value is None else value.producer
        if producer is None or producer.op != "DequantizeLinear" or producer.domain or producer.graph is not node.graph:
            return []
        if len(producer.output.uses) != 1:
            return []
        found.append(producer)
    return found


def _moves_dequantized(node: Node) -> bool:
    if node.op == "MaxPool" and (len(node.outputs) != 1 or node.operand(0).dtype.bits > 32):
        return False
    return bool(_dequantizers(node)) and _requantizer(node) is not None


def _requantizer(node: Node) -> Node | None:
    """The QuantizeLinear that all that moves on from a node ends in."""
    for _ in range(_LONGEST):
        users = node.output.users
        if len(node.output.uses) != 1 or len(users) != 1 or users[0].graph is not node.graph or users[0].domain:
            return None
        node = users[0]
        if node.op == "QuantizeLinear":
            return node
        if node.op not in _MOVING or (node.op == "MaxPool" and len(node.outputs) != 1):
            return None
    return None


def _has_one_scale(node: Node) -> bool:
    scale = _numbers(node.operand(1))
    return scale is not None and scale.numel() == 1 and bool(scale > 0) and node.operand(0).dtype.bits == 8


class DropLimits(Rule):
    """Relu or Clip in front of a QuantizeLinear that saturates there anyway is nothing.

    Conditions: constant, positive scales and zero points, such that no integer stands for a number beyond the limits.
    """

    def pattern(self, op: Patterns, x: Var, s: Var, z: Var, low: Any = None, high: Any = None) -> Pattern:
        limits = op("Relu|Clip", x, op.optional(op.constant(low)), op.optional(op.constant(high))).named("limits")
        return op.QuantizeLinear(limits, op.constant(s), op.constant(z))

    def rewrite(self, op: Builder, m: Match) -> Result:
        scale, kind = m.data("s").double(), m.root.output.dtype
        if not kind.is_integer or bool((scale <= 0).any()) or _is_special(m.root):
            return m.fail("it does not saturate")
        zero = m.data("z").double()
        ends = [(end - zero) * scale for end in integer_range(kind)]
        low, high = (_bound(m, name) for name in ("low", "high"))
        if m.node("limits").op == "Relu":
            low, high = 0.0, math.inf
        if low is None or high is None:
            return m.fail("the limits are not numbers")
        if low > high or bool((ends[0] < low).any()) or bool((ends[1] > high).any()):
            return m.fail("the integers reach beyond the limits")
        return op.like(m.root, m["x"], m["s"], m["z"])


def _bound(m: Match, name: str) -> float | None:
    value = m.get(name)
    if value is None:
        return -math.inf if name == "low" else math.inf
    data = _numbers(value)
    return float(data) if data is not None and data.numel() == 1 and not bool(data.isnan()) else None


class DequantizedTranspose(Rule):
    """A Transpose of a dequantized weight is the dequantized transposed weight.

    Conditions: the integers are a constant, no parameter of a module, that nothing else reads; no blocks.
    """

    def pattern(self, op: Patterns, q: Var, s: Var, z: Any = None) -> Pattern:
        weight = op.DequantizeLinear(op.constant(q), op.constant(s), op.optional(op.constant(z)))
        return op.Transpose(weight.named("dequantize"))

    def rewrite(self, op: Builder, m: Match) -> Result:
        node, perm, q = m.node("dequantize"), permutation(m.root), m["q"]
        data = _numbers(q)
        if perm is None or data is None or q.parameter is not None or len(q.uses) != 1:
            return m.fail("the integers are a parameter, or used elsewhere")
        if attribute(node, "block_size"):
            return m.fail("it is quantized in blocks")
        made = op.constant(data.permute(perm).contiguous(), name=q.name, dtype=q.dtype)
        axis: int | None = node.attributes.get("axis")
        if (m["s"].rank or 0) > 0 and len(perm) > 1:
            axis = perm.index(attribute(node, "axis") % len(perm))
        return op.like(node, made, m["s"], m.get("z"), axis=axis)


RULES: tuple[type[Rule], ...] = (DropRequantize, MoveIntegers, DropLimits, DequantizedTranspose)
