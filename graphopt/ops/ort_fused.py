"""ONNX Runtime's fused operators, those that its own optimiser makes of standard ones: domain com.microsoft."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from graphopt.errors import ShapeError
from graphopt.ir import Dim, Node, TensorType, ValueType
from graphopt.ir import dims as D
from graphopt.ops.broadcast import relate_broadcast
from graphopt.ops.conv import conv, conv_macs, infer_conv
from graphopt.ops.infer import input_type, same_as
from graphopt.ops.matmul import gemm, gemm_macs, infer_gemm, matmul_shape, relate_gemm
from graphopt.ops.microsoft import DOMAIN
from graphopt.ops.record import Operator, attribute, hands_on, register
from graphopt.ops.relation import Relation, Shrinkage, labels

#: Activations of FusedConv by name, with their parameters.
ACTIVATIONS: dict[str, Callable[..., torch.Tensor]] = {
    "": lambda x: x,
    "Relu": lambda x: F.relu(x),
    "Sigmoid": lambda x: torch.sigmoid(x),
    "Tanh": lambda x: torch.tanh(x),
    "LeakyRelu": lambda x, alpha=0.01: F.leaky_relu(x, alpha),
    "Clip": lambda x, low, high: torch.clamp(x, low, high),
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5: torch.clamp(alpha * x + beta, 0, 1),
}


@hands_on(conv)
def fused_conv(
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor | None = None,
    z: torch.Tensor | None = None,
    *,
    activation: str = "",
    activation_params: Sequence[float] = (),
    **attributes: Any,
) -> torch.Tensor:
    """com.microsoft FusedConv: ``activation(Conv(x, w, b) + z)``, z of the shape of the result.

    `attributes` are those of `conv`.
    """
    y = conv(x, w, b, **attributes)
    return ACTIVATIONS[activation](y if z is None else y + z, *activation_params)


@hands_on(gemm)
def fused_gemm(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor | None = None,
    *,
    activation: str = "",
    activation_alpha: float | None = None,
    activation_beta: float | None = None,
    activation_gamma: float | None = None,
    **attributes: Any,
) -> torch.Tensor:
    """com.microsoft FusedGemm: ``activation(Gemm(a, b, c))``; `attributes` are those of `gemm`."""
    y = gemm(a, b, c, **attributes)
    given = [number for number in (activation_alpha, activation_beta, activation_gamma) if number is not None]
    return ACTIVATIONS[activation](y, *given)


def fused_matmul(
    a: torch.Tensor,
    b: torch.Tensor,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    transBatchA: int = 0,
    transBatchB: int = 0,
) -> torch.Tensor:
    """com.microsoft FusedMatMul: ``alpha * a' @ b'``, with the last two dimensions of a or b exchanged."""
    return alpha * torch.matmul(_turned(a, transA, transBatchA), _turned(b, transB, transBatchB))


def _turned(x: torch.Tensor, matrix: int, batch: int) -> torch.Tensor:
    """`x`; first the last batch dimension moved to the front of the matrix if `batch`, then the matrix transposed."""
    if batch and x.dim() > 2:
        x = x.movedim(0, -2)
    return x.mT if matrix and x.dim() > 1 else x


def infer_fused_matmul(node: Node) -> list[ValueType]:
    """Type rule of FusedMatMul."""
    shapes = []
    for index, side in enumerate("AB"):
        shape = input_type(node, index).shape
        if shape is not None and attribute(node, f"transBatch{side}") and len(shape) > 2:
            shape = (*shape[1:-1], shape[0], shape[-1])
        if shape is not None and attribute(node, f"trans{side}") and len(shape) > 1:
            shape = (*shape[:-2], shape[-1], shape[-2])
        shapes.append(shape)
    return [TensorType(input_type(node, 0).dtype, matmul_shape(node, shapes[0], shapes[1]))]


def fused_matmul_macs(node: Node) -> Dim:
    """Multiply-accumulates of FusedMatMul: an inner product for each element."""
    a, y = node.operand(0).shape, node.output.shape
    return None if a is None or y is None else D.mul(a[-2 if attribute(node, "transA") else -1], D.product(y))


def gelu(x: torch.Tensor) -> torch.Tensor:
    """com.microsoft Gelu, in its exact form."""
    return F.gelu(x)


def bias_gelu(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """com.microsoft BiasGelu: ``Gelu(a + b)`` with b [C] along the last dimension."""
    return F.gelu(a + b)


def fast_gelu(x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """com.microsoft FastGelu: ``Gelu(x + bias)`` in its tanh form."""
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


def quick_gelu(x: torch.Tensor, *, alpha: float = 1.702) -> torch.Tensor:
    """com.microsoft QuickGelu: ``x * sigmoid(alpha * x)``."""
    return x * torch.sigmoid(alpha * x)


def skip_layer_norm(
    x: torch.Tensor,
    skip: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    epsilon: float = 1e-12,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """com.microsoft SkipLayerNormalization over the last dimension of ``x + skip + bias``.

    Returns the result, mean, inverse deviation and the sum.
    """
    total = x + skip if bias is None else x + skip + bias
    mean = total.mean(-1, keepdim=True)
    inverse = torch.rsqrt((total - mean).square().mean(-1, keepdim=True) + epsilon)
    y = (total - mean) * inverse * gamma
    return (y if beta is None else y + beta), mean, inverse, total


def skip_rms_norm(
    x: torch.Tensor, skip: torch.Tensor, gamma: torch.Tensor, bias: torch.Tensor | None = None, *,
    epsilon: float = 1e-12,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """com.microsoft SkipSimplifiedLayerNormalization: as SkipLayerNormalization, without a mean."""
    total = x + skip if bias is None else x + skip + bias
    inverse = torch.rsqrt(total.square().mean(-1, keepdim=True) + epsilon)
    return total * inverse * gamma, torch.zeros_like(inverse), inverse, total


def infer_skip_norm(node: Node) -> list[ValueType]:
    """Type rule of the two: as the first input, and a number for each row."""
    x = input_type(node, 0)
    rows = TensorType(x.dtype, None if x.shape is None else (*x.shape[:-1], 1))
    kinds: list[ValueType] = [x, rows, rows, x]
    return kinds[: max(len(node.outputs), 1)]


def multi_head_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None = None,
    key_padding_mask: torch.Tensor | None = None,
    attention_bias: torch.Tensor | None = None,
    *,
    num_heads: int,
    scale: float = 0.0,
    unidirectional: int = 0,
    mask_filter_value: float = -10000.0,
) -> torch.Tensor:
    """com.microsoft MultiHeadAttention of query [B, S, H * D], key [B, T, H * D] and value [B, T, H * V].

    Args:
        query: as above.
        key: as above.
        value: as above.
        bias: [H * (D + D + V)], added to the three.
        key_padding_mask: [B, T], zero for keys that are left out.
        attention_bias: [B or 1, H or 1, S, T], added to the scores.
        num_heads: H.
        scale: of the scores; 0 for ``1 / sqrt(D)``.
        unidirectional: queries see no later keys.
        mask_filter_value: added to the scores of keys that are left out.
    """
    if bias is not None:
        sizes = [query.shape[-1], key.shape[-1], value.shape[-1]]
        query, key, value = (x + b for x, b in zip((query, key, value), torch.split(bias, sizes), strict=True))
    q, k, v = (x.reshape(*x.shape[:2], num_heads, -1).transpose(1, 2) for x in (query, key, value))
    scores: torch.Tensor = q @ k.mT * (scale or q.shape[-1] ** -0.5)
    if attention_bias is not None:
        scores = scores + attention_bias
    if key_padding_mask is not None:
        scores = scores + torch.where(key_padding_mask.bool(), 0.0, mask_filter_value)[:, None, None, :]
    if unidirectional:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, mask_filter_value)
    weighed: torch.Tensor = scores.softmax(-1) @ v
    return weighed.transpose(1, 2).flatten(2)


def infer_multi_head_attention(node: Node) -> list[ValueType]:
    """Type rule of MultiHeadAttention: [B, S, H * V]. Raises ShapeError for inputs of another rank than three."""
    q, v = input_type(node, 0), input_type(node, 2)
    for kind in (q, v):
        if kind.shape is not None and len(kind.shape) != 3:
            raise ShapeError(f"an input has rank {len(kind.shape)}, 3 is needed", where=node.describe())
    return [TensorType(q.dtype, None if q.shape is None or v.shape is None else (*q.shape[:2], v.shape[2]))]


def multi_head_attention_macs(node: Node) -> Dim:
    """Multiply-accumulates of the two products."""
    q, k, v = (input_type(node, index).shape for index in range(3))
    if q is None or k is None or v is None:
        return None
    return D.mul(D.mul(D.mul(q[0], q[1]), k[1]), D.add(q[2], v[2]))


# -- relations


def relate_fused_conv(node: Node) -> Relation:
    """As Conv's, with a sum."""
    notation = "n (g i) *, (g o) i *, (g o), n (g o) * -> n (g o) *"
    return labels(node, notation, {"g": attribute(node, "group")}, attributes={"group": "g"})


def relate_fused_matmul(node: Node) -> Relation | None:
    """As MatMul's, with a or b transposed."""
    if attribute(node, "transBatchA") or attribute(node, "transBatchB"):
        return None
    left = "k" if node.operand(0).rank == 1 else "... k m" if attribute(node, "transA") else "... m k"
    right = "k" if node.operand(1).rank == 1 else "... n k" if attribute(node, "transB") else "... k n"
    result = [name for name, side in (("m", left), ("n", right)) if name in side]
    return labels(node, f"{left}, {right} -> ... {' '.join(result)}")


def relate_skip_norm(node: Node) -> Relation:
    """As of a normalisation over the last dimension, of a sum that is a result, too."""
    return labels(node, "... c, ... c, c, c, c -> ... c, ... _, ... _, ... c")


def relate_multi_head_attention(node: Node) -> Relation | None:
    """Heads and the elements inside them, of the bias too; sequences are frozen, as the softmax runs over all keys."""
    query, key, value = (node.operand(index) for index in range(3))
    heads, width, depth = attribute(node, "num_heads"), (query.shape or (None,))[-1], (value.shape or (None,))[-1]
    if not isinstance(width, int) or not isinstance(depth, int) or width % heads or depth % heads:
        return None
    mask = node.input(5)
    names = zip(("n", "h", "!q", "!s"), () if mask is None else mask.shape or (), strict=False)
    scores = " ".join("_" if size == 1 else name for name, size in names)
    relation = labels(
        node, f"n !q (h d), n !s (h d), n !s (h e), -, n !s, {scores} -> n !q (h e)",
        {"h": heads, "d": width // heads, "e": depth // heads},
        dict.fromkeys("qs", "a sequence that attention runs over"), {"num_heads": "h"},
    )  # fmt: skip
    bias, start = node.input(3), 0
    for part, size in ((query, width), (key, width), (value, depth)):
        if bias is not None:
            relation.select((part, 2), (bias, 0), range(start, start + size))
        start += size
    return relation


def shrink_multi_head_attention(node: Node, edit: Shrinkage) -> None:
    """States the scale that the original depth of a head implied."""
    query = node.operand(0)
    width = edit.old_size(query, 2)
    if edit.kept(query, 2) is not None and isinstance(width, int) and not attribute(node, "scale"):
        node.attributes["scale"] = (width // attribute(node, "num_heads")) ** -0.5


def last_dimension(node: Node) -> tuple[int, ...]:
    """The dimension that statistics run over."""
    return ((node.operand(0).rank or 1) - 1,)


register(
    Operator("FusedConv", infer_conv, fused_conv, relate_fused_conv, conv_macs, domain=DOMAIN, addends=(3,)),
    Operator("FusedGemm", infer_gemm, fused_gemm, relate_gemm, gemm_macs, domain=DOMAIN, addends=(2,)),
    Operator(
        "FusedMatMul", infer_fused_matmul, fused_matmul, relate_fused_matmul, fused_matmul_macs, domain=DOMAIN
    ),
    Operator("Gelu", same_as(0), gelu, relate_broadcast, domain=DOMAIN, elementwise=True),
    Operator("BiasGelu", same_as(0), bias_gelu, relate_broadcast, domain=DOMAIN),
    Operator("FastGelu", same_as(0), fast_gelu, relate_broadcast, domain=DOMAIN),
    Operator("QuickGelu", same_as(0), quick_gelu, relate_broadcast, domain=DOMAIN, elementwise=True),
    Operator(
        "SkipLayerNormalization", infer_skip_norm, skip_layer_norm, relate_skip_norm, domain=DOMAIN,
        normalises=last_dimension,
    ),
    Operator(
        "SkipSimplifiedLayerNormalization", infer_skip_norm, skip_rms_norm, relate_skip_norm, domain=DOMAIN,
        normalises=last_dimension,
    ),
    Operator(
        "MultiHeadAttention", infer_multi_head_attention, multi_head_attention, relate_multi_head_attention,
        multi_head_attention_macs, shrink=shrink_multi_head_attention, domain=DOMAIN, addends=(3, 4, 5),
    ),
)  # fmt: skip

__all__ = ["ACTIVATIONS"]
