"""Loops that run a known number of rounds: none, one, or a few small ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from graphopt.analysis import propagate
from graphopt.ir import Graph, Node, Value
from graphopt.ir.inline import inline_copy
from graphopt.ops import attribute
from graphopt.ops.builder import Builder
from graphopt.ops.infer import static_integers
from graphopt.pipeline import Changes, Context, Pass, register
from graphopt.rewrite import replace


@register("unroll-loops")
@dataclass(frozen=True)
class UnrollLoops(Pass):
    """Replace a Loop or Scan whose number of rounds is known by copies of its body: none, one, or a few small ones.

    The rounds of a Loop are known when its limit is a constant and its condition cannot end it, or ends it at once;
    those of a Scan when the length of its sequences is. What a loop without rounds collects is empty, of a known shape.

    Attributes:
        nodes: most nodes that the copies of a body may have together; a single round is always taken out.
    """

    looks_for = frozenset({"Loop", "Scan"})
    nodes: int = 32

    def run(self, graph: Graph, context: Context) -> Changes:
        propagate(graph)
        counts = {"removed": 0, "unrolled": 0}
        # Inner loops first: what they become counts for the outer ones.
        for node in reversed([node for node in graph.walk() if not node.domain and node.op in self.looks_for]):
            loop = _LOOPS[node.op](node)
            size = sum(1 for _ in loop.body.walk())
            if loop.rounds is None or (loop.rounds > 1 and loop.rounds * size > self.nodes) or node.graph is None:
                continue
            if _unroll(loop, Builder(node.graph, node, node.origin.touched_by(self.name))):
                counts["unrolled" if loop.rounds else "removed"] += 1
        return Changes(any(counts.values()), counts)


@dataclass(frozen=True)
class _Loop:
    """A Loop or Scan, seen alike.

    Attributes:
        node, body: the loop.
        rounds: how often the body runs; ``None`` when that is not known.
        carried: what goes into the first round.
        arguments: what else a round gets: makes it, given the number of the round; those in front of what is carried,
            and those behind.
        first: position, among the outputs of the body, of the first that is carried.
        axes: along which each collected output is stacked.
        backwards: whether each is stacked from the last round to the first.
    """

    node: Node
    body: Graph
    rounds: int | None
    carried: list[Value]
    arguments: Callable[[Builder, int], tuple[list[Value], list[Value]]]
    first: int
    axes: Sequence[int] = ()
    backwards: Sequence[bool] = field(default_factory=tuple)


def _unroll(loop: _Loop, op: Builder) -> bool:
    """Replaces the loop; False when the type of something that it collects in no rounds is not known."""
    count = len(loop.carried)
    collected: list[list[Value]] = [[] for _ in loop.node.outputs[count:]]
    carried, constants = list(loop.carried), dict[Value, Value]()
    rows = loop.body.outputs[loop.first + count :]
    empty = [_empty(row, axis) for row, axis in zip(rows, loop.axes, strict=True)]
    wanted = [tensor for tensor, value in zip(empty, loop.node.outputs[count:], strict=True) if value.uses]
    if not loop.rounds and any(tensor is None for tensor in wanted):
        return False
    for number in range(loop.rounds or 0):
        before, behind = loop.arguments(op, number)
        results = inline_copy(loop.body, loop.node, [*before, *carried, *behind], constants)
        carried = results[loop.first : loop.first + count]
        for column, result in zip(collected, results[loop.first + count :], strict=True):
            column.append(result)
    made = [_own(op, old, new) for old, new in zip(loop.node.outputs, carried, strict=False)]
    for index, (value, column) in enumerate(zip(loop.node.outputs[count:], collected, strict=True)):
        if value.uses:
            made.append(_stacked(op, value, column, loop.axes[index], loop.backwards[index], empty[index]))
    old = [*loop.node.outputs[:count], *(value for value in loop.node.outputs[count:] if value.uses)]
    replace(old, made)
    if loop.node.graph is not None:  # nothing read it
        loop.node.graph.erase(loop.node)
    return True


def _own(op: Builder, old: Value, new: Value) -> Value:
    """`new`, or an Identity of it where a graph would return what it was given, or the same twice."""
    return op.Identity(new) if old.is_output and (new.producer is None or new.is_output) else new


def _empty(row: Value, axis: int) -> torch.Tensor | None:
    """What collects no rows; ``None`` when the type of a row is not known."""
    kind = row.tensor_type
    if not kind.is_static or kind.dtype.bits == 0:
        return None
    shape = [int(extent) for extent in kind.shape or () if isinstance(extent, int)]
    shape.insert(axis % (len(shape) + 1), 0)
    return torch.zeros(shape, dtype=kind.dtype.torch)


def _stacked(
    op: Builder, value: Value, column: list[Value], axis: int, backwards: bool, empty: torch.Tensor | None
) -> Value:
    if not column:
        assert empty is not None, "asked for before"
        return _own(op, value, op.constant(empty, dtype=value.dtype))
    parts = [op.Unsqueeze(each, [axis]) for each in (reversed(column) if backwards else column)]
    return parts[0] if len(parts) == 1 else op.Concat(*parts, axis=axis)


# -- Loop


def _loop(node: Node) -> _Loop:
    body: Graph = attribute(node, "body")
    carried = [node.operand(index) for index in range(2, len(node.inputs))]

    def arguments(op: Builder, number: int) -> tuple[list[Value], list[Value]]:
        return [op.constant(torch.tensor(number)), op.constant(torch.tensor(True))], []

    collected = len(node.outputs) - len(carried)
    return _Loop(node, body, _rounds(node, body), carried, arguments, 1, [0] * collected, [False] * collected)


def _rounds(node: Node, body: Graph) -> int | None:
    """How often a Loop runs its body, where that is known."""
    limit = static_integers(node.input(0)) if node.input(0) is not None else None
    start = True if node.input(1) is None else _truth(node.operand(1))
    if start is False or (limit is not None and limit[0] <= 0):
        return 0
    last = body.outputs[0]
    while last.producer is not None and last.producer.op == "Identity" and not last.producer.domain:
        last = last.producer.operand(0)
    goes_on = True if last is body.inputs[1] else _truth(last)
    if start is None or goes_on is None or (node.input(0) is not None and limit is None):
        return None
    if not goes_on:
        return 1
    return None if limit is None else limit[0]


def _truth(value: Value) -> bool | None:
    found = static_integers(value)
    return None if not found else bool(found[0])


# -- Scan


def _scan(node: Node) -> _Loop:
    body: Graph = attribute(node, "body")
    count = attribute(node, "num_scan_inputs")
    first = len(node.inputs) - count
    sequences = [node.operand(index) for index in range(first, len(node.inputs))]
    axes, turned = _list(node, "input_axes", count), _list(node, "input_directions", count)
    steps = [value.shape[axis] for value, axis in zip(sequences, axes, strict=True) if value.shape is not None]
    rounds = next((step for step in steps if isinstance(step, int)), None)

    def arguments(op: Builder, number: int) -> tuple[list[Value], list[Value]]:
        slices = []
        for value, axis, backwards in zip(sequences, axes, turned, strict=True):
            place = (rounds or 0) - 1 - number if backwards else number
            slices.append(op.Gather(value, op.constant(torch.tensor(place)), axis=axis))
        return [], slices

    collected = len(node.outputs) - first
    backwards = [bool(each) for each in _list(node, "output_directions", collected)]
    carried = [node.operand(index) for index in range(first)]
    return _Loop(node, body, rounds, carried, arguments, 0, _list(node, "output_axes", collected), backwards)


def _list(node: Node, name: str, count: int) -> Sequence[int]:
    return node.attributes.get(f"scan_{name}") or [0] * count


_LOOPS: dict[str, Callable[[Node], _Loop]] = {"Loop": _loop, "Scan": _scan}
