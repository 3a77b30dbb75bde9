"""Quantized constants: what the integers stand for that an operator multiplies."""

from __future__ import annotations

import torch

from graphopt.ir import Node, Value
from graphopt.ops.record import record_of


def zero_of(node: Node, position: int) -> torch.Tensor | None:
    """The zero points of a quantized input, in a shape that broadcasts against it.

    Returns:
        ``None`` for an input that is not quantized, or whose zero points are computed when the graph runs.
    """
    record = record_of(node)
    if record is None or position not in record.codes:
        return None
    _, zero = record.codes[position]
    return _along(node, position, zero, 0.0)


def real_values(node: Node, position: int) -> torch.Tensor | None:
    """What a quantized constant stands for, in float32: ``(codes - zero point) * scale``.

    An operator that reads no scale for the input (ConvInteger) gives it in units of the scale.

    Returns:
        ``None`` for an input that is not quantized, or of which not all is constant.
    """
    record = record_of(node)
    value = node.input(position)
    if record is None or position not in record.codes or value is None or value.data is None:
        return None
    scale = _along(node, position, record.codes[position][0], 1.0)
    zero = zero_of(node, position)
    return None if scale is None or zero is None else (value.data.float() - zero.float()) * scale.float()


def _along(node: Node, position: int, parameter: int | None, default: float) -> torch.Tensor | None:
    """Input `parameter`, its dimensions where those of input `position` are that its relation ties them to."""
    value, target = node.input(position), None if parameter is None else node.input(parameter)
    if target is None:
        return torch.tensor(default)
    if value is None or target.data is None:
        return None
    if target.data.numel() == 1:
        return target.data.reshape(())
    places = _places(node, value, target)
    if places is None:
        return None
    shape = [1] * (value.rank or 0)
    for dim, place in places.items():
        shape[place] = target.data.shape[dim]
    return target.data.reshape(shape)


def _places(node: Node, value: Value, target: Value) -> dict[int, int] | None:
    """For each dimension of `target` that is more than 1 the one of `value` that it runs along, ascending."""
    record = record_of(node)
    relation = record.relate(node) if record is not None and record.relate is not None else None
    if relation is None:
        return None
    of_axes = {axes: dim for dim in range(value.rank or 0) if (axes := relation.axes.get((value, dim)))}
    wide = [dim for dim, size in enumerate(target.shape or ()) if size != 1]
    found = {dim: of_axes.get(relation.axes.get((target, dim), ()), -1) for dim in wide}
    places = list(found.values())
    return None if -1 in places or places != sorted(set(places)) else found


__all__ = ["real_values", "zero_of"]
