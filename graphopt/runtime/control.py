"""Operators with bodies, executed as ONNX defines them: If, Loop, Scan, SequenceMap, FlexAttention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from graphopt.errors import DataError, UnsupportedOperatorError
from graphopt.ir import DType, Graph, Node, Value
from graphopt.ops.flex import flex_attention
from graphopt.ops.record import attribute

Runner = Callable[[Graph, dict[Value, Any], None], list[Any]]
#: Computes the body in an attribute on arguments.
Call = Callable[..., list[Any]]


def execute_control(node: Node, arguments: Sequence[Any], env: dict[Value, Any], runner: Runner) -> tuple[Any, ...]:
    """Runs a node that holds bodies; `env` gives the values that the bodies capture.

    Raises:
        UnsupportedOperatorError: an operator that is none of those above.
        DataError: a loop without rounds whose results' types are not known.
    """
    handler = _HANDLERS.get((node.domain, node.op))
    if handler is None:
        raise UnsupportedOperatorError(f"operator {node.op} with a body cannot be executed", where=node.describe())

    def call(name: str, *given: Any) -> list[Any]:
        body: Graph = node.attributes[name]
        return runner(body, {**env, **dict(zip(body.inputs, given, strict=True))}, None)

    return handler(node, arguments, call)


def _run_if(node: Node, arguments: Sequence[Any], call: Call) -> tuple[Any, ...]:
    return tuple(call("then_branch" if bool(arguments[0]) else "else_branch"))


def _run_loop(node: Node, arguments: Sequence[Any], call: Call) -> tuple[Any, ...]:
    body: Graph = node.attributes["body"]
    limit = None if arguments[0] is None else int(arguments[0])
    going = True if arguments[1] is None else bool(arguments[1])
    carried = list(arguments[2:])
    scanned: list[list[Any]] = [[] for _ in range(len(body.outputs) - 1 - len(carried))]
    step = 0
    while going and (limit is None or step < limit):
        results = call("body", torch.tensor(step), torch.tensor(going), *carried)
        going = bool(results[0])
        carried = results[1 : 1 + len(carried)]
        for column, result in zip(scanned, results[1 + len(carried) :], strict=True):
            column.append(result)
        step += 1
    values = body.outputs[1 + len(carried) :]
    return (*carried, *(_stack(column, 0, value, node) for column, value in zip(scanned, values, strict=True)))


def _stack(column: Sequence[Any], axis: int, value: Value, node: Node) -> Any:
    """What a loop collected, along a new axis; without rounds, nothing of the type that a round would give."""
    if not column:
        return _nothing(value, axis, node)
    return torch.stack(list(column), axis) if isinstance(column[0], torch.Tensor) else np.stack(column, axis)


def _nothing(value: Value, axis: int, node: Node) -> torch.Tensor | np.ndarray:
    shape = [d if isinstance(d, int) else 0 for d in value.shape or ()]
    shape.insert(axis if axis >= 0 else axis + len(shape) + 1, 0)
    if value.dtype is DType.STRING:
        return np.empty(shape, dtype=object)
    if value.dtype is DType.UNDEFINED:
        raise DataError(
            f"no rounds were run, and the type of '{value.name}' is not known", where=node.describe(),
            hint="give the types of the graph's inputs, so that those in the body follow",
        )  # fmt: skip
    return torch.empty(shape, dtype=value.dtype.torch)


def _run_scan(node: Node, arguments: Sequence[Any], call: Call) -> tuple[Any, ...]:
    body: Graph = node.attributes["body"]
    scans = attribute(node, "num_scan_inputs")
    states = list(arguments[: len(arguments) - scans])
    sequences = list(arguments[len(states) :])
    outputs = len(body.outputs) - len(states)
    in_axes = node.attributes.get("scan_input_axes") or (0,) * scans
    in_reverse = node.attributes.get("scan_input_directions") or (0,) * scans
    out_axes = node.attributes.get("scan_output_axes") or (0,) * outputs
    out_reverse = node.attributes.get("scan_output_directions") or (0,) * outputs
    unbound = [
        list(torch.unbind(sequence, axis))[:: -1 if reverse else 1]
        for sequence, axis, reverse in zip(sequences, in_axes, in_reverse, strict=True)
    ]
    columns: list[list[Any]] = [[] for _ in range(outputs)]
    for slices in zip(*unbound, strict=True):
        results = call("body", *states, *slices)
        states = results[: len(states)]
        for column, result in zip(columns, results[len(states) :], strict=True):
            column.append(result)
    values = body.outputs[len(states) :]
    stacked = [
        _stack(column[:: -1 if reverse else 1], axis, value, node)
        for column, axis, reverse, value in zip(columns, out_axes, out_reverse, values, strict=True)
    ]
    return (*states, *stacked)


def _run_sequence_map(node: Node, arguments: Sequence[Any], call: Call) -> tuple[Any, ...]:
    rows = [
        call("body", *(each[index] if isinstance(each, list) else each for each in arguments))
        for index in range(len(arguments[0]))
    ]
    return tuple([row[i] for row in rows] for i in range(len(node.outputs)))


def _run_flex_attention(node: Node, arguments: Sequence[Any], call: Call) -> tuple[Any, ...]:
    options = dict(node.attributes)
    for name in ("score_mod", "prob_mod"):
        if name in options:
            options[name] = lambda scores, name=name: call(name, scores)[0]
    return (flex_attention(*arguments, **options),)


_HANDLERS: dict[tuple[str, str], Callable[[Node, Sequence[Any], Call], tuple[Any, ...]]] = {
    ("", "If"): _run_if,
    ("", "Loop"): _run_loop,
    ("", "Scan"): _run_scan,
    ("", "SequenceMap"): _run_sequence_map,
    ("ai.onnx.preview", "FlexAttention"): _run_flex_attention,
}
