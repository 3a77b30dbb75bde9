"""Transposes: pushed through what does not mind them, when that makes two of them cancel.

Contract of every rule here: exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.ir import Dim, Node, Shape, Value
from graphopt.ir import dims as D
from graphopt.ops import attribute, record_of
from graphopt.ops.builder import Builder
from graphopt.ops.infer import static_integers
from graphopt.passes.simplify.conditions import same_shape
from graphopt.rewrite import Match, Pattern, Patterns, Result, Rule, Var

_AXIS = frozenset({"Softmax", "LogSoftmax", "Hardmax"})
_REDUCTIONS = "|".join(
    f"Reduce{kind}" for kind in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp")
)


def permutation(node: Node) -> tuple[int, ...] | None:
    """The permutation of a Transpose, or ``None`` while the rank is unknown."""
    rank = node.operand(0).rank
    perm = attribute(node, "perm")
    return tuple(perm) if perm else None if rank is None else tuple(reversed(range(rank)))


def composed(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """The permutation of a Transpose by `first` and then one by `second`."""
    return [first[axis] for axis in second]


def _passes_through(node: Node) -> bool:
    """True for operators with one tensor operand that treat all dimensions alike, or name one of them."""
    if node.domain or len(node.outputs) != 1:
        return False
    if node.op in _AXIS:
        return True
    record = record_of(node)
    if record is None or not record.elementwise:
        return False
    rank = node.output.rank
    return rank is not None and node.operand(0).rank == rank and all(
        value is None or value.shape == () or (value.is_constant and value.data is not None and value.data.numel() == 1
                                               and (value.rank or 0) <= rank)
        for value in node.inputs[1:]
    )  # fmt: skip


class TransposeSandwich(Rule):
    """Transpose(f(Transpose(x))) is f(Transpose(x)), or f(x), for f that treats every element, or one axis, by itself.

    Conditions: f reads one tensor, apart from constants of one element; nothing else reads what is in between.
    """

    def pattern(self, op: Patterns, middle: Var) -> Pattern:
        return op.Transpose(op.where(middle, _is_sandwiched))

    def rewrite(self, op: Builder, m: Match) -> Result:
        middle = m["middle"].producer
        first = None if middle is None else middle.operand(0).producer
        if middle is None or first is None:
            return m.fail("there is no transpose in front")
        before, after = permutation(first), permutation(m.root)
        if before is None or after is None:
            return m.fail("the rank is not known")
        perm = composed(before, after)
        x: Value = first.operand(0)
        if perm != list(range(len(perm))):
            x = op.Transpose(x, perm=perm)
        if middle.op not in _AXIS:
            return op.like(middle, x, *middle.inputs[1:])
        return op.like(middle, x, axis=after.index(attribute(middle, "axis") % len(after)))


def _is_sandwiched(value: Value) -> bool:
    node = value.producer
    if node is None or len(value.uses) != 1 or not _passes_through(node) or not node.inputs:
        return False
    first = node.operand(0).producer
    return (
        first is not None and first.op == "Transpose" and not first.domain and first.graph is node.graph
        and len(first.output.uses) == 1
    )  # fmt: skip


class TransposedOperands(Rule):
    """f(Transpose(a), Transpose(b)), both alike, is Transpose(f(a, b)) for elementwise f."""

    def pattern(self, op: Patterns, a: Var, b: Var) -> Pattern:
        return op(
            "Add|Sub|Mul|Div|Max|Min|Pow|And|Or|Xor", op.Transpose(a).named("left"), op.Transpose(b).named("right")
        )

    def rewrite(self, op: Builder, m: Match) -> Result:
        left, right = permutation(m.node("left")), permutation(m.node("right"))
        if left is None or left != right:
            return m.fail("they are transposed in different ways")
        # The matcher may have exchanged the operands of a commutative operator.
        a, b = (m["a"], m["b"]) if m.root.operand(0).producer is m.node("left") else (m["b"], m["a"])
        return op.Transpose(op.like(m.root, a, b), perm=left)


class TransposedReduction(Rule):
    """A reduction of a Transpose reduces x along other axes.

    Conditions: constant axes; what is left keeps its order, so that no Transpose is needed afterwards.
    """

    def pattern(self, op: Patterns, x: Var, axes: Var) -> Pattern:
        return op(_REDUCTIONS, op.shared(op.Transpose(x).named("transpose")), op.constant(axes))

    def rewrite(self, op: Builder, m: Match) -> Result:
        perm, axes = permutation(m.node("transpose")), static_integers(m["axes"])
        if perm is None or not axes:
            return m.fail("the rank or the axes are not known")
        reduced = [perm[axis] for axis in axes]
        gone = set(reduced)
        left = [axis for axis in perm if axis not in gone]
        in_place = all(perm[place] == place for place in range(len(perm)) if place not in {a % len(perm) for a in axes})
        if bool(attribute(m.root, "keepdims")) and not (in_place and gone == {a % len(perm) for a in axes}):
            return m.fail("the dimensions that are left would have to be transposed")
        if left != sorted(left):
            return m.fail("the dimensions that are left would have to be transposed")
        return op.like(m.root, m["x"], sorted(reduced))


class TransposedFactor(Rule):
    """Gemm of a transposed matrix is a Gemm that transposes it by itself. Condition: it is not a constant."""

    def pattern(self, op: Patterns, a: Var, b: Var, c: Any = None) -> Pattern:
        left = op.Gemm(op.shared(op.Transpose(a, perm=(1, 0)).when(_computed)).named("left"), b, c)
        return op.any(left, op.Gemm(a, op.shared(op.Transpose(b, perm=(1, 0)).when(_computed)).named("right"), c))

    def rewrite(self, op: Builder, m: Match) -> Result:
        name = "transA" if m.has("left") else "transB"
        return op.like(m.root, m["a"], m["b"], m.get("c"), **{name: 1 - attribute(m.root, name)})


def _computed(node: Node) -> bool:
    return not node.operand(0).is_constant


class TransposedConcat(Rule):
    """Concat of Transposes that are all alike is the Transpose of one Concat. Condition: nothing else reads them."""

    def pattern(self, op: Patterns, *parts: Any) -> Pattern:
        return op.Concat(*parts).when(_all_transposed)

    def rewrite(self, op: Builder, m: Match) -> Result:
        transposes = [value.producer for value in m.root.inputs if value is not None and value.producer is not None]
        perm = permutation(transposes[0])
        if perm is None:
            return m.fail("the rank is not known")
        axis = perm[attribute(m.root, "axis") % len(perm)]
        return op.Transpose(op.Concat(*(node.operand(0) for node in transposes), axis=axis), perm=perm)


def _all_transposed(node: Node) -> bool:
    producers = [None if value is None else value.producer for value in node.inputs]
    perms = set()
    for producer in producers:
        if producer is None or producer.op != "Transpose" or producer.domain or producer.graph is not node.graph:
            return False
        if len(producer.output.uses) != 1:
            return False
        perms.add(permutation(producer))
    return len(producers) > 1 and len(perms) == 1


class TransposeOfOnes(Rule):
    """A Transpose that moves dimensions of one element only, beside a Reshape, is part of it.

    Conditions: the other dimensions keep their order; the Reshape's target is a constant that holds no zeros.
    """

    def pattern(self, op: Patterns, x: Var, shape: Var) -> Pattern:
        return op.Reshape(op.Transpose(x).when(_moves_ones), op.where(shape, _is_free_of_zeros))

    def rewrite(self, op: Builder, m: Match) -> Result:
        return op.Reshape(m["x"], m["shape"], allowzero=m.root.attributes.get("allowzero"))


def _moves_ones(node: Node) -> bool:
    shape, perm = node.operand(0).shape, permutation(node)
    if shape is None or perm is None:
        return False
    moved = [axis for axis in perm if shape[axis] != 1]
    return moved == sorted(moved)


def _is_free_of_zeros(value: Value) -> bool:
    numbers = static_integers(value)
    return numbers is not None and 0 not in numbers


class ReshapedTranspose(Rule):
    """Reshape, Transpose, Reshape is a Transpose, and a Reshape only where one is left to do.

    Conditions: the first Reshape merges neighbouring dimensions and splits none, so that the Transpose can move these
    themselves; all extents are known, if only as expressions. Where a Reshape is left, its target is a constant without
    zeros.
    """

    def pattern(self, op: Patterns, x: Var, s: Var, t: Var) -> Pattern:
        return op.Reshape(op.Transpose(op.Reshape(x, s).named("merge")).named("transpose"), t)

    def rewrite(self, op: Builder, m: Match) -> Result:
        x, perm = m["x"], permutation(m.node("transpose"))
        groups = _merged(x.shape, m.node("merge").output.shape)
        if perm is None or groups is None:
            return m.fail("the first reshape splits a dimension, or the shapes are not known")
        y = op.Transpose(x, perm=[axis for group in perm for axis in groups[group]])
        if same_shape(y, m.root.output):
            return y
        if not _is_free_of_zeros(m["t"]):
            return m.fail("it is reshaped to what is not known beforehand")
        return op.Reshape(y, m["t"], allowzero=m.root.attributes.get("allowzero"))


def _merged(source: Shape | None, target: Shape | None) -> list[list[int]] | None:
    """For every dimension of `target`, the consecutive dimensions of `source` that it consists of."""
    if source is None or not target:
        return None
    groups: list[list[int]] = []
    axis = 0
    for extent in target:
        group: list[int] = []
        size: Dim = 1
        while axis < len(source) and not (group and D.same(size, extent)):
            size = D.product([size, source[axis]])
            group.append(axis)
            axis += 1
        if not group or not D.same(size, extent):
            return None
        groups.append(group)
    if any(source[left] != 1 for left in range(axis, len(source))):
        return None
    groups[-1].extend(range(axis, len(source)))
    return groups


RULES: tuple[type[Rule], ...] = (
    TransposeSandwich, TransposedOperands, TransposedReduction, TransposedFactor, TransposedConcat, TransposeOfOnes,
    ReshapedTranspose,
)  # fmt: skip
