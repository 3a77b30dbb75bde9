"""ONNX Runtime's fused parts of transformers: activations with a bias, normalisations of sums, attention.

Contract of every rule here: exact. Operators of float32, for that is what their kernels take.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.ir import Node, Value
from graphopt.ir import dims as D
from graphopt.ops import attribute
from graphopt.ops.builder import Builder
from graphopt.ops.microsoft import DOMAIN
from graphopt.passes.fuse.attention import AttentionOfSoftmax, alike, scale_of
from graphopt.passes.fuse.numbers import scalar
from graphopt.passes.runtime.layers import is_float
from graphopt.passes.simplify.conditions import same_shape
from graphopt.passes.simplify.transposes import composed, permutation
from graphopt.rewrite import Match, Pattern, Patterns, Result, Rule, Var

_SPLIT, _SWAP = (0, 2, 1, 3), (0, 1, 3, 2)


class FusedBiasGelu(Rule):
    """Gelu(x + b) is BiasGelu(x, b), in its tanh form FastGelu(x, b); Gelu(x) in its tanh form is FastGelu(x).

    Condition: b is a vector along the last dimension.
    """

    def pattern(self, op: Patterns, x: Var, b: Var) -> Pattern:
        return op.Gelu(op.any(op.Add(x, op.constant(b)), x))

    def rewrite(self, op: Builder, m: Match) -> Result:
        x, b = m["x"], m.get("b")
        is_tanh = attribute(m.root, "approximate") == "tanh"
        if not is_float(x) or (b is None and not is_tanh):
            return m.fail("there is no bias, and no tanh form")
        if b is not None and (not x.shape or b.rank != 1 or not D.same((b.shape or (None,))[0], x.shape[-1])):
            return m.fail("the bias is no vector along the last dimension")
        return op("FastGelu" if is_tanh else "BiasGelu", x, b, domain=DOMAIN)


class FusedQuickGelu(Rule):
    """x * sigmoid(a * x), x * sigmoid(x), Swish(x) is QuickGelu(x, alpha=a). Condition: a is one number."""

    def pattern(self, op: Patterns, x: Var, a: Var) -> Pattern:
        inner = op.any(op.Mul(x, op.constant(a)), x)
        return op.any(op.Swish(x).named("swish"), op.Mul(x, op.Sigmoid(inner)))

    def rewrite(self, op: Builder, m: Match) -> Result:
        x = m["x"]
        alpha = float(attribute(m.root, "alpha")) if m.has("swish") else 1.0 if m.get("a") is None else scalar(m["a"])
        if alpha is None or not is_float(x) or not same_shape(x, m.root.output):
            return m.fail("the slope is no number, or it is not computed on float32")
        return op("QuickGelu", x, domain=DOMAIN, alpha=alpha)


class _SkipNorm(Rule):
    """What both rules about normalised sums share."""

    def make(self, op: Builder, m: Match, outputs: int) -> list[Value] | str:
        """The fused operator with 1 or 4 outputs, or why there is none."""
        a, b, norm, total = m["x"], m["y"], m.node("norm"), m.node("sum").output
        if not is_float(total) or not same_shape(a, total) or not same_shape(b, total) or total.rank not in (2, 3):
            return "what is added has another shape, or another type than float32"
        if attribute(norm, "axis") % (total.rank or 1) != (total.rank or 1) - 1 or (m["s"].rank or 0) != 1:
            return "it does not run over the last dimension"
        name = "SkipLayerNormalization" if norm.op == "LayerNormalization" else "SkipSimplifiedLayerNormalization"
        vectors = [m["s"], m.get("t")]
        return op(name, a, b, *vectors, outputs=outputs, domain=DOMAIN, epsilon=float(attribute(norm, "epsilon")))


def _norm_of(op: Patterns, total: Pattern, s: Var, t: Any) -> Pattern:
    norm = op("LayerNormalization|RMSNormalization", total, op.constant(s), op.optional(op.constant(t)))
    return norm.when(lambda node: len(node.outputs) == 1).named("norm")


class FusedSkipNorm(_SkipNorm):
    """LayerNormalization(x + y), RMSNormalization(x + y), over the last dimension, are one operator.

    Conditions: x and y have the same shape, of two or three dimensions; nothing else reads the sum.
    """

    def pattern(self, op: Patterns, x: Var, y: Var, s: Var, t: Any = None) -> Pattern:
        return _norm_of(op, op.Add(x, y).named("sum"), s, t)

    def rewrite(self, op: Builder, m: Match) -> Result:
        made = self.make(op, m, 1)
        return m.fail(made) if isinstance(made, str) else made[0]


class FusedSkipNormAndSum(_SkipNorm):
    """As ``fused-skip-norm``, where others read the sum, too: it is the fourth output.

    As in the residual stream of a transformer. Condition: also, that the sum comes right before the normalisation.
    """

    def pattern(self, op: Patterns, x: Var, y: Var, s: Var, t: Any = None) -> Sequence[Pattern]:
        total = op.Add(x, y).named("sum")
        return [_norm_of(op, op.shared(total), s, t), total]

    def rewrite(self, op: Builder, m: Match) -> Result:
        made = self.make(op, m, 4)
        return m.fail(made) if isinstance(made, str) else [made[0], made[3]]


class FusedAttention(Rule):
    """Attention of heads that are split off and merged again is MultiHeadAttention.

    Of an Attention operator, or of primitives. Conditions: as for ``attention-of-softmax``; queries, keys and values
    come out of a Transpose of [B, S, heads, D], and the result is put back as [B, S, heads * D].
    """

    def pattern(self, op: Patterns, q: Var, k: Var, v: Var, c: Var, mask: Var, shape: Var) -> Pattern:
        core = op.any(
            op.Attention(q, k, v, op.optional(mask)).when(_is_plain).named("attention"),
            AttentionOfSoftmax().pattern(op, q, k, v, c, mask),
        )
        return op.Reshape(op.Transpose(core, perm=_SPLIT), shape)

    def rewrite(self, op: Builder, m: Match) -> Result:
        q, k, v, mask = m["q"], m["k"], m["v"], m.get("mask")
        order, keys = list(range(4)), k
        if m.has("attention"):
            scale = attribute(m.node("attention"), "scale")
        else:
            scale, keys = scale_of(m), m.node("keys").output
            if scale is None or keys.rank != 4:
                return m.fail("the scale is no positive number, or there are no four dimensions")
            order = composed(permutation(m.node("keys")) or (), _SWAP)
        if not is_float(q) or not alike(q, keys, v):
            return m.fail("batch or heads are broadcast, or it is not computed on float32")
        if mask is not None and not _fits(mask, q, v):
            return m.fail("the mask is not made of floats, or does not have all queries and keys")
        heads = (q.shape or (None, None))[1]
        parts = [_merged(op, q, list(range(4))), _merged(op, k, order), _merged(op, v, list(range(4)))]
        if not isinstance(heads, int) or any(part is None for part in parts):
            return m.fail("the heads are not split off by a Transpose")
        if mask is not None and (mask.rank or 0) < 4:
            mask = op.Unsqueeze(mask, list(range(4 - (mask.rank or 0))))
        number = None if scale is None else float(scale)
        made: Value = op("MultiHeadAttention", *parts, None, None, mask, domain=DOMAIN, num_heads=heads, scale=number)
        return made if same_shape(made, m.root.output) else m.fail("the heads are put back in another way")


def _fits(mask: Value, q: Value, v: Value) -> bool:
    """Whether a mask has all queries and keys, and is broadcast over samples and heads at most."""
    if not is_float(mask) or not q.shape or not v.shape or not 2 <= (mask.rank or 0) <= 4 or mask.shape is None:
        return False
    whole = (q.shape[0], q.shape[1], q.shape[2], v.shape[2])
    pairs = list(zip(reversed(mask.shape), reversed(whole), strict=False))
    return all(D.same(*pair) for pair in pairs[:2]) and all(a == 1 or D.same(a, b) for a, b in pairs[2:])


def _is_plain(node: Node) -> bool:
    """An Attention of four dimensions that does nothing but attend."""
    odd = ("is_causal", "softcap", "qk_matmul_output_mode", "softmax_precision", "q_num_heads", "kv_num_heads")
    return len(node.outputs) == 1 and node.output.rank == 4 and not any(node.attributes.get(name) for name in odd)


def _merged(op: Builder, value: Value, order: list[int]) -> Value | None:
    """`value`, which `order` turns to [B, heads, S, D], as [B, S, heads * D]; ``None`` when that takes a Transpose."""
    node = value.producer
    split: Value | None
    if order == list(_SPLIT):
        split = value
    elif order == [0, 1, 2, 3] and node is not None and node.op == "Transpose" and permutation(node) == _SPLIT:
        split = node.operand(0)
    else:
        split = _picked(op, node) if order == [0, 1, 2, 3] else None
    if split is None:
        return None
    view = split.producer
    if view is not None and view.op == "Reshape" and view.operand(0).rank == 3 and split.shape is not None:
        source = view.operand(0)
        merged = D.mul(split.shape[2], split.shape[3])
        wanted = (split.shape[0], split.shape[1], merged)
        if source.shape is not None and all(map(D.same, source.shape, wanted)):
            return source
    return op.Reshape(split, [0, 0, -1])


def _picked(op: Builder, node: Node | None) -> Value | None:
    """One of several [B, S, heads, D] out of a Transpose of all, where `node` picks it as [B, heads, S, D]."""
    if node is None or node.op != "Gather" or node.domain or node.operand(1).rank != 0:
        return None
    turned = node.operand(0).producer
    perm = permutation(turned) if turned is not None and turned.op == "Transpose" and not turned.domain else None
    if turned is None or perm is None:
        return None
    axis = attribute(node, "axis") % len(perm)
    left = [place - (place > perm[axis]) for place in (*perm[:axis], *perm[axis + 1 :])]
    return op.Gather(turned.operand(0), node.operand(1), axis=perm[axis]) if left == list(_SPLIT) else None


RULES: tuple[type[Rule], ...] = (FusedAttention, FusedBiasGelu, FusedQuickGelu, FusedSkipNorm, FusedSkipNormAndSum)
