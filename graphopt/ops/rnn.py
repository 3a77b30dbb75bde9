"""Recurrent networks: RNN, GRU and LSTM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from graphopt.errors import ShapeError
from graphopt.ir import Dim, Node, Shape, TensorType, ValueType
from graphopt.ir import dims as D
from graphopt.ops.cells import (
    Step,
    Weights,
    activation_functions,
    gru_step,
    lstm_step,
    rnn_step,
    run_fused,
    run_loop,
)
from graphopt.ops.infer import input_type
from graphopt.ops.record import Operator, attribute, register
from graphopt.ops.relation import Relation, labels

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_DEFAULTS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
# Which of a direction's activations must map zero to zero, so that a unit without weights stays silent.
_SILENT = {"RNN": (0,), "GRU": (1,), "LSTM": (1, 2)}

# -- types


def infer_recurrent(node: Node) -> Sequence[ValueType]:
    """Type rule of RNN, GRU and LSTM: outputs [T, dirs, B, H], last states [dirs, B, H]; batch first with layout 1."""
    x, r = input_type(node, 0), input_type(node, 2)
    count = max(len(node.outputs), 1)
    directions = 2 if attribute(node, "direction") == "bidirectional" else 1
    hidden: Dim = attribute(node, "hidden_size") or (None if r.shape is None else r.shape[-1])
    _check_weights(node, directions, hidden)
    time, batch = (None, None) if x.shape is None else x.shape[:2]
    shapes: list[Shape]
    if attribute(node, "layout"):
        batch, time = time, batch
        shapes = [(batch, time, directions, hidden), *[(batch, directions, hidden)] * 2]
    else:
        shapes = [(time, directions, batch, hidden), *[(directions, batch, hidden)] * 2]
    return [TensorType(x.dtype, shape) for shape in shapes][:count]


def _check_weights(node: Node, directions: int, hidden: Dim) -> None:
    x, w, r, b = (input_type(node, i).shape for i in range(4))
    gates = _GATES[node.op]
    rows = D.mul(hidden, gates)
    inputs = x[-1] if x is not None else None
    wanted = {"W": (w, (directions, rows, inputs)), "R": (r, (directions, rows, hidden)),
              "B": (b, (directions, D.mul(rows, 2)))}  # fmt: skip
    if x is not None and len(x) != 3:
        raise ShapeError(f"input has rank {len(x)}, 3 is needed", where=node.describe())
    for name, (shape, expected) in wanted.items():
        if shape is None:
            continue
        pairs = zip(shape, expected, strict=False)
        clash = any(isinstance(a, int) and isinstance(e, int) and a != e for a, e in pairs)
        if clash or len(shape) != len(expected):
            raise ShapeError(
                f"{name} has shape {list(shape)}, direction {attribute(node, 'direction')} with hidden size {hidden} "
                f"and {inputs} inputs needs {list(expected)}",
                where=node.describe(),
            )


# -- computation


def _recurrent(
    x: torch.Tensor,
    weights: list[Weights],
    lengths: torch.Tensor | None,
    states: Sequence[torch.Tensor | None],
    make_step: Callable[[int], Step],
    fused: tuple[Callable[..., Any], Sequence[int]] | None,
    direction: str,
    layout: int,
) -> tuple[torch.Tensor, ...]:
    """What RNN, GRU and LSTM share.

    Args:
        x: as the operator has it.
        weights: one for each direction.
        lengths: of the sequences.
        states: initial states as the operator has them, zero where left out.
        make_step: the step of a direction.
        fused: torch's kernel, and the order in which it wants the gates; None when it does not fit.
        direction: forward, reverse or bidirectional.
        layout: 1 for batch first.
    """
    x = x.transpose(0, 1) if layout else x
    hidden = weights[0].r.shape[1]
    zeros = x.new_zeros(len(weights), x.shape[1], hidden)
    given = tuple(zeros if s is None else s.transpose(0, 1) if layout else s for s in states)
    if fused is not None and lengths is None and x.numel() and hidden:
        function, order = fused
        parameters = [tensor for w in weights for tensor in w.reordered(order)]
        starts = tuple(s.contiguous() for s in given)
        y, last = run_fused(function, x, parameters, starts, direction)
    else:
        runs = [
            run_loop(x, w, make_step(i), tuple(s[i] for s in given), lengths, i == 1 or direction == "reverse")
            for i, w in enumerate(weights)
        ]
        y = torch.stack([outputs for outputs, _ in runs], 1)
        last = tuple(torch.stack(each) for each in zip(*(ends for _, ends in runs), strict=True))
    if layout:
        return y.permute(2, 0, 1, 3), *(s.transpose(0, 1) for s in last)
    return y, *last


def _is_default(op: str, activations: Sequence[str] | None) -> bool:
    names = [name.lower() for name in activations or ()]
    default = [name.lower() for name in _DEFAULTS[op]]
    return not names or names == default * (len(names) // len(default))


def rnn(
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None = None,
    sequence_lens: torch.Tensor | None = None,
    initial_h: torch.Tensor | None = None,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
) -> tuple[torch.Tensor, ...]:
    """ONNX RNN: x [T, B, I], w [dirs, H, I], r [dirs, H, H], b [dirs, 2*H]; outputs, then the last state."""
    weights = Weights.split(w, r, b)
    names = list(activations or _DEFAULTS["RNN"] * len(weights))
    functions = activation_functions(names, activation_alpha, activation_beta)
    kernel = {"tanh": torch._VF.rnn_tanh, "relu": torch._VF.rnn_relu}.get(names[0].lower())
    alike = len({name.lower() for name in names}) == 1
    fused = (kernel, (0,)) if kernel is not None and alike and not clip else None

    def make(i: int) -> Step:
        return rnn_step(weights[i], functions[i : i + 1], clip)

    return _recurrent(x, weights, sequence_lens, (initial_h,), make, fused, direction, layout)


def gru(
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None = None,
    sequence_lens: torch.Tensor | None = None,
    initial_h: torch.Tensor | None = None,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
) -> tuple[torch.Tensor, ...]:
    """ONNX GRU: x [T, B, I], w [dirs, 3*H, I], r [dirs, 3*H, H], b [dirs, 6*H]; outputs, then the last state."""
    weights = Weights.split(w, r, b)
    names = list(activations or _DEFAULTS["GRU"] * len(weights))
    functions = activation_functions(names, activation_alpha, activation_beta)
    standard = _is_default("GRU", activations) and not clip and linear_before_reset
    fused = (torch._VF.gru, (1, 0, 2)) if standard else None

    def make(i: int) -> Step:
        return gru_step(weights[i], functions[2 * i : 2 * i + 2], clip, bool(linear_before_reset))

    return _recurrent(x, weights, sequence_lens, (initial_h,), make, fused, direction, layout)


def lstm(
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None = None,
    sequence_lens: torch.Tensor | None = None,
    initial_h: torch.Tensor | None = None,
    initial_c: torch.Tensor | None = None,
    p: torch.Tensor | None = None,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
) -> tuple[torch.Tensor, ...]:
    """ONNX LSTM: x [T, B, I], w [dirs, 4*H, I], r [dirs, 4*H, H], b [dirs, 8*H], peepholes p [dirs, 3*H].

    Returns outputs, last hidden and last cell state.
    """
    weights = Weights.split(w, r, b, p)
    names = list(activations or _DEFAULTS["LSTM"] * len(weights))
    functions = activation_functions(names, activation_alpha, activation_beta)
    standard = _is_default("LSTM", activations) and not clip and not input_forget and p is None
    fused = (torch._VF.lstm, (0, 2, 3, 1)) if standard else None

    def make(i: int) -> Step:
        return lstm_step(weights[i], functions[3 * i : 3 * i + 3], clip, bool(input_forget))

    return _recurrent(x, weights, sequence_lens, (initial_h, initial_c), make, fused, direction, layout)


# -- relation and cost


def relate_recurrent(node: Node) -> Relation:
    """Inputs and hidden units. Directions, gates and time are frozen; both directions lose the same units."""
    gates = _GATES[node.op]
    batch_first = attribute(node, "layout")
    x = "n !t i" if batch_first else "!t n i"
    state = "n !dirs h" if batch_first else "!dirs n h"
    y = "n !t !dirs h" if batch_first else "!t !dirs n h"
    weights = "!dirs (!gates h) i, !dirs (!gates h) h, !dirs (!biases h)"
    notation = f"{x}, {weights}, n, {state}, {state}, !dirs (!peepholes h) -> {y}, {state}, {state}"
    sizes = {"gates": gates, "biases": 2 * gates, "peepholes": 3}
    reasons = {"t": "time steps", "dirs": "directions of a recurrent network", "gates": "gates", "biases": "gates",
               "peepholes": "gates"}  # fmt: skip
    attributes = {"hidden_size": "h"} if node.attributes.get("hidden_size") else {}
    relation = labels(node, notation, sizes, reasons, attributes)
    if not _is_silent(node):
        relation.frozen["h"] = "with these activations a unit without weights is not zero"
    return relation


def _is_silent(node: Node) -> bool:
    names = attribute(node, "activations") or _DEFAULTS[node.op]
    functions = activation_functions(names, attribute(node, "activation_alpha"), attribute(node, "activation_beta"))
    zero, count = torch.zeros(1), len(_DEFAULTS[node.op])
    return all(not functions[i](zero).any() for i in range(len(functions)) if i % count in _SILENT[node.op])


def recurrent_macs(node: Node) -> Dim:
    """Multiply-accumulates of the matrix products: each gate over inputs and hidden units, at each time step."""
    x, w, r = (node.operand(i).shape for i in range(3))
    if x is None or w is None or r is None:
        return None
    return D.mul(D.mul(x[0], x[1]), D.add(D.product(w), D.product(r)))


register(
    *(
        Operator(name, infer_recurrent, compute, relate_recurrent, recurrent_macs)
        for name, compute in (("RNN", rnn), ("GRU", gru), ("LSTM", lstm))
    )
)

__all__ = ["gru", "lstm", "rnn"]
