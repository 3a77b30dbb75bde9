"""Operators that carry a state from call to call: LinearAttention and CausalConvWithState."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from graphopt.errors import DataError, OptionError, ShapeError
from graphopt.ir import Dim, Node, TensorType, ValueType
from graphopt.ir import dims as D
from graphopt.ops.infer import input_type
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.relation import Relation, labels

#: Update rules of LinearAttention: whether the state decays, whether only what is new is written.
_RULES = {"linear": (False, False), "gated": (True, False), "delta": (False, True), "gated_delta": (True, True)}


def _heads(x: torch.Tensor, count: int) -> torch.Tensor:
    """[B, T, H*D] as [T, B, H, D], in float32 at least."""
    split = x.reshape(*x.shape[:2], count, x.shape[2] // count).transpose(0, 1)
    return split if x.dtype is torch.float64 else split.float()


def linear_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    past_state: torch.Tensor | None = None,
    decay: torch.Tensor | None = None,
    beta: torch.Tensor | None = None,
    *,
    chunk_size: int = 64,
    kv_num_heads: int,
    q_num_heads: int,
    scale: float = 0.0,
    update_rule: str = "gated_delta",
) -> tuple[torch.Tensor, torch.Tensor]:
    """ONNX LinearAttention, step by step: [B, T, H*D] to [B, T, Hq*Dv] and the state [B, Hkv, Dk, Dv].

    Raises:
        OptionError: an unknown update rule.
        DataError: decay or beta is missing, or given to a rule that has none.
    """
    if update_rule not in _RULES:
        raise OptionError(f"LinearAttention has no update_rule '{update_rule}'", hint=f"use one of {', '.join(_RULES)}")
    gated, delta = _RULES[update_rule]
    if gated != (decay is not None) or delta != (beta is not None):
        raise DataError(
            f"update_rule '{update_rule}' takes {'a' if gated else 'no'} decay and {'a' if delta else 'no'} beta"
        )
    q, k, v = _heads(query, q_num_heads), _heads(key, kv_num_heads), _heads(value, kv_num_heads)
    factor = scale or (query.shape[-1] // q_num_heads) ** -0.5
    gates = None if decay is None else _heads(decay, kv_num_heads).exp()
    rates = None if beta is None else _heads(beta, beta.shape[-1])
    shape = (query.shape[0], kv_num_heads, k.shape[-1], v.shape[-1])
    state = q.new_zeros(shape) if past_state is None else past_state.to(q.dtype)
    results = []
    for step in range(len(q)):
        written = v[step]
        if gates is not None:
            state = state * gates[step].unsqueeze(-1)
        if rates is not None:
            written = rates[step] * (written - torch.einsum("bhdm,bhd->bhm", state, k[step]))
        state = state + k[step].unsqueeze(-1) * written.unsqueeze(-2)
        read = state.repeat_interleave(q_num_heads // kv_num_heads, 1)
        results.append(factor * torch.einsum("bhd,bhdm->bhm", q[step], read))
    output = torch.stack(results, 1).flatten(2) if results else q.new_zeros(query.shape[0], 0, q_num_heads * shape[-1])
    return output.to(query.dtype), state.to(query.dtype if past_state is None else past_state.dtype)


def infer_linear_attention(node: Node) -> list[ValueType]:
    """Type rule of LinearAttention."""
    query, value, past = input_type(node, 0), input_type(node, 2), input_type(node, 3)
    for name, kind in (("query", query), ("value", value)):
        if kind.shape is not None and len(kind.shape) != 3:
            raise ShapeError(f"{name} has rank {len(kind.shape)}, expected [B, T, H*D]", where=node.describe())
    heads, groups = attribute(node, "q_num_heads"), attribute(node, "kv_num_heads")
    if groups < 1 or heads < 1 or heads % groups:
        raise ShapeError(f"q_num_heads {heads} is no multiple of kv_num_heads {groups}", where=node.describe())
    batch, steps, width = query.shape or (None, None, None)
    size: Dim = None if value.shape is None else D.floor_div(value.shape[2], groups)
    state = (batch, groups, D.floor_div(width, heads), size)
    kept = past.dtype if node.input(3) is not None else query.dtype
    return [TensorType(query.dtype, (batch, steps, D.mul(size, heads))), TensorType(kept, state)]


def linear_attention_macs(node: Node) -> Dim:
    """Multiply-accumulates: reading costs Dk*Dv for each query head and step, writing as much for each KV head."""
    query, state = node.operand(0).shape, infer_linear_attention(node)[1]
    if query is None or not isinstance(state, TensorType) or state.shape is None:
        return None
    rule = _RULES.get(attribute(node, "update_rule"), (False, False))
    passes = attribute(node, "q_num_heads") + attribute(node, "kv_num_heads") * (1 + rule[1])
    return D.mul(D.mul(query[0], query[1]), D.mul(passes, D.mul(state.shape[2], state.shape[3])))


# -- CausalConvWithState


def causal_conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    past_state: torch.Tensor | None = None,
    *,
    activation: str = "none",
) -> tuple[torch.Tensor, torch.Tensor]:
    """ONNX CausalConvWithState: x [B, C, L] behind the state [B, C, k - 1], by a kernel [C, 1, k] per channel.

    Raises:
        OptionError: an unknown activation.
    """
    if activation not in ("none", "silu", "swish"):
        raise OptionError(f"CausalConvWithState has no activation '{activation}'", hint="use none, silu or swish")
    reach = weight.shape[2] - 1
    padded = F.pad(x, (reach, 0)) if past_state is None else torch.cat([past_state, x], 2)
    y = F.conv1d(padded, weight, bias, groups=weight.shape[0])
    state = padded[:, :, padded.shape[2] - reach :]
    return (y if activation == "none" else F.silu(y)), state


def infer_causal_conv(node: Node) -> list[ValueType]:
    """Type rule of CausalConvWithState. Raises ShapeError for a weight that is not [channels, 1, k]."""
    x, w = input_type(node, 0), input_type(node, 1).shape
    if x.shape is None:
        return [x, TensorType(x.dtype)]
    if len(x.shape) != 3 or (w is not None and (len(w) != 3 or w[1] not in (1, None))):
        raise ShapeError("input must be [batch, channels, length], weight [channels, 1, k]", where=node.describe())
    if w is not None and isinstance(w[0], int) and isinstance(x.shape[1], int) and w[0] != x.shape[1]:
        raise ShapeError(f"input has {x.shape[1]} channels, weight {w[0]}", where=node.describe())
    reach = None if w is None else D.add(w[2], -1)
    return [x, x.with_shape((*x.shape[:2], reach))]


def relate_causal_conv(node: Node) -> Relation:
    """Channels go through, each with its kernel, bias and state; time is frozen."""
    return labels(node, "n c *, c * *, c, n c * -> n c *, n c *")


def causal_conv_macs(node: Node) -> Dim:
    """Multiply-accumulates: each output element sums over the kernel."""
    w, y = node.operand(1).shape, node.output.shape
    return None if w is None or y is None else D.mul(w[2], D.product(y))


register(
    Operator("LinearAttention", infer_linear_attention, linear_attention, macs=linear_attention_macs),
    Operator("CausalConvWithState", infer_causal_conv, causal_conv, relate_causal_conv, causal_conv_macs),
)

__all__ = ["causal_conv", "linear_attention"]
