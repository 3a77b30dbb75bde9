"""Control flow: If, Loop and Scan, executed as ONNX defines them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from graphopt.errors import UnsupportedOperatorError
from graphopt.ir import DType, Graph, Node, Value

Runner = Callable[[Graph, dict[Value, Any], None], list[Any]]


def execute_control(node: Node, arguments: Sequence[Any], env: dict[Value, Any], runner: Runner) -> tuple[Any, ...]:
    """Runs a node that holds bodies; `env` gives the values that the bodies capture.

    Raises UnsupportedOperatorError for an operator that is none of If, Loop and Scan.
    """
    handlers = {"If": _run_if, "Loop": _run_loop, "Scan": _run_scan}
    if node.domain or node.op not in handlers:
        raise UnsupportedOperatorError(f"operator {node.op} with a body cannot be executed", where=node.describe())
    return handlers[node.op](node, arguments, env, runner)


def _call(body: Graph, arguments: Sequence[Any], env: dict[Value, Any], runner: Runner) -> list[Any]:
    inner = dict(env)
    inner.update(zip(body.inputs, arguments, strict=True))
    return runner(body, inner, None)


def _run_if(node: Node, arguments: Sequence[Any], env: dict[Value, Any], runner: Runner) -> tuple[Any, ...]:
    branch = "then_branch" if bool(arguments[0]) else "else_branch"
    return tuple(_call(node.attributes[branch], (), env, runner))


def _run_loop(node: Node, arguments: Sequence[Any], env: dict[Value, Any], runner: Runner) -> tuple[Any, ...]:
    body = node.attributes["body"]
    limit = None if arguments[0] is None else int(arguments[0])
    going = True if arguments[1] is None else bool(arguments[1])
    carried = list(arguments[2:])
    scanned: list[list[Any]] = [[] for _ in range(len(body.outputs) - 1 - len(carried))]
    step = 0
    while going and (limit is None or step < limit):
        results = _call(body, [torch.tensor(step), torch.tensor(going), *carried], env, runner)
        going = bool(results[0])
        carried = results[1 : 1 + len(carried)]
        for column, result in zip(scanned, results[1 + len(carried) :], strict=True):
            column.append(result)
        step += 1
    stacked = [
        torch.stack(column) if column else _empty(value)
        for column, value in zip(scanned, body.outputs[1 + len(carried) :], strict=True)
    ]
    return (*carried, *stacked)


def _empty(value: Value, axis: int = 0) -> torch.Tensor:
    """What no iteration at all stacks along `axis`."""
    shape = [d if isinstance(d, int) else 0 for d in value.shape or ()]
    shape.insert(axis if axis >= 0 else axis + len(shape) + 1, 0)
    dtype = DType.FLOAT32 if value.dtype is DType.UNDEFINED else value.dtype
    return torch.empty(shape, dtype=dtype.torch)


def _run_scan(node: Node, arguments: Sequence[Any], env: dict[Value, Any], runner: Runner) -> tuple[Any, ...]:
    body, scans = node.attributes["body"], node.attributes["num_scan_inputs"]
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
        results = _call(body, [*states, *slices], env, runner)
        states = results[: len(states)]
        for column, result in zip(columns, results[len(states) :], strict=True):
            column.append(result)
    stacked = [
        torch.stack(column[:: -1 if reverse else 1], axis) if column else _empty(value, axis)
        for column, axis, reverse, value in zip(
            columns, out_axes, out_reverse, body.outputs[len(states) :], strict=True
        )
    ]
    return (*states, *stacked)
