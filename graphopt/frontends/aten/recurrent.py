"""Recurrent layers.

The module's own parameters stay the graph's constants. Torch's layouts become ONNX's by ordinary nodes (Split, Concat,
Unsqueeze), which fold when nobody trains, through which gradients flow when somebody does, and through which pruning
sees which rows of a parameter are which gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.frontends.aten.builder import Builder, Size, rank_of, require, shape_of, static
from graphopt.frontends.aten.registry import converts
from graphopt.ir import DType, Value

#: Torch's gates in the order in which ONNX has them.
_ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}


@dataclass
class _Stack:
    """What all layers share."""

    kind: str
    hidden: int
    directions: int
    has_biases: bool
    attributes: dict[str, Any]


@converts("aten.lstm.input", "graphopt.lstm.default")
def lstm(
    c: Builder,
    input: Value,
    hx: Sequence[Value],
    params: Sequence[Value],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Value, ...]:
    hidden = static(shape_of(hx[1])[-1])
    require(static(shape_of(hx[0])[-1]) == hidden, "an LSTM with projections")
    stack = _Stack("LSTM", hidden, 2 if bidirectional else 1, has_biases, {})
    return _run(c, stack, input, list(hx), params, num_layers, dropout, train, batch_first)


def _register_of_one_state(name: str, kind: str, **own: Any) -> None:
    """Registers a layer whose only state is its output.

    Args:
        name: what torch calls it.
        kind: ONNX's operator.
        own: attributes of the operator; a tuple holds what each direction has.
    """

    @converts(f"aten.{name}.input", f"graphopt.{name}.default")
    def layer(
        c: Builder,
        input: Value,
        hx: Value,
        params: Sequence[Value],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Value, ...]:
        directions = 2 if bidirectional else 1
        attributes = {key: value * directions if isinstance(value, tuple) else value for key, value in own.items()}
        stack = _Stack(kind, static(shape_of(hx)[-1]), directions, has_biases, attributes)
        return _run(c, stack, input, [hx], params, num_layers, dropout, train, batch_first)


_register_of_one_state("gru", "GRU", linear_before_reset=1)
_register_of_one_state("rnn_tanh", "RNN", activations=("Tanh",))
_register_of_one_state("rnn_relu", "RNN", activations=("Relu",))


def _run(
    c: Builder,
    stack: _Stack,
    x: Value,
    states: list[Value],
    params: Sequence[Value],
    layers: int,
    dropout: float,
    train: bool,
    batch_first: bool,
) -> tuple[Value, ...]:
    require(not train or dropout == 0 or layers == 1, "dropout between layers that is on at inference")
    unbatched = rank_of(x) == 2
    if unbatched:
        x, states = c.unsqueeze(x, 1), [c.unsqueeze(state, 1) for state in states]
    elif batch_first:
        x = c.transpose(x, [1, 0, 2])
    first = [_pick(c, state, layers, stack.directions) for state in states]
    last: list[list[Value]] = [[] for _ in states]
    each = len(params) // (layers * stack.directions)
    for layer in range(layers):
        if layer and dropout:
            x = c.emit("Dropout", x, c.scalar(dropout, DType.FLOAT32))
        begin = layer * stack.directions * each
        own = [params[begin + d * each : begin + (d + 1) * each] for d in range(stack.directions)]
        x, finals = _layer(c, stack, x, [state[layer] for state in first], own)
        for collected, final in zip(last, finals, strict=True):
            collected.append(final)
    results = [x, *(pieces[0] if layers == 1 else c.emit("Concat", *pieces, axis=0) for pieces in last)]
    if unbatched:
        results = [c.emit("Squeeze", result, c.ints([1])) for result in results]
    elif batch_first:
        results[0] = c.emit("Transpose", results[0], perm=(1, 0, 2))
    return tuple(results)


def _pick(c: Builder, state: Value, layers: int, directions: int) -> list[Value]:
    """The initial state [layers * directions, batch, hidden] of each layer."""
    if layers == 1:
        return [state]
    return c.emit_many("Split", [state, c.ints([directions] * layers)], layers, axis=0)


def _layer(
    c: Builder, stack: _Stack, x: Value, states: Sequence[Value], params: Sequence[Sequence[Value]]
) -> tuple[Value, list[Value]]:
    """One layer over [length, batch, width]: the outputs side by side, and the final states."""
    order = _ORDER[stack.kind]
    w = _directions(c, [_gates(c, own[0], order, stack.hidden) for own in params])
    r = _directions(c, [_gates(c, own[1], order, stack.hidden) for own in params])
    b = None
    if stack.has_biases:
        both = [[_gates(c, own[i], order, stack.hidden) for i in (2, 3)] for own in params]
        b = _directions(c, [c.emit("Concat", *pair, axis=0) for pair in both])
    outputs = c.emit_many(
        stack.kind, [x, w, r, b, None, *states], 1 + len(states),
        direction="bidirectional" if stack.directions == 2 else "forward", hidden_size=stack.hidden, **stack.attributes,
    )  # fmt: skip
    y = outputs[0]
    if stack.directions == 1:
        return c.emit("Squeeze", y, c.ints([1])), outputs[1:]
    sizes: list[Size] = [0, 0, stack.directions * stack.hidden]
    beside = c.emit("Reshape", c.emit("Transpose", y, perm=(0, 2, 1, 3)), c.vector(sizes))
    return beside, outputs[1:]


def _gates(c: Builder, parameter: Value, order: Sequence[int], hidden: int) -> Value:
    """The parameter's gates in ONNX's order."""
    if len(order) == 1:
        return parameter
    gates = c.emit_many("Split", [parameter, c.ints([hidden] * len(order))], len(order), axis=0)
    return c.emit("Concat", *(gates[i] for i in order), axis=0)


def _directions(c: Builder, parameters: Sequence[Value]) -> Value:
    rows = [c.emit("Unsqueeze", parameter, c.ints([0])) for parameter in parameters]
    return rows[0] if len(rows) == 1 else c.emit("Concat", *rows, axis=0)
