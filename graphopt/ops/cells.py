"""How RNN, GRU and LSTM are computed: torch's fused kernels where they fit, a loop over time steps elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F

from graphopt.errors import OptionError, ShapeError, nearest

Activation: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
#: One time step: the input's share of the gates [B, G*H] and the states [B, H] to new states, the output first.
Step: TypeAlias = Callable[[torch.Tensor, tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]

# Name in lower case: function of (x, alpha, beta), and the defaults of those that it takes.
_FUNCTIONS: dict[str, tuple[Callable[..., torch.Tensor], tuple[float, ...]]] = {
    "relu": (torch.relu, ()),
    "tanh": (torch.tanh, ()),
    "sigmoid": (torch.sigmoid, ()),
    "softsign": (F.softsign, ()),
    "softplus": (F.softplus, ()),
    "leakyrelu": (lambda x, alpha: torch.where(x >= 0, x, alpha * x), (0.01,)),
    "thresholdedrelu": (lambda x, alpha: torch.where(x >= alpha, x, torch.zeros_like(x)), (1.0,)),
    "elu": (lambda x, alpha: torch.where(x >= 0, x, alpha * torch.expm1(x)), (1.0,)),
    "affine": (lambda x, alpha, beta: alpha * x + beta, (1.0, 0.0)),
    "scaledtanh": (lambda x, alpha, beta: alpha * torch.tanh(beta * x), (1.0, 1.0)),
    "hardsigmoid": (lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1), (0.2, 0.5)),
}


def activation_functions(
    names: Sequence[str], alphas: Sequence[float] | None = None, betas: Sequence[float] | None = None
) -> list[Activation]:
    """The functions called `names`; those that take alpha or beta use up `alphas` and `betas` in order.

    Raises:
        OptionError: for a name that ONNX does not have.
    """
    left, right = list(alphas or ()), list(betas or ())
    found = []
    for name in names:
        entry = _FUNCTIONS.get(name.lower())
        if entry is None:
            raise OptionError(f"there is no activation '{name}'", hint=nearest(name, _FUNCTIONS))
        function, defaults = entry
        found.append(_bound(function, defaults, left, right))
    return found


def _bound(
    function: Callable[..., torch.Tensor], defaults: tuple[float, ...], alphas: list[float], betas: list[float]
) -> Activation:
    values = list(defaults)
    if defaults and alphas:
        values[0] = alphas.pop(0)
    if len(defaults) > 1 and betas:
        values[1] = betas.pop(0)
    return lambda x: function(x, *values)


@dataclass(frozen=True)
class Weights:
    """Parameters of one direction: w [G*H, I], r [G*H, H], biases [G*H] of both, LSTM's peepholes [3*H]."""

    w: torch.Tensor
    r: torch.Tensor
    wb: torch.Tensor
    rb: torch.Tensor
    p: torch.Tensor | None = None

    @classmethod
    def split(
        cls, w: torch.Tensor, r: torch.Tensor, b: torch.Tensor | None, p: torch.Tensor | None = None
    ) -> list[Weights]:
        """The parameters of each direction, from ONNX's stacked ones."""
        rows = w.shape[1]
        biases = w.new_zeros(w.shape[0], 2 * rows) if b is None else b
        return [
            cls(w[i], r[i], biases[i, :rows], biases[i, rows:], None if p is None else p[i]) for i in range(w.shape[0])
        ]

    def reordered(self, order: Sequence[int]) -> list[torch.Tensor]:
        """As torch's flat list, with the gates in `order`."""
        index = list(order)
        return [
            t.reshape(len(index), -1, *t.shape[1:])[index].reshape(t.shape) for t in (self.w, self.r, self.wb, self.rb)
        ]


# -- steps


def _clipper(clip: float | None) -> Activation:
    return (lambda x: x) if not clip else (lambda x: x.clamp(-clip, clip))


def rnn_step(weights: Weights, functions: Sequence[Activation], clip: float | None) -> Step:
    """One step of RNN."""
    (f,), bound = functions, _clipper(clip)

    def step(pre: torch.Tensor, states: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (f(bound(pre + F.linear(states[0], weights.r, weights.rb))),)

    return step


def gru_step(weights: Weights, functions: Sequence[Activation], clip: float | None, linear_before_reset: bool) -> Step:
    """One step of GRU; gates are update, reset, hidden."""
    (f, g), bound = functions, _clipper(clip)
    size = weights.r.shape[1]

    def step(pre: torch.Tensor, states: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        (h,) = states
        gates = pre[:, : 2 * size] + F.linear(h, weights.r[: 2 * size], weights.rb[: 2 * size])
        z, r = (f(bound(gate)) for gate in gates.chunk(2, 1))
        inner, bias = weights.r[2 * size :], weights.rb[2 * size :]
        back = r * F.linear(h, inner, bias) if linear_before_reset else F.linear(r * h, inner, bias)
        return ((1 - z) * g(bound(pre[:, 2 * size :] + back)) + z * h,)

    return step


def lstm_step(weights: Weights, functions: Sequence[Activation], clip: float | None, input_forget: bool) -> Step:
    """One step of LSTM; gates are input, output, forget, cell."""
    (f, g, last), bound = functions, _clipper(clip)
    p_i, p_o, p_f = (0, 0, 0) if weights.p is None else weights.p.chunk(3)

    def step(pre: torch.Tensor, states: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        h, c = states
        gates = pre + F.linear(h, weights.r, weights.rb)
        i, o, forget, cell = gates.chunk(4, 1)
        i = f(bound(i + p_i * c))
        forget = 1 - i if input_forget else f(bound(forget + p_f * c))
        c = forget * c + i * g(bound(cell))
        o = f(bound(o + p_o * c))
        return o * last(c), c

    return step


# -- sequences


def run_loop(
    x: torch.Tensor,
    weights: Weights,
    step: Step,
    states: tuple[torch.Tensor, ...],
    lengths: torch.Tensor | None,
    backward: bool,
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """One direction over x [T, B, I]: outputs [T, B, H] and the last states.

    Behind the end of a sequence outputs are zero and states stay.
    """
    pre = F.linear(x, weights.w, weights.wb)
    found: list[torch.Tensor] = []
    for t in reversed(range(len(x))) if backward else range(len(x)):
        new = step(pre[t], states)
        output = new[0]
        if lengths is not None:
            inside = (t < lengths)[:, None]
            new = tuple(torch.where(inside, a, b) for a, b in zip(new, states, strict=True))
            output = torch.where(inside, output, torch.zeros_like(output))
        states = new
        found.append(output)
    if not found:
        return x.new_zeros(0, *states[0].shape), states
    return torch.stack(found[::-1] if backward else found), states


def run_fused(
    function: Callable[..., Any],
    x: torch.Tensor,
    parameters: Sequence[torch.Tensor],
    states: tuple[torch.Tensor, ...],
    direction: str,
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """All directions over x [T, B, I] by a kernel of ``torch._VF``: outputs [T, dirs, B, H] and the last states.

    Raises ShapeError for shapes that do not fit: the kernels do not look, and read beyond the end.
    """
    both = direction == "bidirectional"
    _require_fit(x, parameters, states, 2 if both else 1)
    x = x.flip(0) if direction == "reverse" else x
    # Dropout is 0, so "train" only lets cuDNN keep what its backward needs.
    hidden = states if len(states) > 1 else states[0]
    y, *last = function(x, hidden, list(parameters), True, 1, 0.0, torch.is_grad_enabled(), both, False)
    y = y.unflatten(2, (2 if both else 1, -1)).transpose(1, 2)
    return y.flip(0) if direction == "reverse" else y, tuple(last)


def _require_fit(
    x: torch.Tensor, parameters: Sequence[torch.Tensor], states: Sequence[torch.Tensor], directions: int
) -> None:
    rows, hidden = parameters[1].shape
    wanted = [(rows, x.shape[-1]), (rows, hidden), (rows,), (rows,)] * directions
    found = [tuple(each.shape) for each in parameters]
    if x.ndim != 3 or found != wanted or rows % max(hidden, 1):
        raise ShapeError(f"weights {found} do not fit an input {list(x.shape)}; {wanted} would")
    state = (directions, x.shape[1], hidden)
    if any(tuple(each.shape) != state for each in states):
        raise ShapeError(f"states of {[list(each.shape) for each in states]} instead of {list(state)}")


__all__ = [
    "Activation", "Step", "Weights", "activation_functions", "gru_step", "lstm_step", "rnn_step", "run_fused",
    "run_loop",
]  # fmt: skip
