"""Nodes of an ONNX graph in an order in which every value is computed before it is read."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import onnx

from graphopt.errors import LoadError

_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
_BODY_OPS = frozenset({"If", "Loop", "Scan", "SequenceMap"})


class Step(NamedTuple):
    """A node with the names that it reads and writes, which are costly to fetch from the message twice."""

    proto: onnx.NodeProto
    inputs: list[str]
    outputs: list[str]


def ordered(graph: onnx.GraphProto, defined: set[str]) -> list[Step]:
    """The nodes of `graph`: as they stand when that order is sound, else the closest order that is.

    Args:
        graph: the message.
        defined: names of the graph's inputs and initializers.

    Raises:
        LoadError: a value is defined twice, or computed from itself.
    """
    steps = [Step(node, list(node.input), list(node.output)) for node in graph.node]
    producers: dict[str, int] = {}
    for index, step in enumerate(steps):
        for name in step.outputs:
            if not name:
                continue
            if name in producers or name in defined:
                raise LoadError(
                    f"value '{name}' is defined twice", where=describe(step.proto),
                    hint="the file is malformed: rename one of the two, or export it again",
                )  # fmt: skip
            producers[name] = index
    if all(producers.get(name, -1) < index for index, step in enumerate(steps) for name in _reads(step)):
        return steps
    return _sort(steps, producers)


def _reads(step: Step) -> Iterable[str]:
    proto = step.proto
    if proto.op_type in _BODY_OPS or proto.domain:
        return [*step.inputs, *free_names(proto)]
    return step.inputs


def free_names(node: onnx.NodeProto) -> Iterator[str]:
    """The names that the bodies of a node read from the graphs around them."""
    for attribute in node.attribute:
        if attribute.type not in _GRAPHS:
            continue
        for body in [*attribute.graphs, attribute.g] if attribute.HasField("g") else attribute.graphs:
            own = {v.name for v in body.input} | {t.name for t in body.initializer}
            own |= {t.values.name for t in body.sparse_initializer}
            own |= {name for inner in body.node for name in inner.output}
            read = [name for inner in body.node for name in inner.input]
            read += [name for inner in body.node for name in free_names(inner)]
            read += [v.name for v in body.output]
            yield from (name for name in read if name not in own)


def _sort(steps: list[Step], producers: dict[str, int]) -> list[Step]:
    waits = [0] * len(steps)
    readers: list[list[int]] = [[] for _ in steps]
    for index, step in enumerate(steps):
        for source in {producers[name] for name in _reads(step) if name in producers}:
            readers[source].append(index)
            waits[index] += 1
    ready = [index for index, count in enumerate(waits) if not count]
    result = []
    while ready:
        index = heapq.heappop(ready)
        result.append(steps[index])
        for reader in readers[index]:
            waits[reader] -= 1
            if not waits[reader]:
                heapq.heappush(ready, reader)
    if len(result) < len(steps):
        _report_cycle(steps, producers, waits)
    return result


def _report_cycle(steps: list[Step], producers: dict[str, int], waits: list[int]) -> None:
    # Every node that still waits reads from another such node, so walking backwards must come round.
    index = next(i for i, count in enumerate(waits) if count)
    seen: set[int] = set()
    name = ""
    while index not in seen:
        seen.add(index)
        name = next(n for n in _reads(steps[index]) if n in producers and waits[producers[n]])
        index = producers[name]
    raise LoadError(
        f"the graph has a cycle: value '{name}' is computed from itself",
        where=describe(steps[index].proto),
        hint="the file is malformed: break the cycle, or export it again",
    )


def describe(node: onnx.NodeProto) -> str:
    """A short text that lets a person find a node of a file."""
    kind = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    label = node.name or next((f"%{name}" for name in node.output if name), "")
    return f"{kind} '{label}'" if label else kind
