"""Which nodes run on integers: the cheapest assignment of a whole graph, as a minimum cut.

Every unit (a node and what its kernel absorbs) is on integers or in float. Either has a cost; so has every value whose
producer and readers differ, once for all its readers. Such a sum of costs of labels and of differing neighbours is
minimised exactly by a minimum cut (Greig, Porteous, Seheult 1989): the source's side is on integers. Islands that do
not pay for their borders fall to float by themselves, and slow kernels stay where leaving and coming back costs more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from graphopt.analysis.cost import UNIT
from graphopt.ir import Graph, Node, Value
from graphopt.passes.quantize.profit import InUse, nanoseconds
from graphopt.targets import OperatorRule, Target

_SOURCE, _SINK = 0, 1
_INFINITE = 1 << 30  # scipy's flows are int32
_WHOLE = 1 << 28


@dataclass(frozen=True, eq=False)
class Unit:
    """A node that can run on integers, and what its kernel absorbs.

    Attributes:
        node: the node.
        rule: the target's rule for it.
        results: what leaves the unit.
        writes_floats: its integer kernel can leave the results float.
    """

    node: Node
    rule: OperatorRule
    results: tuple[Value, ...]
    writes_floats: bool = False

    def activations(self) -> list[Value]:
        """What it reads that has to be quantized, other than weights."""
        named = enumerate(self.node.inputs)
        return [v for i, v in named if v is not None and self.rule.input_role(i, v) == "activation"]


@dataclass(frozen=True)
class Assignment:
    """The cheapest assignment.

    Attributes:
        integer: units that run on integers.
        float_ns: modelled time of all units when everything is float.
        chosen_ns: modelled time of all units and borders as assigned.
    """

    integer: list[Unit]
    float_ns: float
    chosen_ns: float


@dataclass
class _Network:
    tails: list[int] = field(default_factory=list)
    heads: list[int] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    size: int = 2

    def vertex(self) -> int:
        self.size += 1
        return self.size - 1

    def edge(self, tail: int, head: int, cost: float) -> None:
        """Costs `cost` when `tail` is on the source's side and `head` is not."""
        if cost > 0:
            self.tails.append(tail)
            self.heads.append(head)
            self.costs.append(cost)

    def source_side(self) -> tuple[set[int], float]:
        """The vertices on the source's side of the minimum cut (the smallest such set), and its cost."""
        costs = np.array(self.costs)
        finite = costs[np.isfinite(costs)]
        unit = max(float(finite.sum()) / _WHOLE, 1e-3) if len(finite) else 1.0
        scaled = np.where(np.isfinite(costs), np.minimum(costs / unit, _WHOLE), _INFINITE).round().astype(np.int64)
        summed = csr_array(coo_array((scaled, (self.tails, self.heads)), shape=(self.size, self.size)))
        summed.sum_duplicates()
        capacities = csr_array(
            (np.minimum(summed.data, _INFINITE).astype(np.int32), summed.indices, summed.indptr), shape=summed.shape
        )
        flow = maximum_flow(capacities, _SOURCE, _SINK)
        residual = csr_array(capacities - flow.flow)
        residual.data = np.maximum(residual.data, 0)
        residual.eliminate_zeros()
        reached = breadth_first_order(residual, _SOURCE, return_predecessors=False)
        return {int(vertex) for vertex in reached}, float(flow.flow_value) * unit


def cheapest(graph: Graph, units: Sequence[Unit], target: Target, sizes: Mapping[str, int] = UNIT) -> Assignment:
    """Assigns every unit to integers or floats so that the modelled time of the graph is least; float when equal.

    Args:
        graph: the graph.
        units: what can be on integers.
        target: whose costs count.
        sizes: sizes of named dimensions; 1 by default.
    """
    network = _Network()
    vertices = {unit: network.vertex() for unit in units}
    float_ns = 0.0
    shaped = InUse(graph, sizes)
    for unit, vertex in vertices.items():
        terms, cost = shaped.terms(unit.node), unit.rule.cost_of(unit.node)
        in_float = nanoseconds(cost.floats, terms)
        float_ns += in_float
        network.edge(_SOURCE, vertex, in_float)
        in_integers = nanoseconds(cost.integers, terms) + nanoseconds(unit.rule.apart(unit.node), terms)
        network.edge(vertex, _SINK, in_integers)
    producers = {value: unit for unit in units for value in unit.results}
    for value, readers in _readers(units, producers):
        _add_borders(network, value, producers.get(value), readers, vertices, target, shaped)
    integer, chosen_ns = network.source_side()
    return Assignment([unit for unit in units if vertices[unit] in integer], float_ns, chosen_ns)


def _readers(units: Sequence[Unit], producers: dict[Value, Unit]) -> Iterator[tuple[Value, list[Unit]]]:
    """Every value that a unit makes or reads as an activation, with the units that so read it."""
    readers: dict[Value, list[Unit]] = {value: [] for value in producers}
    for unit in units:
        for value in unit.activations():
            if not value.is_constant:
                readers.setdefault(value, []).append(unit)
    yield from readers.items()


def _add_borders(
    network: _Network,
    value: Value,
    producer: Unit | None,
    readers: Sequence[Unit],
    vertices: dict[Unit, int],
    target: Target,
    shaped: InUse,
) -> None:
    made_by = _SINK if producer is None else vertices[producer]
    reading = {unit.node for unit in readers}
    only_units = all(use.user in reading for use in value.uses)
    follows = producer is not None and producer.rule.role == "passthrough" and target.passthrough_follows_readers
    if readers:
        entry = network.vertex()  # on integers when any reader is
        held = follows and only_units
        network.edge(entry, made_by, float("inf") if held else shaped.border_cost(target.quantize, value))
        for reader in readers:
            network.edge(vertices[reader], entry, float("inf"))
            entering = reader.rule.cost_of(reader.node).entering
            network.edge(vertices[reader], made_by, nanoseconds(entering, shaped.terms(reader.node)))
    if producer is None or producer.writes_floats:
        return
    leaving = network.vertex()  # in float when any reader is
    network.edge(made_by, leaving, shaped.border_cost(target.dequantize, value))
    for reader in readers:
        network.edge(leaving, vertices[reader], float("inf"))
    if not only_units:
        network.edge(leaving, _SINK, float("inf"))
