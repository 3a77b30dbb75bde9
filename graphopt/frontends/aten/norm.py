"""Normalisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphopt.frontends.aten.builder import Builder, rank_of, require, shape_of, static
from graphopt.frontends.aten.registry import NoConversion, converts
from graphopt.ir import Shape, Value


def _filled(c: Builder, given: Value | None, number: float, like: Value, extents: Shape) -> Value:
    """An affine parameter, or the constant that leaves everything as it is."""
    if given is not None:
        return given
    return c.constant(torch.full([static(d) for d in extents], number, dtype=like.dtype.torch))


@converts("aten.batch_norm.default")
def batch_norm(
    c: Builder,
    input: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value | None,
    running_var: Value | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> Value:
    channels = shape_of(input)[1:2]
    scale, shift = _filled(c, weight, 1.0, input, channels), _filled(c, bias, 0.0, input, channels)
    if running_mean is not None and running_var is not None and not training:
        return c.emit(
            "BatchNormalization", input, scale, shift, running_mean, running_var,
            epsilon=float(eps), momentum=1 - momentum,
        )  # fmt: skip
    require(running_mean is None, "batch statistics that are also recorded")
    mean, var = _filled(c, None, 0.0, input, channels), _filled(c, None, 1.0, input, channels)
    results = c.emit_many(
        "BatchNormalization", [input, scale, shift, mean, var], 3, epsilon=float(eps), training_mode=1
    )
    # ONNX requires all three outputs, and one without a name would be left out.
    for result, name in zip(results, ("normalised", "mean", "variance"), strict=True):
        result.name = name
    return results[0]


@converts("aten._native_batch_norm_legit_no_training.default")
def native_batch_norm(
    c: Builder,
    input: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    var: Value,
    momentum: float,
    eps: float,
) -> tuple[Value | None, ...]:
    return batch_norm(c, input, weight, bias, mean, var, False, momentum, eps), None, None


@converts("aten.layer_norm.default")
def layer_norm(
    c: Builder,
    input: Value,
    normalized_shape: Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Value:
    count = len(normalized_shape)
    scale = _filled(c, weight, 1.0, input, shape_of(input)[-count:])
    return c.emit("LayerNormalization", input, scale, bias, axis=-count, epsilon=float(eps))


@converts("aten.native_layer_norm.default")
def native_layer_norm(
    c: Builder, input: Value, normalized_shape: Sequence[int], weight: Value | None, bias: Value | None, eps: float
) -> tuple[Value, ...]:
    count = len(normalized_shape)
    scale = _filled(c, weight, 1.0, input, shape_of(input)[-count:])
    y, mean, inverse = c.emit_many(
        "LayerNormalization", [input, scale, bias], 3, axis=-count, epsilon=float(eps)
    )  # fmt: skip
    return y, mean, inverse


@converts("aten.rms_norm.default")
def rms_norm(
    c: Builder, input: Value, normalized_shape: Sequence[int], weight: Value | None = None, eps: float | None = None
) -> Value:
    count = len(normalized_shape)
    scale = _filled(c, weight, 1.0, input, shape_of(input)[-count:])
    epsilon = torch.finfo(input.dtype.torch).eps if eps is None else float(eps)
    return c.emit("RMSNormalization", input, scale, axis=-count, epsilon=epsilon)


@converts("aten.group_norm.default")
def group_norm(
    c: Builder,
    input: Value,
    num_groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Value:
    channels = shape_of(input)[1:2]
    x = c.unsqueeze(input, 2) if rank_of(input) == 2 else input
    scale, shift = _filled(c, weight, 1.0, input, channels), _filled(c, bias, 0.0, input, channels)
    y = c.emit("GroupNormalization", x, scale, shift, num_groups=num_groups, epsilon=float(eps))
    return y if x is input else c.squeeze(y, 2)


@converts("aten.instance_norm.default")
def instance_norm(
    c: Builder,
    input: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value | None,
    running_var: Value | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Value:
    channels = shape_of(input)[1:2]
    if not use_input_stats:
        return batch_norm(c, input, weight, bias, running_mean, running_var, False, momentum, eps)
    if running_mean is not None:
        raise NoConversion("instance statistics that are also recorded")
    scale, shift = _filled(c, weight, 1.0, input, channels), _filled(c, bias, 0.0, input, channels)
    return c.emit("InstanceNormalization", input, scale, shift, epsilon=float(eps))
