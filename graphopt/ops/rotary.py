"""Rotary position embedding."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphopt.errors import ShapeError
from graphopt.ir import Node, ValueType
from graphopt.ir import dims as D
from graphopt.ops.infer import input_type
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.relation import Relation, labels


def infer_rotary(node: Node) -> Sequence[ValueType]:
    """Type rule of RotaryEmbedding: as the input."""
    x = input_type(node, 0)
    if x.shape is not None and len(x.shape) not in (3, 4):
        raise ShapeError(f"input has rank {len(x.shape)}, 3 or 4 is needed", where=node.describe())
    if x.shape is not None and len(x.shape) == 3 and not attribute(node, "num_heads"):
        raise ShapeError("a 3-D input needs the attribute num_heads", where=node.describe())
    return [x]


def rotary_embedding(
    x: torch.Tensor,
    cos_cache: torch.Tensor,
    sin_cache: torch.Tensor,
    position_ids: torch.Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> torch.Tensor:
    """ONNX RotaryEmbedding (https://arxiv.org/abs/2104.09864).

    Args:
        x: [B, S, heads * D] or [B, heads, S, D].
        cos_cache: [positions, R/2] where `position_ids` is given, else [B, S, R/2].
        sin_cache: as cos_cache.
        position_ids: [B, S].
        interleaved: pairs are neighbours rather than halves apart.
        num_heads: for 3-D inputs.
        rotary_embedding_dim: R, how many leading elements of each head are rotated; 0 for all.
    """
    split = x if x.dim() == 4 else x.reshape(*x.shape[:2], num_heads, -1).transpose(1, 2)
    size = rotary_embedding_dim or split.shape[3]
    turned, rest = split[..., :size], split[..., size:]
    cos, sin = (c if position_ids is None else c[position_ids] for c in (cos_cache, sin_cache))
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    a, b = (turned[..., 0::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    real, imaginary = cos * a - sin * b, sin * a + cos * b
    turned = torch.stack([real, imaginary], -1).flatten(-2) if interleaved else torch.cat([real, imaginary], -1)
    y = torch.cat([turned, rest], -1) if rest.shape[-1] else turned
    return y if x.dim() == 4 else y.transpose(1, 2).flatten(2)


def relate_rotary(node: Node) -> Relation | None:
    """Heads go through; inside a head the rotated pairs stay together, with their column of the caches."""
    x = node.operand(0)
    if x.shape is None:
        return None
    heads = attribute(node, "num_heads") if len(x.shape) == 3 else x.shape[1]
    hidden = x.shape[-1]
    depth = D.floor_div(hidden, heads) if len(x.shape) == 3 else hidden
    if not isinstance(depth, int):
        return None
    if attribute(node, "rotary_embedding_dim") not in (0, depth):
        inside, column = "!d", "!f"
    else:
        inside, column = ("f !two" if attribute(node, "interleaved") else "!two f"), "f"
    sizes = {"h": heads, "two": 2}
    cache = f"!p {column}" if node.input(3) is not None else f"n s {column}"
    whole = f"n s (h {inside})" if len(x.shape) == 3 else f"n h s ({inside})"
    reasons = {"two": "the halves of rotated pairs", "d": "a partly rotated head", "f": "a partly rotated head",
               "p": "positions"}  # fmt: skip
    attributes = {"num_heads": "h"} if len(x.shape) == 3 else {}
    return labels(node, f"{whole}, {cache}, {cache}, n s -> {whole}", sizes, reasons, attributes)


register(Operator("RotaryEmbedding", infer_rotary, rotary_embedding, relate_rotary))

__all__ = ["rotary_embedding"]
