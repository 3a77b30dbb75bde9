"""Cost: multiply-accumulates, weights and bytes of a graph and of each of its nodes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType

import torch

from graphopt.analysis.shapes import propagate
from graphopt.errors import GraphoptError
from graphopt.ir import Dim, DType, Graph, Node, TensorType, Value
from graphopt.ir import dims as D
from graphopt.ops import record_of

#: Named dimensions all of size 1: figures per sample.
UNIT: Mapping[str, int] = MappingProxyType({})

# Integers of these types are shapes, indices and masks, not weights.
_NOT_WEIGHTS = frozenset({DType.INT64, DType.BOOL, DType.STRING, DType.UNDEFINED})


@dataclass(frozen=True)
class NodeCost:
    """What one node costs.

    Attributes:
        macs: multiply-accumulates; ``None`` when shapes are not known, or the operator is not.
        weights: elements of the weights that it reads.
        sizes: sizes of named dimensions; the others count as 1, so that figures are per sample.
    """

    node: Node
    macs: int | None
    weights: int
    sizes: Mapping[str, int] = field(default_factory=dict, compare=False)

    @property
    def bytes_read(self) -> int:
        """Bytes of all inputs."""
        return _bytes((value for value in self.node.inputs if value is not None), self.sizes)

    @property
    def bytes_written(self) -> int:
        """Bytes of all outputs."""
        return _bytes(self.node.outputs, self.sizes)


class Cost:
    """The cost of a graph.

    Args:
        graph: the graph, its shapes known.
        sizes: sizes of named dimensions; the others count as 1, so that the figures are per sample.

    Attributes:
        macs: multiply-accumulates of all nodes that are known, with their shapes.
        weights: elements of all weights that the graph reads, shared ones once.
        weight_bytes: their size as stored.
        unknown: nodes whose multiply-accumulates could not be told.
    """

    def __init__(self, graph: Graph, sizes: Mapping[str, int] = UNIT) -> None:
        self._graph_nodes = list(graph.walk())
        self._sizes = sizes
        shaped = at_sizes(graph, sizes).walk() if sizes else self._graph_nodes
        macs = [(node, _macs(twin, sizes)) for node, twin in zip(self._graph_nodes, shaped, strict=True)]
        self._macs = dict(macs)
        self.macs = sum(count or 0 for _, count in macs)
        self.unknown = [node for node, count in macs if count is None]
        constants = (value for scope in graph.graphs() for value in scope.constants)
        weights = [(_elements(value), value.dtype.bits) for value in constants if value.uses and is_weight(value)]
        self.weights = sum(elements for elements, _ in weights)
        self.weight_bytes = sum(elements * bits // 8 for elements, bits in weights)

    @property
    def count(self) -> int:
        """How many nodes there are, bodies included."""
        return len(self._graph_nodes)

    @cached_property
    def nodes(self) -> list[NodeCost]:
        """The cost of each node, bodies included; worked out when first asked for."""
        return [replace(node_cost(node, self._sizes), macs=macs) for node, macs in self._macs.items()]

    @property
    def activation_bytes(self) -> int:
        """Bytes written by all nodes together, per sample."""
        return sum(cost.bytes_written for cost in self.nodes)


def is_weight(value: Value) -> bool:
    """True for a constant that holds numbers rather than shapes, indices or masks."""
    return value.is_constant and value.dtype not in _NOT_WEIGHTS


def node_cost(node: Node, sizes: Mapping[str, int] = UNIT) -> NodeCost:
    """The cost of one node; `sizes` gives named dimensions another size than 1."""
    read = dict.fromkeys(value for value in node.inputs if value is not None)
    return NodeCost(node, _macs(node, sizes), sum(_elements(value) for value in read if is_weight(value)), sizes)


def _macs(node: Node, sizes: Mapping[str, int]) -> int | None:
    record = record_of(node)
    if record is None:
        return None
    return 0 if record.macs is None else sized(record.macs(node), sizes)


def _elements(value: Value) -> int:
    count = value.tensor_type.numel
    return count if isinstance(count, int) else 0


def _bytes(values: Iterable[Value], sizes: Mapping[str, int]) -> int:
    bits = 0
    for value in values:
        kind = value.tensor_type
        extents = [sized(dim, sizes) for dim in kind.shape or ()]
        if kind.shape is not None and None not in extents:
            bits += math.prod(extent for extent in extents if extent is not None) * kind.dtype.bits
    return bits // 8


def at_sizes(graph: Graph, sizes: Mapping[str, int]) -> Graph:
    """A copy whose inputs have these sizes of named dimensions, the others 1, and all shapes that follow.

    Numbers show what expressions do not: that two are the same size, say, which a residual sum needs. A graph that such
    sizes do not fit is copied as it is.
    """
    twin = graph.clone()
    for value in twin.inputs:
        if isinstance(value.type, TensorType) and value.type.shape is not None:
            value.type = value.type.with_shape(sized(dim, sizes) for dim in value.type.shape)
    try:
        propagate(twin)
    except GraphoptError:
        return graph.clone()
    return twin


def named_sizes(inputs: Iterable[Value]) -> set[str]:
    """Names of the dimensions that one sample has: those of the inputs but the leading ones, which count samples."""
    shapes = [value.shape or () for value in inputs]
    leading = {name for shape in shapes for dim in shape[:1] for name in D.free_names(dim)}
    return {name for shape in shapes for dim in shape for name in D.free_names(dim)} - leading


def sample_sizes(inputs: Sequence[Value], tensors: Sequence[torch.Tensor]) -> dict[str, int]:
    """Sizes that the named dimensions of one sample have in a batch of tensors, given in the order of the inputs."""
    wanted = named_sizes(inputs)
    return {
        str(dim): size
        for value, tensor in zip(inputs, tensors, strict=True)
        for dim, size in zip(value.shape or (), tensor.shape, strict=False)
        if str(dim) in wanted
    }


def assumed_sizes(inputs: Iterable[Value], sizes: Mapping[str, int]) -> str:
    """Text of the dimensions of one sample that `sizes` does not tell ("height=1, width=1"); empty without any."""
    return ", ".join(f"{name}=1" for name in sorted(named_sizes(inputs) - sizes.keys()))


def sized(dim: Dim, sizes: Mapping[str, int] = UNIT) -> int | None:
    """A dimension as a number: named ones have the size that `sizes` gives, or 1; ``None`` when it is unknown.

    It is unknown, too, where such sizes are too small for the graph: an unpadded window on a signal of one sample.
    """
    if dim is None or isinstance(dim, int):
        return dim
    bound = D.substitute(dim, {name: sizes.get(name, 1) for name in D.free_names(dim)})
    return bound if isinstance(bound, int) and bound >= 0 else None
