"""The reference for pruning: the original graph with the removed channels' contributions zeroed.

It is computed from the original graph and the kept indices alone: every removed slice of a constant is zeroed, which
takes away what the channel adds anywhere downstream, and a normalisation whose statistics run over pruned channels is
restricted to the kept ones. The pruned graph and the coupling that led to it play no part, so both are put to the test.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from graphopt.ir import Graph, Node, Value
from graphopt.ops import DimRef, execute, record_of, zero_of
from graphopt.runtime.executor import bind_inputs, in_float64, run_in_float64
from graphopt.runtime.executor import run as run_graph

#: By name, for each dimension that lost indices, those that were kept.
Kept = Mapping[str, Mapping[int, Sequence[int]]]


def run_masked(
    graph: Graph, inputs: Sequence[Any] | Mapping[str, Any], kept: Kept, values: Kept, zeroed: Collection[str] = (),
    *, float64: bool = False,
) -> list[Any]:  # fmt: skip
    """Computes the masked original.

    Args:
        graph: the original graph; names of its values must be unique.
        inputs: as for `run`.
        kept: for constants, by name.
        values: for the inputs of normalisations over pruned channels, by name.
        zeroed: names of values that are zero as a whole (the branches of removed blocks).
        float64: compute in float64 what is float32.
    """
    outputs = _Masked(graph, inputs, kept, values, zeroed, float64=float64).run()
    if all(_is_finite(each) for each in outputs):
        return outputs
    # Zero is no argument of Log, Reciprocal or Div: what became infinite on the way is no contribution either.
    finite: set[Value] = set()

    def note(node: Node, results: tuple[Any, ...]) -> tuple[Any, ...]:
        finite.update(value for value, each in zip(node.outputs, results, strict=False) if _is_finite(each))
        return results

    run_graph(graph, inputs, hook=note)
    return _Masked(graph, inputs, kept, values, zeroed, finite, float64).run()


def _is_finite(tensor: Any) -> bool:
    return not isinstance(tensor, torch.Tensor) or bool(torch.isfinite(tensor).all())


class _Masked:
    """One run of the masked original; values in `finite` have their infinite elements replaced by zero."""

    def __init__(
        self, graph: Graph, inputs: Sequence[Any] | Mapping[str, Any], kept: Kept, values: Kept,
        zeroed: Collection[str] = (), finite: Collection[Value] = (), float64: bool = False,
    ) -> None:  # fmt: skip
        self.run_graph = run_in_float64 if float64 else run_graph
        self.zeroed = frozenset(zeroed)
        self.graph, self.inputs, self.kept, self.values, self.finite = graph, inputs, kept, values, finite
        self.constants = {
            value: _zeroed(value.data, kept[value.name], _zero(value))
            for value in graph.constants
            if value.name in kept and value.data is not None
        }
        # A tensor is needed again only where a normalisation that is to be restricted reads it.
        self.wanted = {value for node in graph.nodes if self._dims(node) for value in node.inputs}
        self.tensors: dict[Value, Any] = {**self.constants, **bind_inputs(graph, inputs)}

    def run(self) -> list[Any]:
        return self.run_graph(self.graph, self.inputs, hook=self._adjust, constants=self.constants)

    def _dims(self, node: Node) -> dict[int, Sequence[int]]:
        """The pruned dimensions that the statistics of a normalisation run over, with what is kept of them."""
        record, source = record_of(node), node.input(0)
        if record is None or record.normalises is None or source is None or source.name not in self.values:
            return {}
        pruned = self.values[source.name]
        return {dim: pruned[dim] for dim in record.normalises(node) if dim in pruned}

    def _adjust(self, node: Node, results: tuple[Any, ...]) -> tuple[Any, ...]:
        dims, source = self._dims(node), node.input(0)
        if dims:
            results = _restricted(node, self.tensors, dims, results)
        elif node.op == "DequantizeLinear" and source in self.constants:
            # Zero stands for a number of its own where the zero point is another.
            results = (_zeroed(results[0], self.kept[source.name], torch.zeros(())),)
        pairs = [
            (value, torch.zeros_like(result) if value.name in self.zeroed else result)
            for value, result in zip(node.outputs, results, strict=False)
        ]
        if self.finite:
            pairs = [(v, torch.where(r.isfinite(), r, 0) if v in self.finite and r.is_floating_point() else r)
                     for v, r in pairs]  # fmt: skip
        self.tensors.update((value, result) for value, result in pairs if value in self.wanted)
        return tuple(result for _, result in pairs)


def _zero(value: Value) -> torch.Tensor:
    """What stands for zero in a constant: its zero points, where an operator reads it as quantized numbers."""
    known = (zero_of(user, at) for user, at in value.uses if isinstance(user, Node))
    return next((zero for zero in known if zero is not None), torch.zeros(()))


def _zeroed(data: torch.Tensor, kept: Mapping[int, Sequence[int]], zero: torch.Tensor) -> torch.Tensor:
    """`data` with `zero`, which broadcasts, at the indices that are not kept of some dimension."""
    stays = torch.ones([1] * data.dim(), dtype=torch.bool)
    for dim, indices in kept.items():
        line = torch.zeros(data.shape[dim], dtype=torch.bool)
        line[torch.as_tensor(indices, dtype=torch.long)] = True
        stays = stays & line.view([-1 if d == dim else 1 for d in range(data.dim())])
    return torch.where(stays, data, zero.to(data.dtype))


def _restricted(
    node: Node,
    tensors: Mapping[Value, Any],
    dims: Mapping[int, Sequence[int]],
    results: tuple[Any, ...],
) -> tuple[Any, ...]:
    """Runs a normalisation on the kept indices alone and puts zeros where the removed ones were."""
    along = _tied(node, dims)
    arguments: list[torch.Tensor | None] = []
    for value in node.inputs:
        if value is None:
            arguments.append(None)
            continue
        tensor = tensors.get(value, value.data)
        for dim in range(tensor.dim()):
            if (value, dim) in along:
                tensor = tensor.index_select(dim, torch.as_tensor(along[value, dim], dtype=torch.long))
        arguments.append(tensor)
    if any(each is not None and each.dtype is torch.float64 for each in arguments):
        arguments = [in_float64(each) for each in arguments]
    small = execute(Node(node.op, (), _attributes(node, dims), domain=node.domain), arguments)
    full = []
    chosen = _positions(node)
    for position, (result, piece) in enumerate(zip(results, small, strict=False)):
        if position in chosen:  # among the kept ones; told as an index of all
            piece = torch.as_tensor(dims[chosen[position]], dtype=piece.dtype)[piece]
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


def _tied(node: Node, dims: Mapping[int, Sequence[int]]) -> dict[DimRef, Sequence[int]]:
    """What is kept of these dimensions of input 0, and of all dimensions of the operands that run along them."""
    record, source = record_of(node), node.operand(0)
    found = {(source, dim): indices for dim, indices in dims.items()}
    relation = record.relate(node) if record is not None and record.relate is not None else None
    if relation is None:
        return found
    kept = {relation.axes[ref]: indices for ref, indices in found.items() if relation.axes.get(ref)}
    return found | {ref: kept[axes] for ref, axes in relation.axes.items() if axes in kept}


def _positions(node: Node) -> dict[int, int]:
    """The outputs whose elements are indices of a dimension of input 0, with that dimension."""
    record = record_of(node)
    relation = record.relate(node) if record is not None and record.relate is not None else None
    found = {} if relation is None else relation.positions
    return {i: found[value][1] for i, value in enumerate(node.outputs) if value in found}


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
