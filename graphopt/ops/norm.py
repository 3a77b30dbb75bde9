"""Normalisations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from graphopt.errors import ShapeError
from graphopt.ir import DType, Node, TensorType, ValueType
from graphopt.ops.infer import input_type, normalise_axis, same_as
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.relation import Relation, labels


def _check_vectors(node: Node, indices: Sequence[int]) -> None:
    """Raises ShapeError unless the inputs at `indices` are vectors with one element for each channel of input 0."""
    shape = input_type(node, 0).shape
    if shape is None:
        return
    channels = shape[1] if len(shape) > 1 else 1
    for index in indices:
        vector = input_type(node, index).shape
        if vector is None:
            continue
        if len(vector) != 1 or (isinstance(vector[0], int) and isinstance(channels, int) and vector[0] != channels):
            raise ShapeError(
                f"input {index} has shape {list(vector)}, the input's {channels} channels need [{channels}]",
                where=node.describe(),
            )


def _accumulation(x: torch.Tensor, stash_type: int = DType.FLOAT32) -> torch.dtype:
    """The precision in which statistics are taken: `stash_type`, and never less than that of `x`."""
    return torch.promote_types(x.dtype, DType(stash_type).torch)


# -- BatchNormalization


def infer_batch_norm(node: Node) -> Sequence[ValueType]:
    """Type rule of BatchNormalization; in training mode also the running statistics."""
    _check_vectors(node, (1, 2, 3, 4))
    x = input_type(node, 0)
    return [x, input_type(node, 3), input_type(node, 4)][: max(len(node.outputs), 1)]


def batch_norm(
    x: torch.Tensor,
    scale: torch.Tensor,
    b: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """ONNX BatchNormalization: x [N, C, ...] (or [N] with C = 1), the others [C].

    In training mode the batch's statistics (population variance) are used; the running ones come second and third.
    """
    if x.dim() == 1:
        result = batch_norm(
            x[:, None], scale, b, mean, var, epsilon=epsilon, momentum=momentum, training_mode=training_mode
        )
        return (result[0][:, 0], *result[1:]) if isinstance(result, tuple) else result[:, 0]
    if not training_mode:
        return _normalise_channels(x, scale, b, mean, var, epsilon)
    axes = [d for d in range(x.dim()) if d != 1]
    current_var, current_mean = torch.var_mean(x.to(_accumulation(x)), axes, correction=0)
    y = _normalise_channels(x, scale, b, current_mean, current_var, epsilon)
    running_mean = mean * momentum + current_mean * (1 - momentum)
    running_var = var * momentum + current_var * (1 - momentum)
    return y, running_mean.to(mean.dtype), running_var.to(var.dtype)


def _normalise_channels(
    x: torch.Tensor, scale: torch.Tensor, b: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, epsilon: float
) -> torch.Tensor:
    if x.dtype == scale.dtype == mean.dtype == var.dtype == b.dtype:
        return F.batch_norm(x, mean, var, scale, b, False, 0.0, epsilon)
    precise = _accumulation(x)
    mean, var, scale, b = (t.to(precise) for t in (mean, var, scale, b))
    y = F.batch_norm(x.to(precise), mean, var, scale, b, False, 0.0, epsilon)
    return y.to(x.dtype)


def relate_batch_norm(node: Node) -> Relation:
    """Everything goes through; channels tie scale, bias and statistics."""
    if node.operand(0).rank == 1:
        return labels(node, "n, _, _, _, _ -> n, _, _")
    return labels(node, "n c ..., c, c, c, c -> n c ..., c, c")


def batch_norm_statistics(node: Node) -> tuple[int, ...]:
    """In training mode all dimensions but the channels are reduced; in inference none is."""
    rank = node.operand(0).rank or 0
    return tuple(d for d in range(rank) if d != 1) if attribute(node, "training_mode") else ()


# -- InstanceNormalization and GroupNormalization


def infer_channel_norm(node: Node) -> list[ValueType]:
    """Type rule of InstanceNormalization and GroupNormalization: as the input."""
    _check_vectors(node, (1, 2))
    return [input_type(node, 0)]


def infer_group_norm(node: Node) -> list[ValueType]:
    """As `infer_channel_norm`; the groups must divide the channels."""
    shape, groups = input_type(node, 0).shape, attribute(node, "num_groups")
    if shape is not None and isinstance(shape[1], int) and shape[1] % groups:
        raise ShapeError(f"{shape[1]} channels do not divide into {groups} groups", where=node.describe())
    return infer_channel_norm(node)


def group_norm(
    x: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    *,
    epsilon: float = 1e-5,
    num_groups: int,
    stash_type: int = 1,
) -> torch.Tensor:
    """ONNX GroupNormalization (opset 21): x [N, C, ...], scale and bias [C]."""
    precise = _accumulation(x, stash_type)
    if precise == x.dtype:
        return torch.group_norm(x, num_groups, scale, bias, epsilon)
    y = torch.group_norm(x.to(precise), num_groups, None, None, epsilon).to(x.dtype)
    shape = (-1, *[1] * (x.dim() - 2))
    return y * scale.reshape(shape) + bias.reshape(shape)


def instance_norm(x: torch.Tensor, scale: torch.Tensor, b: torch.Tensor, *, epsilon: float = 1e-5) -> torch.Tensor:
    """ONNX InstanceNormalization: x [N, C, ...], scale and b [C]."""
    return torch.group_norm(x, x.shape[1], scale, b, epsilon)


def relate_group_norm(node: Node) -> Relation:
    """Channels within their groups tie scale and bias."""
    sizes = {"g": attribute(node, "num_groups")}
    return labels(node, "n (g c) ..., (g c), (g c) -> n (g c) ...", sizes, attributes={"num_groups": "g"})


def relate_instance_norm(node: Node) -> Relation:
    """Channels tie scale and bias."""
    return labels(node, "n c ..., c, c -> n c ...")


def _from_dimension(first: int, node: Node) -> tuple[int, ...]:
    return tuple(range(first, node.operand(0).rank or 0))


def instance_norm_statistics(node: Node) -> tuple[int, ...]:
    """The spatial dimensions."""
    return _from_dimension(2, node)


def group_norm_statistics(node: Node) -> tuple[int, ...]:
    """The channels (of a group) and the spatial dimensions."""
    return _from_dimension(1, node)


# -- LayerNormalization and RMSNormalization


def trailing_statistics(node: Node) -> tuple[int, ...]:
    """The dimensions from `axis` to the last."""
    rank = node.operand(0).rank
    if rank is None:
        return ()
    return _from_dimension(normalise_axis(attribute(node, "axis"), rank, node), node)


def infer_layer_norm(node: Node) -> Sequence[ValueType]:
    """Type rule of LayerNormalization: as the input; mean and inverse deviation with 1 where it is normalised."""
    x = input_type(node, 0)
    stash = DType(attribute(node, "stash_type"))
    _check_scale(node, (1, 2))
    if x.shape is None:
        statistics = TensorType(stash)
    else:
        axis = normalise_axis(attribute(node, "axis"), len(x.shape), node)
        statistics = TensorType(stash, (*x.shape[:axis], *[1] * (len(x.shape) - axis)))
    return [x, statistics, statistics][: max(len(node.outputs), 1)]


def infer_rms_norm(node: Node) -> list[ValueType]:
    """Type rule of RMSNormalization: as the input."""
    _check_scale(node, (1,))
    return [input_type(node, 0)]


def _check_scale(node: Node, indices: Sequence[int]) -> None:
    shape = input_type(node, 0).shape
    for index in indices:
        scale = input_type(node, index).shape
        if shape is None or scale is None:
            continue
        pairs = zip(reversed(scale), reversed(shape), strict=False)
        clash = any(isinstance(s, int) and s != 1 and isinstance(d, int) and s != d for s, d in pairs)
        if clash or len(scale) > len(shape):
            raise ShapeError(
                f"input {index} of shape {list(scale)} does not broadcast to the input's {list(shape)}",
                where=node.describe(),
            )


def layer_norm(
    x: torch.Tensor,
    scale: torch.Tensor,
    b: torch.Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ONNX LayerNormalization over the dimensions from `axis`: the result, mean and inverse standard deviation."""
    shape = x.shape[axis:]
    precise, stash = _accumulation(x, stash_type), DType(stash_type).torch
    if precise == x.dtype and scale.shape == shape and (b is None or b.shape == shape):
        y, mean, deviation = torch.native_layer_norm(x, shape, scale, b, epsilon)
    else:
        y, mean, deviation = torch.native_layer_norm(x.to(precise), shape, None, None, epsilon)
        y = y.to(x.dtype) * scale
        y = y if b is None else y + b
    return y, mean.to(stash), deviation.to(stash)


def rms_norm(
    x: torch.Tensor, scale: torch.Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> torch.Tensor:
    """ONNX RMSNormalization over the dimensions from `axis` (https://arxiv.org/abs/1910.07467)."""
    shape = x.shape[axis:]
    precise = _accumulation(x, stash_type)
    if precise == x.dtype and scale.shape == shape:
        return F.rms_norm(x, shape, scale, epsilon)
    return F.rms_norm(x.to(precise), shape, None, epsilon).to(x.dtype) * scale


def relate_trailing_norm(node: Node) -> Relation:
    """Every dimension goes through and ties what scale and bias have of it; statistics have the leading ones."""
    shape = node.operand(0).shape
    if shape is None:
        return Relation()
    names = [f"d{i}" for i in range(len(shape))]
    first = min(trailing_statistics(node), default=len(shape))

    def trailing(index: int) -> str:
        value = node.input(index)
        if value is None or value.shape is None:
            return "-"
        tail = names[len(names) - len(value.shape) :]
        return " ".join("_" if extent == 1 else name for name, extent in zip(tail, value.shape, strict=True))

    whole, statistics = " ".join(names), " ".join([*names[:first], *["_"] * (len(names) - first)])
    second = "" if node.op == "RMSNormalization" else f", {trailing(2)}"
    return labels(node, f"{whole}, {trailing(1)}{second} -> {whole}, {statistics}, {statistics}")


# -- the others


def lp_norm(x: torch.Tensor, *, axis: int = -1, p: int = 2) -> torch.Tensor:
    """ONNX LpNormalization: divides by the p-norm along `axis`; zero where that is zero."""
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


def lp_statistics(node: Node) -> tuple[int, ...]:
    """The dimension whose norm is taken."""
    x = node.operand(0)
    return () if x.rank is None else (normalise_axis(attribute(node, "axis"), x.rank, node),)


def relate_all(node: Node) -> Relation:
    """Every dimension goes through."""
    return labels(node, "... -> ...")


def mean_variance_norm(x: torch.Tensor, *, axes: Sequence[int] = (0, 2, 3)) -> torch.Tensor:
    """ONNX MeanVarianceNormalization: ``(x - mean) / (deviation + 1e-9)`` over `axes`."""
    var, mean = torch.var_mean(x, list(axes), correction=0, keepdim=True)
    return (x - mean) / (var.sqrt() + 1e-9)


def mean_variance_statistics(node: Node) -> tuple[int, ...]:
    """The dimensions named by `axes`."""
    rank = node.operand(0).rank
    return () if rank is None else tuple(normalise_axis(a, rank, node) for a in attribute(node, "axes"))


def lrn(x: torch.Tensor, *, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0, size: int) -> torch.Tensor:
    """ONNX LRN: ``x / (bias + alpha / size * s) ** beta`` for x [N, C, ...]; s sums squares of `size` channels."""
    before, after = (size - 1) // 2, size // 2
    squares = F.pad(x.square().movedim(1, -1), (before, after)).unfold(-1, size, 1).sum(-1)
    return x / (bias + alpha / size * squares.movedim(-1, 1)) ** beta


def relate_lrn(node: Node) -> Relation:
    """Channels are frozen: each is divided by its neighbours."""
    return labels(node, "n !c ... -> n !c ...", reasons={"c": "LRN divides channels by their neighbours"})


register(
    Operator("BatchNormalization", infer_batch_norm, batch_norm, relate_batch_norm, normalises=batch_norm_statistics),
    Operator(
        "InstanceNormalization", infer_channel_norm, instance_norm, relate_instance_norm,
        normalises=instance_norm_statistics,
    ),
    Operator("GroupNormalization", infer_group_norm, group_norm, relate_group_norm, normalises=group_norm_statistics),
    Operator("LayerNormalization", infer_layer_norm, layer_norm, relate_trailing_norm, normalises=trailing_statistics),
    Operator("RMSNormalization", infer_rms_norm, rms_norm, relate_trailing_norm, normalises=trailing_statistics),
    Operator("LpNormalization", same_as(0), lp_norm, relate_all, normalises=lp_statistics),
    Operator(
        "MeanVarianceNormalization", same_as(0), mean_variance_norm, relate_all, normalises=mean_variance_statistics
    ),
    Operator("LRN", same_as(0), lrn, relate_lrn),
)  # fmt: skip

__all__ = ["batch_norm", "group_norm", "infer_batch_norm", "instance_norm", "layer_norm", "rms_norm"]
