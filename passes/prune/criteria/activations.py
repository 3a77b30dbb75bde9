"""Criteria from what flows through a graph: they need data, no labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from graphopt.ir import Node, Value
from graphopt.ops import Relation, execute, record_of
from graphopt.passes.prune.criteria.evidence import Evidence, weight_data
from graphopt.passes.prune.criteria.registry import criterion, flow_criterion

#: Operators that move a weight's elements and change none; a torch Linear reads its weight through Transpose.
_VIEWS = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten"})


@flow_criterion("activation")
def activation(value: Value, dim: int, evidence: Evidence) -> torch.Tensor | None:
    """Mean magnitude of what the next layers read."""
    found = evidence.activations.get((value, dim))
    return None if found is None else found.magnitude / found.count


@flow_criterion("apoz")
def apoz(value: Value, dim: int, evidence: Evidence) -> torch.Tensor | None:
    """Part of what the next layers read that is not zero (Hu et al., Network Trimming, 2016)."""
    found = evidence.activations.get((value, dim))
    return None if found is None else 1 - found.zeros / found.count


@criterion("wanda")
def wanda(weight: Value, evidence: Evidence) -> torch.Tensor | None:
    """Magnitude times the norm of the input that it meets (Sun et al., Wanda, ICLR 2024)."""
    data = weight_data(weight).abs()
    places = torch.arange(data.numel()).reshape(data.shape)
    scales = list(_input_norms(weight, places, evidence))
    return data * torch.stack(scales).sum(0).reshape(data.shape).to(data.dtype) if scales else None


def _input_norms(value: Value, places: torch.Tensor, evidence: Evidence) -> Iterator[torch.Tensor]:
    """For each layer that reads a weight the norms of the input that its elements meet, in the weight's own order.

    Args:
        value: the weight, or a view of it.
        places: where each element of `value` lies in the weight, flattened.
        evidence: with the norms.
    """
    for user in value.users:
        record = record_of(user)
        if record is None:
            continue
        if record.macs is not None:
            norm = _input_norm(user, value, evidence)
            if norm is not None:
                line = torch.zeros(places.numel(), dtype=norm.dtype)
                line[places.flatten()] = norm.flatten()
                yield line
            continue
        others = [each for each in user.inputs if each is not None and each is not value]
        if user.op in _VIEWS and all(each.data is not None for each in others):
            read = [places if each is value else None if each is None else each.data for each in user.inputs]
            (moved,) = execute(user, read)
            yield from _input_norms(user.output, moved, evidence)


def _input_norm(node: Node, weight: Value, evidence: Evidence) -> torch.Tensor | None:
    """The L2 norms of a layer's input channels, laid out as the weight that they meet."""
    record = record_of(node)
    relation = record.relate(node) if record is not None and record.relate is not None else None
    source = next((each for each in node.inputs if each is not None and not each.is_constant), None)
    if relation is None or source is None or source is weight:
        return None
    labels = {axis.label for dim in range(weight.rank or 0) for axis in relation.axes.get((weight, dim), ())}
    for dim in range(source.rank or 0):
        axes = relation.axes.get((source, dim), ())
        found = evidence.activations.get((source, dim))
        if found is None or not any(axis.label in labels for axis in axes):
            continue
        squares = found.squares.reshape([axis.size for axis in axes])
        others = [k for k, axis in enumerate(axes) if axis.label not in labels]
        squares = squares.sum(others) if others else squares
        return _spread(squares.sqrt(), [axis.label for axis in axes if axis.label in labels], weight, relation)
    return None


def _spread(grid: torch.Tensor, names: Sequence[str], weight: Value, relation: Relation) -> torch.Tensor:
    """`grid`, whose dimensions are the labels `names`, expanded to the shape of a weight with these labels."""
    own: list[tuple[str, int]] = []
    shape = [size for size in weight.shape or () if isinstance(size, int)]
    for dim, size in enumerate(shape):
        axes = relation.axes.get((weight, dim), ())
        own.extend([(axis.label, axis.size) for axis in axes] or [("", size)])
    order = sorted(range(len(names)), key=lambda k: [label for label, _ in own].index(names[k]))
    spread = grid.permute(order).reshape([size if label in names else 1 for label, size in own])
    return spread.expand([size for _, size in own]).reshape(shape)
