"""Recurrent networks: RNN, GRU and LSTM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

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
from graphopt.ops.record import Operator, attribute, hands_on, register
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


#: torch's kernel, and the order in which it wants the gates.
_Kernel: TypeAlias = "tuple[Callable[..., Any], Sequence[int]]"


@dataclass(frozen=True)
class _Network:
    """What makes a recurrent network an RNN, a GRU or an LSTM.

    Attributes:
        op: its name.
        make_step: the step of a direction, from its weights, its activations and the clip.
        kernel_for: torch's kernel for activations of these names that are not clipped; ``None`` when none fits.
    """

    op: str
    make_step: Callable[..., Step]
    kernel_for: Callable[[list[str]], _Kernel | None]


def _run(
    network: _Network,
    x: torch.Tensor,
    weights: list[Weights],
    lengths: torch.Tensor | None,
    states: Sequence[torch.Tensor | None],
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
) -> tuple[torch.Tensor, ...]:
    """What RNN, GRU and LSTM share, attributes included; weights for each direction, states zero where left out."""
    names = list(activations or _DEFAULTS[network.op] * len(weights))
    functions, each = activation_functions(names, activation_alpha, activation_beta), len(_DEFAULTS[network.op])
    x = x.transpose(0, 1) if layout else x
    hidden = weights[0].r.shape[1]
    zeros = x.new_zeros(len(weights), x.shape[1], hidden)
    given = tuple(zeros if s is None else s.transpose(0, 1) if layout else s for s in states)
    kernel = None if clip or lengths is not None or not x.numel() or not hidden else network.kernel_for(names)
    if kernel is not None:
        function, order = kernel
        parameters = [tensor for w in weights for tensor in w.reordered(order)]
        y, last = run_fused(function, x, parameters, tuple(s.contiguous() for s in given), direction)
    else:
        runs = []
        for i, w in enumerate(weights):
            step = network.make_step(w, functions[each * i : each * (i + 1)], clip)
            runs.append(run_loop(x, w, step, tuple(s[i] for s in given), lengths, i == 1 or direction == "reverse"))
        y = torch.stack([outputs for outputs, _ in runs], 1)
        last = tuple(torch.stack(ends) for ends in zip(*(ends for _, ends in runs), strict=True))
    if layout:
        return y.permute(2, 0, 1, 3), *(s.transpose(0, 1) for s in last)
    return y, *last


def _is_default(op: str, names: Sequence[str]) -> bool:
    lowered, default = [name.lower() for name in names], [name.lower() for name in _DEFAULTS[op]]
    return lowered == default * (len(lowered) // len(default))


def _rnn_kernel(names: list[str]) -> _Kernel | None:
    first, *others = {name.lower() for name in names}
    kernel = {"tanh": torch._VF.rnn_tanh, "relu": torch._VF.rnn_relu}.get(first)
    return None if kernel is None or others else (kernel, (0,))


@hands_on(_run)
def rnn(
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None = None,
    sequence_lens: torch.Tensor | None = None,
    initial_h: torch.Tensor | None = None,
    **attributes: Any,
) -> tuple[torch.Tensor, ...]:
    """ONNX RNN: x [T, B, I], w [dirs, H, I], r [dirs, H, H], b [dirs, 2*H]; outputs, then the last state."""
    network = _Network("RNN", rnn_step, _rnn_kernel)
    return _run(network, x, Weights.split(w, r, b), sequence_lens, (initial_h,), **attributes)


@hands_on(_run)
def gru(
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None = None,
    sequence_lens: torch.Tensor | None = None,
    initial_h: torch.Tensor | None = None,
    *,
    linear_before_reset: int = 0,
    **attributes: Any,
) -> tuple[torch.Tensor, ...]:
    """ONNX GRU: x [T, B, I], w [dirs, 3*H, I], r [dirs, 3*H, H], b [dirs, 6*H]; outputs, then the last state."""

    def kernel_for(names: list[str]) -> _Kernel | None:
        return (torch._VF.gru, (1, 0, 2)) if linear_before_reset and _is_default("GRU", names) else None

    network = _Network("GRU", partial(gru_step, linear_before_reset=bool(linear_before_reset)), kernel_for)
    return _run(network, x, Weights.split(w, r, b), sequence_lens, (initial_h,), **attributes)


@hands_on(_run)
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
    input_forget: int = 0,
    **attributes: Any,
) -> tuple[torch.Tensor, ...]:
    """ONNX LSTM: x [T, B, I], w [dirs, 4*H, I], r [dirs, 4*H, H], b [dirs, 8*H], peepholes p [dirs, 3*H].

    Returns outputs, last hidden and last cell state.
    """

    def kernel_for(names: list[str]) -> _Kernel | None:
        standard = _is_default("LSTM", names) and not input_forget and p is None
        return (torch._VF.lstm, (0, 2, 3, 1)) if standard else None

    network = _Network("LSTM", partial(lstm_step, input_forget=bool(input_forget)), kernel_for)
    return _run(network, x, Weights.split(w, r, b, p), sequence_lens, (initial_h, initial_c), **attributes)


# -- relation and cost


def relate_recurrent(node: Node) -> Relation:
    """Inputs and hidden units. Directions, gates and time are frozen; both directions lose the same units."""
    batch_first = attribute(node, "layout")
    x = "n !t i" if batch_first else "!t n i"
    state = "n !dirs h" if batch_first else "!dirs n h"
    y = "n !t !dirs h" if batch_first else "!t !dirs n h"
    weights = "!dirs (!gates h) i, !dirs (!gates h) h, !dirs (!biases h)"
    notation = f"{x}, {weights}, n, {state}, {state}, !dirs (!peepholes h) -> {y}, {state}, {state}"
    return relate_units(node, node.op, notation)


def relate_units(node: Node, network: str, notation: str) -> Relation:
    """The relation that a notation gives to the network (RNN, GRU, LSTM) that an operator computes.

    Labels of the notation are: t, dirs, gates, biases, peepholes, and h for the hidden units.
    """
    gates = _GATES[network]
    sizes = {"gates": gates, "biases": 2 * gates, "peepholes": 3}
    reasons = {"t": "time steps", "dirs": "directions of a recurrent network", "gates": "gates", "biases": "gates",
               "peepholes": "gates"}  # fmt: skip
    attributes = {"hidden_size": "h"} if node.attributes.get("hidden_size") else {}
    relation = labels(node, notation, sizes, reasons, attributes)
    if not _is_silent(node, network):
        relation.frozen["h"] = "with these activations a unit without weights is not zero"
    return relation


def _is_silent(node: Node, network: str) -> bool:
    names = attribute(node, "activations") or _DEFAULTS[network]
    functions = activation_functions(names, attribute(node, "activation_alpha"), attribute(node, "activation_beta"))
    zero, count = torch.zeros(1), len(_DEFAULTS[network])
    return all(not functions[i](zero).any() for i in range(len(functions)) if i % count in _SILENT[network])


def recurrent_macs(node: Node) -> Dim:
    """Multiply-accumulates of the matrix products: each gate over inputs and hidden units, at each time step."""
    x, w, r = (node.operand(i).shape for i in range(3))
    if x is None or w is None or r is None:
        return None
    return D.mul(D.mul(x[0], x[1]), D.add(D.product(w), D.product(r)))


register(
    *(
        Operator(name, infer_recurrent, compute, relate_recurrent, recurrent_macs, addends=(3, 5, 6))
        for name, compute in (("RNN", rnn), ("GRU", gru), ("LSTM", lstm))
    )
)

__all__ = ["gru", "lstm", "recurrent_macs", "relate_units", "rnn"]
