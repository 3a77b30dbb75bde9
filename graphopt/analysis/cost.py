"""Cost: multiply-accumulates, weights and bytes of a graph and of each of its nodes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from graphopt.ir import Dim, DType, Graph, Node, Value
from graphopt.ir import dims as D
from graphopt.ops import record_of

#: Named dimensions all of size 1: figures per sample.
UNIT: Mapping[str, int] = MappingProxyType({})

# Integers of these types are shapes, indices and masks, not weights.
_NOT_WEIGHTS = frozenset({DType.INT64, DType.BOOL, DType.STRING, DType.UNDEFINED})


@dataclass(frozen=True)
class NodeCost:
    """What one node costs; named dimensions count as 1, so figures are per sample.

    Attributes:
        macs: multiply-accumulates; ``None`` when shapes are not known, or the operator is not.
        weights: elements of the weights that it reads.
    """

    node: Node
    macs: int | None
    weights: int

    @property
    def bytes_read(self) -> int:
        """Bytes of all inputs."""
        return _bytes(value for value in self.node.inputs if value is not None)

    @property
    def bytes_written(self) -> int:
        """Bytes of all outputs."""
        return _bytes(self.node.outputs)


class Cost:
    """The cost of a graph.

    Named dimensions count as 1, so that the figures are per sample.

    Attributes:
        macs: multiply-accumulates of all nodes that are known, with their shapes.
        weights: elements of all weights that the graph reads, shared ones once.
        weight_bytes: their size as stored.
        unknown: nodes whose multiply-accumulates could not be told.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph_nodes = list(graph.walk())
        macs = [(node, _macs(node, UNIT)) for node in self._graph_nodes]
        self.macs = sum(count or 0 for _, count in macs)
        self.unknown = [node for node, count in macs if count is None]
        constants = (value for scope in graph.graphs() for value in scope.constants)
        sizes = [(_elements(value), value.dtype.bits) for value in constants if value.uses and is_weight(value)]
        self.weights = sum(elements for elements, _ in sizes)
        self.weight_bytes = sum(elements * bits // 8 for elements, bits in sizes)

    @property
    def count(self) -> int:
        """How many nodes there are, bodies included."""
        return len(self._graph_nodes)

    @cached_property
    def nodes(self) -> list[NodeCost]:
        """The cost of each node, bodies included; worked out when first asked for."""
        return [node_cost(node) for node in self._graph_nodes]

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
    return NodeCost(node, _macs(node, sizes), sum(_elements(value) for value in read if is_weight(value)))


def _macs(node: Node, sizes: Mapping[str, int]) -> int | None:
    record = record_of(node)
    if record is None:
        return None
    return 0 if record.macs is None else sized(record.macs(node), sizes)


def _elements(value: Value) -> int:
    count = value.tensor_type.numel
    return count if isinstance(count, int) else 0


def _bytes(values: Iterable[Value]) -> int:
    bits = 0
    for value in values:
        kind = value.tensor_type
        sizes = [sized(dim) for dim in kind.shape or ()]
        if kind.shape is not None and None not in sizes:
            bits += math.prod(size for size in sizes if size is not None) * kind.dtype.bits
    return bits // 8


def sized(dim: Dim, sizes: Mapping[str, int] = UNIT) -> int | None:
    """A dimension as a number: named ones have the size that `sizes` gives, or 1; ``None`` when it is unknown.

    It is unknown, too, where such sizes are too small for the graph: an unpadded window on a signal of one sample.
    """
    if dim is None or isinstance(dim, int):
        return dim
    bound = D.substitute(dim, {name: sizes.get(name, 1) for name in D.free_names(dim)})
    return bound if isinstance(bound, int) and bound >= 0 else None
