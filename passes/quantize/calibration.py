"""Calibration: ranges of activations, measured while the graph runs in float."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from typing import Any

import torch

from graphopt.backends import to_onnx
from graphopt.errors import DataError
from graphopt.ir import Graph, Node, Value
from graphopt.passes.quantize.observers import Observer
from graphopt.passes.quantize.pairs import strip
from graphopt.runtime import run
from graphopt.runtime.executor import bind_inputs
from graphopt.runtime.ort import OrtSession

#: Is shown a value and what it holds.
See = Callable[[Value, torch.Tensor], None]

#: Runs a graph of its own on samples, and shows what the wanted ones of its values hold.
Runner = Callable[[Graph, Collection[Value], Iterable[Sequence[torch.Tensor]], See], None]

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def observe(
    graph: Graph,
    groups: Mapping[Value, Sequence[Value]],
    samples: Iterable[Sequence[torch.Tensor]],
    make: Callable[[], Observer],
    runner: Runner | None = None,
) -> dict[Value, Observer]:
    """Runs `graph` on samples, in float, and shows values to observers.

    Args:
        graph: the graph.
        groups: values to observe, by the value that stands for their shared scale.
        samples: inputs of the graph.
        make: makes an observer.
        runner: what runs the graph, torch by default.

    Raises:
        DataError: a value to observe holds NaN or infinity.
    """
    observers = {root: make() for root in groups}
    watched: dict[Value, Observer] = {v: observers[root].member() for root, members in groups.items() for v in members}
    twin, same = without_pairs(graph)
    shown = {same[value]: value for value in watched if value in same}

    def see(value: Value, tensor: torch.Tensor) -> None:
        watched[value].see(tensor)
        _check_finite(value, watched[value])

    (runner or in_torch)(twin, shown, samples, lambda value, tensor: see(shown[value], tensor))
    for value in watched:
        if value.is_constant and value.data is not None:
            see(value, value.data)
    return observers


def in_torch(graph: Graph, wanted: Collection[Value], samples: Iterable[Sequence[torch.Tensor]], see: See) -> None:
    """Runs the graph operator by operator in torch."""
    for inputs in samples:
        run_float(graph, inputs, lambda value, tensor: see(value, tensor) if value in wanted else None)


def in_onnxruntime(
    graph: Graph, wanted: Collection[Value], samples: Iterable[Sequence[torch.Tensor]], see: See
) -> None:
    """Runs the graph in ONNX Runtime; what is wanted becomes outputs of it.

    Raises:
        UnsupportedOperatorError: ONNX Runtime refuses the graph.
    """
    computed = [value for value in wanted if value.producer is not None]
    first = len(graph.outputs)
    for number, value in enumerate(computed):
        graph.add_output(value, f"observed.{number}")
    session = OrtSession(to_onnx(graph))
    for inputs in samples:
        for value, tensor in bind_inputs(graph, inputs).items():
            if value in wanted:
                see(value, tensor)
        for value, array in zip(computed, session.run(inputs)[first:], strict=True):
            see(value, torch.from_numpy(array))


def without_pairs(graph: Graph) -> tuple[Graph, dict[Value, Value]]:
    """A copy that has fewer nodes to run, and its value for each input and result of the graph."""
    twin = graph.clone()
    same = dict(zip(graph.inputs, twin.inputs, strict=True))
    for mine, other in zip(graph.nodes, twin.nodes, strict=True):
        same.update(zip(mine.outputs, other.outputs, strict=True))
    strip(twin)
    return twin, same


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
    for value, tensor in bind_inputs(graph, inputs).items():
        see(value, tensor)

    def passed(node: Node, arguments: Sequence[Any]) -> tuple[Any, ...] | None:
        """What a Q or DQ lets through: floats, but not the integers of weights that are packed."""
        if node.op not in _QUANTIZERS or node.domain or node in keep or not arguments[0].is_floating_point():
            return None
        return (arguments[0],)

    def show(node: Node, results: tuple[Any, ...]) -> tuple[Any, ...]:
        if node.op not in _QUANTIZERS or node.domain:
            for value, result in zip(node.outputs, results, strict=False):
                see(value, result)
        return results

    return run(graph, inputs, hook=show, instead=passed)


def _check_finite(value: Value, observer: Observer) -> None:
    if not observer.finite:
        raise DataError(
            "an activation holds NaN or infinity", where=value.name,
            hint=f"check the data and the model, or leave this tensor float: ignore={value.name}",
        )  # fmt: skip
