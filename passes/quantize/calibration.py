"""Calibration: ranges of activations, measured while the graph runs in float."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from graphopt.ir import Graph, Node, Value
from graphopt.passes.quantize.observers import Observer
from graphopt.runtime import run
from graphopt.runtime.executor import bind_inputs


def observe(
    graph: Graph,
    groups: Mapping[Value, Sequence[Value]],
    samples: Iterable[Sequence[torch.Tensor]],
    make: Callable[[], Observer],
) -> dict[Value, Observer]:
    """Runs `graph` on samples and shows values to observers.

    Q/DQ pairs on the way pass numbers through unchanged, so that ranges are those of the float network.

    Args:
        graph: the graph.
        groups: values to observe, by the value that stands for their shared scale.
        samples: inputs of the graph.
        make: makes an observer.
    """
    observers = {root: make() for root in groups}
    watched: dict[Value, Observer] = {v: observers[root] for root, members in groups.items() for v in members}
    for inputs in samples:
        seen = bind_inputs(graph, inputs)
        for value, tensor in seen.items():
            if value in watched:
                watched[value].see(tensor)
        run(graph, inputs, hook=_Watcher(seen, watched))
    for value, observer in watched.items():
        if value.is_constant and value.data is not None:
            observer.see(value.data)
    return observers


class _Watcher:
    """Executor hook: shows results to observers, and makes Q and DQ pass their input through."""

    def __init__(self, known: dict[Value, Any], watched: Mapping[Value, Observer]) -> None:
        self.known = known  # what Q nodes read; only that is kept
        self.watched = watched

    def __call__(self, node: Node, results: tuple[Any, ...]) -> tuple[Any, ...]:
        if node.op in ("QuantizeLinear", "DequantizeLinear") and not node.domain:
            source = node.operand(0)
            tensor = self.known.get(source, source.data)
            if tensor is not None and tensor.is_floating_point():
                results = (tensor,)
        for value, result in zip(node.outputs, results, strict=False):
            if value in self.watched:
                self.watched[value].see(result)
            if any(user.op in ("QuantizeLinear", "DequantizeLinear") for user in value.users):
                self.known[value] = result
        return results
