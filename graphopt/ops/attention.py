"""Scaled dot-product attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from graphopt.errors import ShapeError
from graphopt.ir import Dim, DType, Node, Shape, TensorType, ValueType
from graphopt.ir import dims as D
from graphopt.ops.infer import input_type
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.relation import Relation, Shrinkage, labels

# -- types


@dataclass(frozen=True)
class Heads:
    """The sizes of an Attention; a size is ``None`` while it is unknown.

    Attributes:
        queries: number of query heads.
        keys: number of key and value heads; divides `queries`.
        depth: elements of a query or key head.
        value_depth: elements of a value head.
        merged: 3-D inputs, with the heads inside the last dimension.
    """

    queries: Dim
    keys: Dim
    depth: Dim
    value_depth: Dim
    merged: bool

    @classmethod
    def of(cls, node: Node) -> Heads | None:
        """The sizes of `node`; ``None`` while a rank is unknown.

        Raises:
            ShapeError: when the inputs do not fit together.
        """
        q, k, v = (input_type(node, i).shape for i in range(3))
        if q is None or k is None or v is None:
            return None
        if not len(q) == len(k) == len(v) or len(q) not in (3, 4):
            raise ShapeError(
                f"Q, K and V have ranks {len(q)}, {len(k)}, {len(v)}; all three need 3, or 4", where=node.describe()
            )
        if len(q) == 4:
            heads = cls(q[1], k[1], q[3], v[3], False)
            _check_same(node, "K and V have {} and {} heads", k[1], v[1])
            _check_same(node, "Q and K have heads of {} and {} elements", q[3], k[3])
        else:
            heads = cls._merged(node, q, k, v)
        count, groups = heads.queries, heads.keys
        if isinstance(count, int) and isinstance(groups, int) and (groups == 0 or count % groups):
            raise ShapeError(f"{count} query heads do not divide into {groups} key heads", where=node.describe())
        return heads

    @classmethod
    def _merged(cls, node: Node, q: Shape, k: Shape, v: Shape) -> Heads:
        queries, keys = attribute(node, "q_num_heads"), attribute(node, "kv_num_heads")
        if not queries or not keys:
            raise ShapeError("3-D inputs need the attributes q_num_heads and kv_num_heads", where=node.describe())
        for name, hidden, count in (("Q", q[2], queries), ("K", k[2], keys), ("V", v[2], keys)):
            if isinstance(hidden, int) and hidden % count:
                raise ShapeError(f"{name} of {hidden} does not divide into {count} heads", where=node.describe())
        depth = D.floor_div(q[2], queries)
        _check_same(node, "Q and K have heads of {} and {} elements", depth, D.floor_div(k[2], keys))
        return cls(queries, keys, depth, D.floor_div(v[2], keys), True)


def _check_same(node: Node, words: str, a: Dim, b: Dim) -> None:
    if isinstance(a, int) and isinstance(b, int) and a != b:
        raise ShapeError(words.format(a, b), where=node.describe())


def infer_attention(node: Node) -> Sequence[ValueType]:
    """Type rule of Attention: the result, present key and value, and scores."""
    q, k, v = (input_type(node, i) for i in range(3))
    heads = Heads.of(node)
    count = max(len(node.outputs), 1)
    if heads is None or q.shape is None or k.shape is None or v.shape is None:
        return [TensorType(t.dtype) for t in (q, k, v, q)][:count]
    sequence = 1 if heads.merged else 2
    queries, total = q.shape[sequence], k.shape[sequence]
    if node.input(4) is not None:
        past = input_type(node, 4).shape
        total = None if past is None else D.add(total, past[2])
    y: Shape = (q.shape[0], heads.queries, queries, heads.value_depth)
    if heads.merged:
        y = (q.shape[0], queries, D.mul(heads.queries, heads.value_depth))
    return [
        TensorType(q.dtype, y),
        TensorType(k.dtype, (k.shape[0], heads.keys, total, heads.depth)),
        TensorType(v.dtype, (v.shape[0], heads.keys, total, heads.value_depth)),
        TensorType(q.dtype, (q.shape[0], heads.queries, queries, total)),
    ][:count]


# -- computation


def _split(x: torch.Tensor, heads: int | None) -> torch.Tensor:
    """[B, S, heads * D] as [B, heads, S, D]; 4-D tensors as they are."""
    if x.dim() == 4 or heads is None:
        return x
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 2)


@dataclass(frozen=True)
class _Sight:
    """Which keys a query may see by position.

    Attributes:
        past: number of keys from before the first query.
        valid: [B], numbers of keys that are there; all when ``None``.
        left, right: number of keys seen before and behind a query's position; -1 for all.
    """

    past: int
    valid: torch.Tensor | None
    left: int
    right: int

    def allowed(self, q: torch.Tensor, total: int) -> torch.Tensor | None:
        """A mask that broadcasts to [B, heads, S, total]; ``None`` when all keys are seen."""
        keys = torch.arange(total, device=q.device)
        found = []
        if self.left >= 0 or self.right >= 0:
            at = self._positions(q)
            found += [keys <= at + self.right] if self.right >= 0 else []
            found += [keys >= at - self.left] if self.left >= 0 else []
        if self.valid is not None:
            found.append(keys < self.valid.reshape(-1, 1, 1, 1))
        result = None
        for mask in found:
            result = mask if result is None else result & mask
        return result

    def _positions(self, q: torch.Tensor) -> torch.Tensor:
        """Absolute positions of the queries, [1 or B, 1, S, 1]."""
        index = torch.arange(q.shape[2], device=q.device).reshape(1, 1, -1, 1)
        return index + self.past if self.valid is None else index + (self.valid.reshape(-1, 1, 1, 1) - q.shape[2])


def _bias(mask: torch.Tensor | None, allowed: torch.Tensor | None, q: torch.Tensor, total: int) -> torch.Tensor | None:
    """The mask input and the positions allowed as one additive bias (rank 2 to 4), ``-inf`` where a key is not seen."""
    if mask is not None and mask.shape[-1] < total:
        mask = F.pad(mask, (0, total - mask.shape[-1]), value=False if mask.dtype == torch.bool else -math.inf)
    if mask is not None and mask.dtype == torch.bool:
        mask = mask.reshape(*[1] * (2 - mask.dim()), *mask.shape)
        allowed, mask = (mask if allowed is None else mask & allowed), None
    mask = mask if mask is None else mask.to(q.dtype).reshape(*[1] * (2 - mask.dim()), *mask.shape)
    if allowed is None:
        return mask
    blocked = torch.zeros(allowed.shape, dtype=q.dtype, device=q.device).masked_fill(~allowed, -math.inf)
    return blocked if mask is None else mask + blocked


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: torch.Tensor | None = None,
    past_key: torch.Tensor | None = None, past_value: torch.Tensor | None = None,
    nonpad_kv_seqlen: torch.Tensor | None = None, *, is_causal: int = 0, kv_num_heads: int | None = None,
    left_window_size: int = -1, q_num_heads: int | None = None, qk_matmul_output_mode: int = 0,
    right_window_size: int = -1, scale: float | None = None, softcap: float = 0.0,
    softmax_precision: int | None = None, outputs: int = 4,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    """ONNX Attention: the result, present key and value and, where wanted, the scores.

    torch's scaled_dot_product_attention does the work unless scores, a soft cap or a softmax precision are asked for.

    Args:
        q: [B, S, heads * D] or [B, heads, S, D].
        k: [B, T, kv_heads * D] or [B, kv_heads, T, D].
        v: as k, with elements E in place of D.
        attn_mask: bool (true takes part) or float (added), broadcast to [B, heads, S, past + T], may be shorter.
        past_key: [B, kv_heads, past, D].
        past_value: [B, kv_heads, past, E].
        nonpad_kv_seqlen: [B], numbers of valid keys.
        is_causal: a query sees the keys up to its own position.
        kv_num_heads: for 3-D inputs.
        left_window_size: keys seen before a query's position; -1 for all.
        q_num_heads: for 3-D inputs.
        qk_matmul_output_mode: what the fourth output holds: 0 scores, 1 capped, 2 with bias, 3 after softmax.
        right_window_size: keys seen behind a query's position; -1 for all.
        scale: of the scores; 1 / sqrt(D) by default.
        softcap: scores become ``softcap * tanh(scores / softcap)``; 0 for not.
        softmax_precision: element type of the softmax.
        outputs: number of outputs wanted.
    """
    merged = q.dim() == 3
    q, k, v = _split(q, q_num_heads), _split(k, kv_num_heads), _split(v, kv_num_heads)
    past = 0 if past_key is None else past_key.shape[2]
    k = k if past_key is None else torch.cat([past_key, k], 2)
    v = v if past_value is None else torch.cat([past_value, v], 2)
    sight = _Sight(past, nonpad_kv_seqlen, left_window_size, 0 if is_causal else right_window_size)
    factor = 1 / math.sqrt(q.shape[3]) if scale is None else scale
    if outputs <= 3 and not softcap and softmax_precision is None:
        return _merge(_fused(q, k, v, attn_mask, sight, factor), merged), k, v
    bias = _bias(attn_mask, sight.allowed(q, k.shape[2]), q, k.shape[2])
    y, scores = _explicit(q, k, v, bias, factor, softcap, softmax_precision, qk_matmul_output_mode)
    return _merge(y, merged), k, v, scores


def _merge(y: torch.Tensor, merged: bool) -> torch.Tensor:
    """[B, heads, S, E] as the inputs came: [B, S, heads * E] if `merged`."""
    return y.transpose(1, 2).flatten(2) if merged else y


def _unseen(bias: torch.Tensor) -> torch.Tensor:
    """Queries that see no key at all, as a mask that broadcasts to [B, heads, S, 1]."""
    return bias.amax(-1, keepdim=True) == -math.inf


def _repeated(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Keys or values [B, kv_heads, T, D], each as often as query heads read it: [B, heads, T, D]."""
    repeats = heads // x.shape[1]
    return x.repeat_interleave(repeats, 1) if repeats > 1 else x


def _fused(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, sight: _Sight, factor: float
) -> torch.Tensor:
    """Attention by torch's own kernel."""
    plain = mask is None and sight.valid is None and not sight.past
    if plain and sight.left < 0 and sight.right <= 0:
        causal, grouped = sight.right == 0, q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=factor, enable_gqa=grouped)
    bias = _bias(mask, sight.allowed(q, k.shape[2]), q, k.shape[2])
    keys, values = _repeated(k, q.shape[1]), _repeated(v, q.shape[1])
    y = F.scaled_dot_product_attention(q, keys, values, bias, scale=factor)
    return y if bias is None else y.masked_fill(_unseen(bias), 0)


def _explicit(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None,
    factor: float, softcap: float, precision: int | None, mode: int,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Attention step by step; also what the fourth output shows in `mode`."""
    k, v = _repeated(k, q.shape[1]), _repeated(v, q.shape[1])
    root = math.sqrt(factor) if factor >= 0 else None
    shown = scores = (q * root) @ (k * root).mT if root is not None else (q * factor) @ k.mT
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
        shown = scores if mode == 1 else shown
    if bias is not None:
        scores = scores + bias
    shown = scores if mode == 2 else shown
    weights = scores.softmax(-1, dtype=None if precision is None else DType(precision).torch)
    if bias is not None:
        weights = weights.masked_fill(_unseen(bias), 0)
    weights = weights.to(q.dtype)
    return weights @ v, (weights if mode == 3 else shown)


# -- relation


def relate_attention(node: Node) -> Relation | None:
    """Heads and the elements inside them.

    With grouped queries a query head is (key head, repetition). Sequences are frozen: the softmax runs over all keys,
    and positions count.
    """
    heads = Heads.of(node)
    if heads is None or not isinstance(heads.keys, int) or not isinstance(heads.queries, int):
        return None
    sizes = {"k": heads.keys, "r": heads.queries // heads.keys, "d": heads.depth, "e": heads.value_depth}
    several = "k r" if sizes["r"] != 1 else "k"
    if heads.keys == 1:
        several = "r" if sizes["r"] != 1 else "k"
    group = "k" if heads.keys > 1 or "k" in several else "_"
    inside = "" if group == "_" else f"{group} "
    q = f"n !q ({several} d)" if heads.merged else f"n ({several}) !q d"
    k = f"n !s ({inside}d)" if heads.merged else f"n {group} !s d"
    v = f"n !s ({inside}e)" if heads.merged else f"n {group} !s e"
    y = f"n !q ({several} e)" if heads.merged else f"n ({several}) !q e"
    present = f"n {group} !t d, n {group} !t e"
    states = f"n {group} !p d, n {group} !p e"
    notation = f"{q}, {k}, {v}, {_mask(node, several)}, {states}, n -> {y}, {present}, n ({several}) !q !t"
    reasons = dict.fromkeys("qspt", "a sequence that attention runs over")
    attributes = {}
    if heads.merged and several in ("k", "r"):
        attributes = {"q_num_heads": several, **({"kv_num_heads": "k"} if several == "k" else {})}
    elif heads.merged:
        attributes = {"kv_num_heads": "k"}
    return labels(node, notation, sizes, reasons, attributes)


def _mask(node: Node, several: str) -> str:
    value = node.input(3)
    if value is None or value.shape is None:
        return "-"
    names = ["n", f"({several})", "!q", "*"][4 - len(value.shape) :]
    return " ".join("_" if extent == 1 else name for name, extent in zip(names, value.shape, strict=True))


def _distinct(index: torch.Tensor) -> int:
    return len(set(index.tolist()))


def shrink_attention(node: Node, shrinkage: Shrinkage) -> None:
    """Keeps the numbers of heads in step, and the scale that the original depth of a head implied."""
    heads = Heads.of(node)
    q, k = node.operand(0), node.operand(1)
    if heads is None or not isinstance(heads.depth, int):
        return
    if heads.merged:
        for name, value in (("q_num_heads", q), ("kv_num_heads", k)):
            kept = shrinkage.kept(value, 2)
            if kept is not None:
                node.attributes[name] = _distinct(kept // heads.depth)
    shrunk = shrinkage.kept(q, 2 if heads.merged else 3)
    if shrunk is None or attribute(node, "scale") is not None:
        return
    if _distinct(shrunk % heads.depth) != heads.depth:
        node.attributes["scale"] = 1 / math.sqrt(heads.depth)


def attention_macs(node: Node) -> Dim:
    """Multiply-accumulates of Attention: scores and weighted sum, masked ones included."""
    heads, q, k = Heads.of(node), node.operand(0).shape, node.operand(1).shape
    if heads is None or q is None or k is None:
        return None
    sequence = 1 if heads.merged else 2
    total = k[sequence]
    if node.input(4) is not None:
        past = input_type(node, 4).shape
        total = None if past is None else D.add(total, past[2])
    depths = D.add(heads.depth, heads.value_depth)
    return D.product([q[0], heads.queries, q[sequence], total, depths])


register(
    Operator(
        "Attention", infer_attention, attention, relate_attention, attention_macs, shrink=shrink_attention, addends=(3,)
    )
)

__all__ = ["Heads", "attention"]
