"""Scaled dot-product attention, written out in primitives."""

from __future__ import annotations

from graphopt.ir import Node, Value
from graphopt.ir import dims as D
from graphopt.ops import attribute
from graphopt.ops.builder import Builder
from graphopt.passes.fuse.numbers import scalar
from graphopt.passes.fuse.recognition import Recognition
from graphopt.passes.simplify.transposes import composed, permutation
from graphopt.rewrite import Match, Pattern, Patterns, Result, Var

_SWAP = (0, 1, 3, 2)


class AttentionOfSoftmax(Recognition):
    """softmax(q @ k.T * scale + mask) @ v is Attention(q, k, v, mask).

    Contract: exact; rows that the mask hides altogether become zeros instead of NaN. Conditions: four dimensions, of
    which batch and heads are the same in q, k and v; the scale is one positive number, applied to the scores, to q, or
    to nothing; the mask is made of floats, with all queries and keys in it; k is transposed.
    """

    def pattern(self, op: Patterns, q: Var, k: Var, v: Var, c: Var, mask: Var) -> Pattern:
        keys = op.Transpose(k).named("keys")
        scaled = op.any(op.Mul(q, op.constant(c)).named("scale"), op.Div(q, op.constant(c)).named("scale"))
        product = op.MatMul(op.any(scaled, q), keys)
        plain = op.MatMul(q, keys)
        scores = op.any(
            op.Mul(plain, op.constant(c)).named("scale"), op.Div(plain, op.constant(c)).named("scale"), product
        )
        weights = op.Softmax(op.any(op.Add(scores, mask), scores)).when(_over_last)
        return op.MatMul(weights, v)

    def recognise(self, op: Builder, m: Match) -> Result:
        q, v, keys, mask = m["q"], m["v"], m.node("keys"), m.get("mask")
        scale = scale_of(m)
        if scale is None:
            return m.fail("the scale is no positive number")
        perm = permutation(keys)
        if perm is None or len(perm) != 4 or not q.dtype.is_float:
            return m.fail("it does not have four dimensions of floats")
        if not alike(q, keys.output, v):
            return m.fail("batch or heads are broadcast")
        if mask is not None and not _fits(mask, q, keys.output):
            return m.fail("the mask is not made of floats, or does not have all queries and keys")
        order = composed(perm, _SWAP)
        k = m["k"] if order == [0, 1, 2, 3] else op.Transpose(m["k"], perm=order)
        return op.Attention(q, k, v, mask, scale=scale)


def _over_last(node: Node) -> bool:
    return bool(attribute(node, "axis") in (-1, 3)) and node.output.rank == 4


def scale_of(m: Match) -> float | None:
    """The positive number that the scores of a match are multiplied with; ``None`` when it is something else."""
    if not m.has("scale"):
        return 1.0
    number = scalar(m["c"])
    if number is None or number <= 0 or (m["c"].rank or 0) > 4:
        return None
    return 1 / number if m.node("scale").op == "Div" else number


def alike(*values: Value) -> bool:
    """True for values [B, heads, ...] of four dimensions with the same samples and heads."""
    first = values[0].shape
    return first is not None and len(first) == 4 and all(
        v.shape is not None and len(v.shape) == 4 and D.same(v.shape[0], first[0]) and D.same(v.shape[1], first[1])
        for v in values
    )  # fmt: skip


def _fits(mask: Value, q: Value, keys: Value) -> bool:
    if (
        mask.dtype is not q.dtype
        or mask.shape is None
        or not 2 <= len(mask.shape) <= 4
        or not q.shape
        or not keys.shape
    ):
        return False
    whole = (q.shape[0], q.shape[1], q.shape[2], keys.shape[3])
    aligned = whole[4 - len(mask.shape) :]
    # The standard lets a mask of one row broadcast; ONNX Runtime does not.
    return all(D.same(mask.shape[-back], whole[-back]) for back in (1, 2)) and all(
        extent == 1 or D.same(extent, dim) for extent, dim in zip(mask.shape, aligned, strict=True)
    )


RULES = (AttentionOfSoftmax,)
