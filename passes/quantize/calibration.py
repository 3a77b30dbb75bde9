"""Calibration: ranges of activations, measured while the graph runs in float."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

import torch

from graphopt.errors import DataError
from graphopt.ir import Graph, Node, Value
from graphopt.passes.quantize.observers import Observer
from graphopt.runtime import run
from graphopt.runtime.executor import bind_inputs

#: Is shown a value and what it holds.
See = Callable[[Value, torch.Tensor], None]

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def observe(
    graph: Graph,
    groups: Mapping[Value, Sequence[Value]],
    samples: Iterable[Sequence[torch.Tensor]],
    make: Callable[[], Observer],
) -> dict[Value, Observer]:
    """Runs `graph` on samples, in float, and shows values to observers.

    Args:
        graph: the graph.
        groups: values to observe, by the value that stands for their shared scale.
        samples: inputs of the graph.
        make: makes an observer.

    Raises:
        DataError: a value to observe holds NaN or infinity.
    """
    observers = {root: make() for root in groups}
    watched: dict[Value, Observer] = {v: observers[root] for root, members in groups.items() for v in members}

    def see(value: Value, tensor: torch.Tensor) -> None:
        if value in watched:
            _check_finite(value, tensor)
            watched[value].see(tensor)

    for inputs in samples:
        run_float(graph, inputs, see)
    for value, observer in watched.items():
        if value.is_constant and value.data is not None:
            observer.see(value.data)
    return observers


def run_float(
    graph: Graph, inputs: Sequence[torch.Tensor], see: See = lambda value, tensor: None, keep: Container[Node] = ()
) -> list[Any]:
    """Runs `graph` with pairs of Q and DQ passing numbers through unchanged, showing inputs and results to `see`.

    Args:
        graph: the graph.
        inputs: its inputs.
        see: is shown every value.
        keep: Q and DQ nodes that do their work all the same.
    """
    bound = bind_inputs(graph, inputs)
    for value, tensor in bound.items():
        see(value, tensor)
    return run(graph, inputs, hook=_Through(bound, see, keep))


def _check_finite(value: Value, tensor: torch.Tensor) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise DataError(
            "an activation holds NaN or infinity", where=value.name,
            hint=f"check the data and the model, or leave this tensor float: ignore={value.name}",
        )  # fmt: skip


class _Through:
    """Executor hook: makes Q and DQ pass their input through, and shows the results of all other nodes."""

    def __init__(self, known: dict[Value, Any], see: See, keep: Container[Node]) -> None:
        self.known = known  # what Q and DQ still have to read
        self.see = see
        self.keep = keep

    def __call__(self, node: Node, results: tuple[Any, ...]) -> tuple[Any, ...]:
        if node in self.keep:
            pass
        elif node.op in _QUANTIZERS and not node.domain:
            results = self._passed(node, results)
        else:
            for value, result in zip(node.outputs, results, strict=False):
                self.see(value, result)
        for value, result in zip(node.outputs, results, strict=False):
            if any(user.op in _QUANTIZERS for user in value.users):
                self.known[value] = result
        return results

    def _passed(self, node: Node, results: tuple[Any, ...]) -> tuple[Any, ...]:
        source = node.operand(0)
        last = not any(user.op in _QUANTIZERS and node.is_before(user) for user in source.users)
        tensor = self.known.pop(source, None) if last else self.known.get(source)
        if tensor is None:
            tensor = source.data
        return (tensor,) if tensor is not None and tensor.is_floating_point() else results
