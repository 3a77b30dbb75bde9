"""The reference for pruning: the original graph with the removed channels' contributions zeroed.

It is computed from the original graph and the kept indices alone: every removed slice of a constant is zeroed, which
takes away what the channel adds anywhere downstream, and a normalisation whose statistics run over pruned channels is
restricted to the kept ones. The pruned graph and the coupling that led to it play no part, so both are put to the test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from graphopt.ir import Graph, Node, Value
from graphopt.ops import execute, record_of
from graphopt.runtime.executor import bind_inputs
from graphopt.runtime.executor import run as run_graph

#: By name, for each dimension that lost indices, those that were kept.
Kept = Mapping[str, Mapping[int, Sequence[int]]]


def run_masked(graph: Graph, inputs: Sequence[Any] | Mapping[str, Any], kept: Kept, values: Kept) -> list[Any]:
    """Computes the masked original.

    Args:
        graph: the original graph; names of its values must be unique.
        inputs: as for `run`.
        kept: for constants, by name.
        values: for the inputs of normalisations over pruned channels, by name.
    """
    constants = {
        value: _zeroed(value.data, kept[value.name])
        for value in graph.constants
        if value.name in kept and value.data is not None
    }
    tensors: dict[Value, Any] = {**constants, **bind_inputs(graph, inputs)}

    def restrict(node: Node, results: tuple[Any, ...]) -> tuple[Any, ...]:
        record = record_of(node)
        source = node.input(0)
        if record is not None and record.normalises is not None and source is not None:
            dims = [d for d in record.normalises(node) if d in values.get(source.name, {})]
            if dims:
                results = _restricted(node, tensors, {d: values[source.name][d] for d in dims}, results, kept)
        for value, result in zip(node.outputs, results, strict=False):
            tensors[value] = result
        return results

    return run_graph(graph, inputs, hook=restrict, constants=constants)


def _zeroed(data: torch.Tensor, kept: Mapping[int, Sequence[int]]) -> torch.Tensor:
    mask = torch.ones([1] * data.dim(), dtype=torch.bool)
    for dim, indices in kept.items():
        line = torch.zeros(data.shape[dim], dtype=torch.bool)
        line[torch.as_tensor(indices, dtype=torch.long)] = True
        mask = mask & line.view([-1 if d == dim else 1 for d in range(data.dim())])
    return torch.where(mask, data, torch.zeros((), dtype=data.dtype))


def _restricted(
    node: Node,
    tensors: Mapping[Value, Any],
    dims: Mapping[int, Sequence[int]],
    results: tuple[Any, ...],
    kept: Kept,
) -> tuple[Any, ...]:
    """Runs a normalisation on the kept indices alone and puts zeros where the removed ones were."""
    arguments: list[torch.Tensor | None] = []
    for position, value in enumerate(node.inputs):
        if value is None:
            arguments.append(None)
            continue
        tensor = tensors.get(value, value.data)
        for dim, indices in (dims if position == 0 else kept.get(value.name, {})).items():
            tensor = tensor.index_select(dim, torch.as_tensor(indices, dtype=torch.long))
        arguments.append(tensor)
    small = execute(Node(node.op, (), _attributes(node, dims), domain=node.domain), arguments)
    full = []
    for result, piece in zip(results, small, strict=False):
        if piece.shape == result.shape:
            full.append(piece)
            continue
        target = torch.zeros_like(result)
        index: list[Any] = [torch.arange(n) for n in result.shape]
        for dim, indices in dims.items():
            index[dim] = torch.as_tensor(indices, dtype=torch.long)
        target[torch.meshgrid(*index, indexing="ij")] = piece
        full.append(target)
    return tuple(full)


def _attributes(node: Node, dims: Mapping[int, Sequence[int]]) -> dict[str, Any]:
    """The node's attributes, with those that state the size of an outer factor (groups) counted anew."""
    attributes = dict(node.attributes)
    record, source = record_of(node), node.operand(0)
    relation = record.relate(node) if record is not None and record.relate is not None else None
    if relation is None:
        return attributes
    for name, label in relation.attributes.items():
        for dim, indices in dims.items():
            axes = relation.axes.get((source, dim), ())
            if len(axes) == 2 and axes[0].label == label:
                attributes[name] = len({i // axes[1].size for i in indices})
    return attributes
