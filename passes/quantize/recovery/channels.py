"""Channels that can be rescaled: divided where they are made, multiplied where they are read, with the same result.

A group is a set of values with the same channels, between the layers that make them and the layers that read them. What
lies between must pass positive factors through, which operators' records say (`homogeneous`), additions excepted: they
tie all that they add. Whatever else reads or makes a value of the group blocks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from graphopt.ir import Graph, Node, Value
from graphopt.ops import record_of
from graphopt.passes.quantize.recovery.layers import Layer, layer_of

_SUMS = ("Add", "Sub", "Sum")


@dataclass(frozen=True)
class Slot:
    """A constant that takes factors in.

    Attributes:
        value: the constant.
        spread: shapes factors [C] so that they broadcast against the constant.
    """

    value: Value
    spread: Callable[[torch.Tensor], torch.Tensor]

    def scale(self, factors: torch.Tensor) -> None:
        """Multiplies the constant by factors [C], float64."""
        assert self.value.data is not None, "slots hold constants"
        data = self.value.data
        self.value.data = (data.detach().double() * self.spread(factors)).to(data.dtype)


@dataclass
class ChannelGroup:
    """Values that share rescalable channels.

    Attributes:
        size: number of channels, C.
        values: the values, each with the dimension of its channels.
        makers: layers whose outputs are in the group.
        readers: layers that read values of the group.
        divided: constants to divide by the factors (all that makers add and multiply by).
        multiplied: weights of the readers, to multiply by the factors.
    """

    size: int
    values: dict[Value, int] = field(default_factory=dict)
    makers: list[Layer] = field(default_factory=list)
    readers: list[Layer] = field(default_factory=list)
    divided: list[Slot] = field(default_factory=list)
    multiplied: list[Slot] = field(default_factory=list)

    def rescale(self, factors: torch.Tensor) -> None:
        """Divides the group's values by factors [C] (float64, positive); the graph computes what it did."""
        for slot in self.divided:
            slot.scale(1 / factors)
        for slot in self.multiplied:
            slot.scale(factors)


def channel_groups(graph: Graph) -> Iterator[ChannelGroup]:
    """Every group of the outermost graph that some layer reads and nothing blocks, in topological order."""
    seen: set[Value] = set()
    for node in graph.nodes:
        layer = layer_of(node)
        if layer is None or node.operand(0) in seen:
            continue
        flood = _Flood(layer)
        group = flood.run()
        seen.update(flood.visited)
        if group is not None:
            yield group


class _Blocked(Exception):
    """Something in reach of a group does not let factors through."""


class _Flood:
    """Collects the group around what a layer reads."""

    def __init__(self, layer: Layer) -> None:
        self.start = layer
        self.visited: dict[Value, int] = {}
        self.waiting: list[Value] = []
        self.group = ChannelGroup(layer.linear.channels_in)

    def run(self) -> ChannelGroup | None:
        """The group, or ``None`` when it is blocked."""
        try:
            self._reach(self.start.node.operand(0), axis_in(self.start))
            while self.waiting:
                value = self.waiting.pop()
                self._look_back(value, self.visited[value])
                for use in value.uses:
                    if not isinstance(use.user, Node):
                        raise _Blocked
                    self._look_ahead(value, self.visited[value], use.user, use.index)
        except _Blocked:
            return None
        self.group.values = dict(self.visited)
        return self.group

    def _reach(self, value: Value, dim: int) -> None:
        if value in self.visited:
            if self.visited[value] != dim:
                raise _Blocked
            return
        if value.is_constant or not value.dtype.is_float or value.shape is None or value.shape[dim] != self.group.size:
            raise _Blocked
        self.visited[value] = dim
        self.waiting.append(value)

    def _look_back(self, value: Value, dim: int) -> None:
        node = value.producer
        if node is None or value is not node.outputs[0]:
            raise _Blocked
        layer, record = layer_of(node), record_of(node)
        if layer is not None:
            self._made_by(layer, dim)
        elif record is None:
            raise _Blocked
        elif record.homogeneous:
            self._reach(node.operand(0), _counterpart(node, value, dim, node.operand(0)))
        elif record.normalises is not None and len(node.inputs) > 1:
            for parameter in node.inputs[1:3]:
                if parameter is not None:
                    self._divide(parameter, (parameter.rank or 0) - 1 - _counterpart(node, value, dim, parameter))
        elif node.op in _SUMS and not node.domain:
            for operand in node.inputs:
                self._add(operand, value, dim)
        else:
            self._reach(_scaled(node), dim)

    def _look_ahead(self, value: Value, dim: int, node: Node, index: int) -> None:
        layer, record = layer_of(node), record_of(node)
        if layer is not None:
            if index != 0 or dim != axis_in(layer):
                raise _Blocked
            self.group.readers.append(layer)
            self.group.multiplied.append(Slot(layer.weight, layer.linear.spread_in))
        elif record is None:
            raise _Blocked
        elif record.homogeneous and index == 0:
            self._reach(node.outputs[0], _counterpart(node, value, dim, node.outputs[0]))
        elif (node.op in _SUMS and not node.domain) or _scaled(node) is value:
            self._reach(node.output, dim - (value.rank or 0) + (node.output.rank or 0))
        else:
            raise _Blocked

    def _made_by(self, layer: Layer, dim: int) -> None:
        if dim != layer.linear.axis or (layer.linear.bias is not None and len(layer.linear.bias.uses) != 1):
            raise _Blocked
        self.group.makers.append(layer)
        self.group.divided.append(Slot(layer.weight, layer.linear.spread_out))
        if layer.linear.bias is not None:
            self.group.divided.append(Slot(layer.linear.bias, lambda factors: factors))

    def _add(self, operand: Value | None, result: Value, dim: int) -> None:
        if operand is None or operand.rank is None or result.rank is None:
            raise _Blocked
        behind = result.rank - 1 - dim
        if operand.is_constant:
            self._divide(operand, behind)
        else:
            self._reach(operand, operand.rank - 1 - behind)

    def _divide(self, constant: Value, behind: int) -> None:
        """Has a constant divided that has `behind` dimensions after that of the channels."""
        if not constant.is_constant or constant.data is None or len(constant.uses) != 1:
            raise _Blocked
        self.group.divided.append(Slot(constant, lambda factors: factors.reshape(-1, *[1] * behind)))


def _scaled(node: Node) -> Value:
    """What a product is proportional to: the factor of the product's own shape that is not constant, if it is one.

    Of two such factors (a gated unit) it is the first; the other, the gate, must then not be in the group.
    """
    if node.op not in ("Mul", "Div") or node.domain or node.operand(0) is node.operand(1):
        raise _Blocked
    candidates = [v for v in node.inputs[: 1 if node.op == "Div" else 2] if v is not None and not v.is_constant]
    whole = next((v for v in candidates if v.shape == node.output.shape), None)
    if whole is None:
        raise _Blocked
    return whole


def axis_in(layer: Layer) -> int:
    """Dimension of the channels in what a layer reads."""
    return 1 if layer.linear.is_convolution else (layer.node.operand(0).rank or 0) - 1


def counterpart(node: Node, value: Value, dim: int, other: Value) -> int | None:
    """The dimension of `other` that is tied, as a whole, to dimension `dim` of `value`, if there is one."""
    record = record_of(node)
    relation = record.relate(node) if record is not None and record.relate is not None else None
    axes = relation.axes.get((value, dim)) if relation is not None else None
    if relation is None or not axes:
        return None
    tied = (candidate for (operand, candidate), found in relation.axes.items() if operand is other and found == axes)
    return next(tied, None)


def _counterpart(node: Node, value: Value, dim: int, other: Value) -> int:
    found = counterpart(node, value, dim, other)
    if found is None:
        raise _Blocked
    return found
