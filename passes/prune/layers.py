"""Weights as layers read them: which constants are weights, along which dimension they meet a layer's input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graphopt.ir import Graph, Node, Value
from graphopt.ops import attribute, record_of
from graphopt.passes.prune.names import check_pattern, matches


@dataclass(frozen=True)
class Reading:
    """A layer that reads a weight.

    Attributes:
        node: the operator with multiply-accumulates.
        dims: the weight's dimensions in the order in which the operator sees them.
        source: what the weight is multiplied with.
        summed: dimensions of `source` and of the weight that the product sums over, in pairs.
    """

    node: Node
    dims: tuple[int, ...]
    source: Value
    summed: tuple[tuple[int, int], ...]


def layer_weights(graph: Graph, ignore: Sequence[str] = ()) -> list[Value]:
    """Float constants of two dimensions and more that operators with multiply-accumulates read, rearranged or not.

    Args:
        graph: the graph.
        ignore: patterns of names, or of the module paths they belong to, to leave out.

    Raises:
        OptionError: a pattern that matches no constant.
    """
    for pattern in ignore:
        check_pattern(graph, pattern, "ignore")
    read = _read_by_layers(graph)
    return [
        value
        for value in list(graph.constants)
        if value in read and value.dtype.is_float and value.dtype.bits > 8 and (value.rank or 0) >= 2
        if not any(matches(value.name, pattern) for pattern in ignore)
    ]


def _read_by_layers(graph: Graph) -> set[Value]:
    derived: set[Value] = set()
    found: set[Value] = set()
    for node in graph.nodes:
        read = [value for value in node.inputs if value is not None]
        if read and all(value.is_constant or value in derived for value in read):
            derived.update(node.outputs)
        record = record_of(node)
        multiplies = record is not None and record.macs is not None
        addends = record.addends if multiplies and record is not None else ()
        pending = [v for i, v in enumerate(node.inputs) if v is not None and i not in addends] if multiplies else []
        while pending:
            value = pending.pop()
            if value.is_constant:
                found.add(value)
            elif value in derived and value.producer is not None:
                pending.extend(each for each in value.producer.inputs if each is not None)
    return found


def readings(weight: Value) -> Iterator[Reading | None]:
    """Whatever reads a weight, through transpositions; ``None`` for a reader that is no layer, or does not say how."""
    for user, dims in _readers(weight, tuple(range(weight.rank or 0))):
        yield None if user is None else _reading(user, dims, weight)


def _reading(user: Node, dims: tuple[int, ...], weight: Value) -> Reading | None:
    record = record_of(user)
    relation = record.relate(user) if record is not None and record.relate is not None else None
    operand = next((v for v in user.inputs if v is not None and v.rank == len(dims) and _comes_from(v, weight)), None)
    source = next((v for v in user.inputs if v is not None and not _comes_from(v, weight)), None)
    if relation is None or operand is None or source is None:
        return None
    out = {axis.label for (value, _), axes in relation.axes.items() if value in user.outputs for axis in axes}

    def inner(value: Value, dim: int) -> set[str]:
        return {axis.label for axis in relation.axes.get((value, dim), ())} - out

    pairs = [
        (theirs, dims[mine])
        for mine in range(len(dims))
        for theirs in range(source.rank or 0)
        if inner(operand, mine) & inner(source, theirs)
    ]
    return Reading(user, dims, source, tuple(pairs))


def input_dim(weight: Value) -> int | None:
    """The dimension of a weight that runs over a layer's inputs; ``None`` when no layer says."""
    return next((each.summed[0][1] for each in readings(weight) if each is not None and each.summed), None)


def _readers(value: Value, dims: tuple[int, ...]) -> Iterator[tuple[Node | None, tuple[int, ...]]]:
    """The layers that read a weight, with its dimensions in the order they see; ``None`` for other readers."""
    for user in value.users:
        record = record_of(user) if isinstance(user, Node) else None
        if record is not None and record.macs is not None:
            yield user, dims
        elif record is not None and user.op == "Transpose":
            perm = attribute(user, "perm") or tuple(reversed(range(len(dims))))
            yield from _readers(user.output, tuple(dims[p] for p in perm))
        else:
            yield None, dims


def _comes_from(value: Value, weight: Value) -> bool:
    while value is not weight and value.producer is not None and value.producer.op == "Transpose":
        value = value.producer.operand(0)
    return value is weight
