"""FlexAttention: attention whose scores and probabilities bodies modify."""

from __future__ import annotations

from collections.abc import Callable

import torch

from graphopt.errors import ShapeError
from graphopt.ir import Dim, DType, Node, TensorType, ValueType
from graphopt.ir import dims as D
from graphopt.ops.control import Settled, assume, body_of, infer_body
from graphopt.ops.record import Operator, register

#: Computes a body on one tensor.
Modifier = Callable[[torch.Tensor], torch.Tensor]

DOMAIN = "ai.onnx.preview"


def _precision(stated: int | None, dtype: DType) -> DType:
    """The element type of scores and probabilities."""
    if stated:
        return DType(stated)
    return DType.FLOAT64 if dtype is DType.FLOAT64 else DType.FLOAT32


def flex_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    prob_mod: Modifier | None = None,
    scale: float | None = None,
    score_mod: Modifier | None = None,
    softmax_precision: int | None = None,
) -> torch.Tensor:
    """ONNX FlexAttention: q [B, Hq, L, E], k [B, Hkv, S, E], v [B, Hkv, S, Ev] to [B, Hq, L, Ev]; see the type rule."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    # The factor is put on both sides, so that products of half precision stay in range.
    root = (q.shape[-1] ** -0.5 if scale is None else scale) ** 0.5
    scores = (q * root) @ (k * root).transpose(-1, -2)
    scores = scores.to(_precision(softmax_precision, DType.of(q.dtype)).torch)
    if score_mod is not None:
        scores = score_mod(scores)
    probabilities = scores.softmax(-1)
    if prob_mod is not None:
        probabilities = prob_mod(probabilities)
    result: torch.Tensor = probabilities.to(v.dtype) @ v
    return result


def infer_flex_attention(node: Node) -> list[ValueType]:
    """Type rule of FlexAttention: q [B, Hq, L, E], k [B, Hkv, S, E], v [B, Hkv, S, Ev] to [B, Hq, L, Ev].

    Raises:
        ShapeError: an operand is not of rank 4.
    """
    q, k, v = (node.operand(index).tensor_type for index in range(3))
    for name, kind in zip("QKV", (q, k, v), strict=True):
        if kind.shape is not None and len(kind.shape) != 4:
            raise ShapeError(f"{name} has rank {len(kind.shape)}, expected 4", where=node.describe())
    queries, keys, values = (kind.shape or (None,) * 4 for kind in (q, k, v))
    scores = TensorType(_precision(node.attributes.get("softmax_precision"), q.dtype), (*queries[:3], keys[2]))
    with Settled(node):
        for name in ("score_mod", "prob_mod"):
            if name in node.attributes:
                body = body_of(node, name)
                assume(body, [scores], node)
                infer_body(body)
    return [TensorType(q.dtype, (*queries[:3], values[3]))]


def flex_macs(node: Node) -> Dim:
    """Multiply-accumulates of the two products."""
    q, k, v = (node.operand(index).shape for index in range(3))
    if q is None or k is None or v is None:
        return None
    return D.mul(D.product((*q[:3], k[2])), D.add(q[3], v[3]))


register(Operator("FlexAttention", infer_flex_attention, flex_attention, macs=flex_macs, domain=DOMAIN))

__all__ = ["flex_attention"]
