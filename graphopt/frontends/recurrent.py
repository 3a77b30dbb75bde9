"""Recurrent layers under torch.export.

Torch's tracer unrolls a recurrent layer to find its output's shape, which fixes the length of the sequence. While a
module is exported, its recurrent layers are therefore calls of operators of our own, which have a shape rule and
nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_TAIL = (
    "Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, bool bidirectional, bool batch_first"
)
_library: Any = torch.library.Library("graphopt", "DEF")  # type: ignore[no-untyped-call]  # torch leaves it untyped
_library.define(f"lstm(Tensor input, Tensor[] hx, {_TAIL}) -> (Tensor, Tensor, Tensor)")
_SINGLE = ("gru", "rnn_tanh", "rnn_relu")
for _name in _SINGLE:
    _library.define(f"{_name}(Tensor input, Tensor hx, {_TAIL}) -> (Tensor, Tensor)")


def _outputs(
    x: torch.Tensor, states: Sequence[torch.Tensor], bidirectional: bool
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    width = states[0].shape[-1] * (2 if bidirectional else 1)
    return x.new_empty((*x.shape[:-1], width)), *(state.new_empty(state.shape) for state in states)


def _lstm_shape(
    input: torch.Tensor, hx: Sequence[torch.Tensor], params: Sequence[torch.Tensor], has_biases: bool, num_layers: int,
    dropout: float, train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    return _outputs(input, hx, bidirectional)


def _single_shape(
    input: torch.Tensor, hx: torch.Tensor, params: Sequence[torch.Tensor], has_biases: bool, num_layers: int,
    dropout: float, train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    return _outputs(input, [hx], bidirectional)


torch.library.register_fake("graphopt::lstm", _lstm_shape, lib=_library)
for _name in _SINGLE:
    torch.library.register_fake(f"graphopt::{_name}", _single_shape, lib=_library)


class _Whole(TorchFunctionMode):
    """Calls our operators in the place of torch's."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        # A packed sequence has its lengths in the place of the initial state, and projections change the width.
        if func in _FUNCTIONS and not kwargs and len(args) == 9 and isinstance(args[3], bool):
            name = func.__name__
            states = args[1] if name == "lstm" else [args[1]]
            if all(state.shape[-1] == states[0].shape[-1] for state in states):
                return getattr(torch.ops.graphopt, name)(*args)
        return func(*args, **(kwargs or {}))


_FUNCTIONS = {getattr(torch._VF, name) for name in ("lstm", *_SINGLE)}


@contextlib.contextmanager
def whole_recurrent_layers(module: torch.nn.Module) -> Iterator[None]:
    """Within this context the recurrent layers of `module` are single calls, whatever the length of their sequence."""
    if not any(isinstance(each, torch.nn.RNNBase) for each in module.modules()):
        yield  # listening to every call takes time
        return
    with _Whole():
        yield
