"""Attention."""

from __future__ import annotations

from graphopt.frontends.aten.builder import Builder, rank_of, require, shape_of
from graphopt.frontends.aten.registry import converts
from graphopt.ir import Value


@converts("aten.scaled_dot_product_attention.default")
def attention(
    c: Builder,
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """Operands [batch, heads, length, width]; three dimensions get one head."""
    require(dropout_p == 0, "dropout inside attention that is on at inference")
    rank = rank_of(query)
    require(
        rank in (3, 4) and rank_of(key) == rank and rank_of(value) == rank,
        "attention over other than 3 or 4 dimensions",
    )
    operands = [query, key, value]
    mask = attn_mask
    if rank == 3:
        operands = [c.unsqueeze(operand, 1) for operand in operands]
        mask = c.unsqueeze(mask, 1) if mask is not None and rank_of(mask) == 3 else mask
    attributes: dict[str, object] = {"is_causal": 1} if is_causal else {}
    if scale is not None:
        attributes["scale"] = float(scale)
    if mask is not None and rank_of(mask) >= 2:
        mask = _over_sequences(c, mask, operands[0], operands[1])
    y = c.emit("Attention", *operands, mask, **attributes)
    return c.squeeze(y, 1) if rank == 3 else y


def _over_sequences(c: Builder, mask: Value, query: Value, key: Value) -> Value:
    """The mask with its last two dimensions as long as the sequences: ONNX Runtime does not broadcast these."""
    wanted = (shape_of(query)[-2], shape_of(key)[-2])
    short = [a == 1 and b != 1 for a, b in zip(shape_of(mask)[-2:], wanted, strict=True)]
    if not any(short):
        return mask
    sizes = [c.size(x, -2) if each else 1 for each, x in zip(short, (query, key), strict=True)]
    wide = c.expand(mask, [*[1] * (rank_of(mask) - 2), *sizes])
    kept = [b if each else a for each, a, b in zip(short, shape_of(mask)[-2:], wanted, strict=True)]
    wide.type = mask.tensor_type.with_shape((*shape_of(mask)[:-2], *kept))
    return wide
