"""What a graph costs when a number of components of each group is gone, without rewriting it.

The components of a group touch the same factors equally often, so numbers of components are enough: a factor keeps
``size - multiplicity * removed`` indices, an extent the product of what its factors keep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.analysis.cost import UNIT, at_sizes, is_weight, node_cost, sized
from graphopt.analysis.coupling import ChannelCoupling, Group
from graphopt.analysis.coupling.atoms import Factor
from graphopt.ir import Dim, Node, Value
from graphopt.ops import record_of


class PredictedCost:
    """Parameters, bytes and multiply-accumulates as functions of how many components each group loses.

    Args:
        coupling: of the graph, which stays as it is.
        groups: the groups that may lose components.
        sizes: sizes of named dimensions; the others count as 1, as in `graphopt.analysis.cost`.
    """

    def __init__(self, coupling: ChannelCoupling, groups: Sequence[Group], sizes: Mapping[str, int] = UNIT) -> None:
        self.coupling = coupling
        self.groups = groups
        factors = [factor for row in coupling.atoms.factors for factor in row]
        self._sizes = np.array([factor.size for factor in factors], dtype=np.int64)
        lengths = [len(row) for row in coupling.atoms.factors]
        self._starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64) if lengths else np.zeros(0, int)
        self._loss = self._multiplicities(factors)
        self._fixed, self._dims, self._bits = self._constants()
        self._layers = _Layers(coupling, {f.extent for group in groups for f in group.factors}, sizes)

    def _multiplicities(self, factors: Sequence[Factor]) -> np.ndarray:
        """[factors, groups]: indices of a factor that go with one component of a group."""
        group_of = np.full(self.coupling.atoms.components, -1)
        for k, group in enumerate(self.groups):
            group_of[group.components] = k
        owner = np.repeat(np.arange(len(factors)), self._sizes)
        hits = group_of[self.coupling.atoms.component]
        table = np.zeros((len(factors), len(self.groups)))
        np.add.at(table, (owner[hits >= 0], hits[hits >= 0]), 1)
        lengths = np.array([len(group) for group in self.groups])
        return table / np.maximum(lengths, 1) if len(lengths) else table

    def _constants(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the weights: elements in their fixed dimensions; their extents, padded by the number of extents; bits."""
        none = len(self.coupling.extents.sizes)

        def of(value: Value, dim: int) -> int:
            extent = self.coupling.extents.of(value, dim)
            return none if extent is None else extent

        weights = [v for scope in self.coupling.graph.graphs() for v in scope.constants if is_weight(v) and v.uses]
        fixed, rows = [], []
        for value in weights:
            shape = [d if isinstance(d, int) else 0 for d in value.shape or ()]
            extents = [of(value, dim) for dim in range(len(shape))]
            fixed.append(int(np.prod([s for s, e in zip(shape, extents, strict=True) if e == none], dtype=np.int64)))
            rows.append(extents)
        width = max((len(row) for row in rows), default=0)
        dims = np.array([row + [none] * (width - len(row)) for row in rows], dtype=np.int64).reshape(len(rows), width)
        bits = np.array([value.dtype.bits for value in weights], dtype=np.int64)
        return np.array(fixed, dtype=np.int64), dims, bits

    def sizes(self, removed: np.ndarray) -> np.ndarray:
        """What is left of each extent."""
        kept = self._sizes - np.rint(self._loss @ removed).astype(np.int64)
        return np.multiply.reduceat(kept, self._starts) if len(kept) else kept

    def _elements(self, removed: np.ndarray) -> np.ndarray:
        padded = np.append(self.sizes(removed), 1)
        counts: np.ndarray = self._fixed * padded[self._dims].prod(1)
        return counts

    def params(self, removed: np.ndarray) -> float:
        """Elements of all weights."""
        return float(self._elements(removed).sum())

    def bytes(self, removed: np.ndarray) -> float:
        """Bytes of all weights, as stored."""
        return float((self._elements(removed) * self._bits // 8).sum())

    def macs(self, removed: np.ndarray) -> float:
        """Multiply-accumulates per sample."""
        return self._layers.macs(self.sizes(removed))


@dataclass(frozen=True)
class _StandIn:
    """A node like one of the graph's, whose operands can be given other shapes.

    Attributes:
        node: the stand-in.
        shapes: its operands, each with its shape now and the extent of each dimension (or none).
        attributes: attributes that state the size of an extent.
        macs: the record's rule.
    """

    node: Node
    shapes: list[tuple[Value, list[int], list[int | None]]]
    attributes: list[tuple[str, int]]
    macs: Callable[[Node], Dim]

    def count(self, sizes: np.ndarray) -> float:
        for value, shape, extents in self.shapes:
            new = [s if e is None else int(sizes[e]) for s, e in zip(shape, extents, strict=True)]
            value.type = value.tensor_type.with_shape(new)
        for name, extent in self.attributes:
            self.node.attributes[name] = int(sizes[extent])
        return _number(self.macs(self.node))


class _Layers:
    """The operators with multiply-accumulates; those that no removal reaches are counted once."""

    def __init__(self, coupling: ChannelCoupling, moving: set[int], sizes: Mapping[str, int]) -> None:
        self._constant = 0.0
        self._moving: list[_StandIn] = []
        shaped = at_sizes(coupling.graph, sizes) if sizes else coupling.graph
        for node, twin in zip(coupling.graph.walk(), shaped.walk(), strict=True):
            record = record_of(node)
            if record is None or record.macs is None:
                continue
            operands = [*(v for v in node.inputs if v is not None), *node.outputs]
            if any(coupling.extents.of(v, dim) in moving for v in operands for dim in range(v.rank or 0)):
                self._moving.append(_stand_in(node, twin, coupling, record.macs, sizes))
            else:
                self._constant += node_cost(twin, sizes).macs or 0

    def macs(self, sizes: np.ndarray) -> float:
        return self._constant + sum(each.count(sizes) for each in self._moving)


def _stand_in(
    node: Node, shaped: Node, coupling: ChannelCoupling, macs: Callable[[Node], Dim], sizes: Mapping[str, int]
) -> _StandIn:
    """A stand-in for `node`; `shaped` is the same node in a graph of these sizes."""
    shapes: dict[Value, tuple[Value, list[int], list[int | None]]] = {}

    def copy(value: Value, like: Value | None) -> Value:
        if value not in shapes:
            shape = [_known(dim, sizes) for dim in (value if like is None else like).shape or ()]
            extents = [coupling.extents.of(value, dim) for dim in range(len(shape))]
            shapes[value] = Value(value.tensor_type), shape, extents
        return shapes[value][0]

    read = zip(node.inputs, shaped.inputs, strict=True)
    inputs = [None if value is None else copy(value, like) for value, like in read]
    twin = Node(node.op, inputs, dict(node.attributes), len(node.outputs), domain=node.domain)
    for mine, value, like in zip(twin.outputs, node.outputs, shaped.outputs, strict=True):
        copy(value, like)
        shapes[value] = mine, *shapes[value][1:]
    relation = coupling.extents.relations.get(node)
    stated = {} if relation is None else relation.attributes
    attributes = [
        (name, extent)
        for name, label in stated.items()
        if name in node.attributes and (extent := coupling.extents.of_label(node, label)) is not None
    ]
    return _StandIn(twin, list(shapes.values()), attributes, macs)


def _known(dim: Dim, sizes: Mapping[str, int]) -> int:
    """A size, with 1 for what is not known."""
    bound = sized(dim, sizes)
    return 1 if bound is None else bound


def _number(count: Dim) -> float:
    return float(count) if isinstance(count, int) else 0.0
