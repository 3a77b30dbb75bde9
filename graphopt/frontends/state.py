"""Parameters and buffers of what is captured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from graphopt.ir import Graph, Parameter, Value


@dataclass
class State:
    """The tensors that a program owns, by name.

    Attributes:
        entries: what becomes a parameter of the graph: the tensor and what it was, in the order of the module.
        constants: other tensors that tracing lifted.
        names: for each name, aliases included, the name of its entry.
    """

    entries: dict[str, tuple[torch.Tensor, Parameter]] = field(default_factory=dict)
    constants: dict[str, torch.Tensor] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    _values: dict[str, Value] = field(default_factory=dict)
    _memory: dict[Any, str] = field(default_factory=dict)

    @classmethod
    def of_module(cls, module: torch.nn.Module, program: ExportedProgram) -> State:
        """Everything that the module has registered, used or not."""
        state = cls()
        for name, tensor, buffer, persistent in _registered(module):
            state._add(name, tensor, buffer, persistent)
        state._add_lifted(program)
        return state

    @classmethod
    def of_program(cls, program: ExportedProgram) -> State:
        """What the program lists in its signature."""
        state = cls()
        for spec in program.graph_signature.input_specs:
            if spec.kind not in (InputKind.PARAMETER, InputKind.BUFFER):
                continue
            name = str(spec.target)
            held: Any = program.state_dict.get(name, program.constants.get(name))
            state._add(name, held, spec.kind == InputKind.BUFFER, spec.persistent is not False)
        for name, held in program.state_dict.items():  # torch 2.6 lists neither the other name of what is tied nor
            if name not in state.names:  # what is not used
                state._add(name, held, not isinstance(held, torch.nn.Parameter), True)
        state._add_lifted(program)
        return state

    def add_to(self, graph: Graph) -> None:
        """Makes every entry a constant of `graph`, used or not."""
        for name, (tensor, parameter) in self.entries.items():
            self._values[name] = graph.add_constant(tensor.detach(), parameter=parameter)

    def value(self, name: str | None, graph: Graph) -> Value:
        """The graph's constant for a parameter, a buffer, or a lifted tensor."""
        key = self.names.get(str(name), str(name))
        if key not in self._values:
            self._values[key] = graph.add_constant(self.constants[key].detach(), key)
        return self._values[key]

    def _add(self, name: str, tensor: torch.Tensor, buffer: bool, persistent: bool) -> None:
        other = self._memory.setdefault(_memory(tensor), name)
        self.names[name] = other
        if other != name:
            held, parameter = self.entries[other]
            order = list(self.names)
            places = parameter.places or (order.index(other),)
            aliases, places = (*parameter.aliases, name), (*places, len(order) - 1)
            self.entries[other] = (held, replace(parameter, aliases=aliases, places=places))
            return
        self.entries[name] = (tensor, Parameter(name, (), buffer, persistent, tensor.requires_grad))

    def _add_lifted(self, program: ExportedProgram) -> None:
        for name, tensor in program.constants.items():
            if isinstance(tensor, torch.Tensor) and name not in self.names:
                self.constants[name] = tensor


def _registered(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor, bool, bool]]:
    """Name, tensor, is a buffer, is persistent; in the order of ``state_dict``, aliases included."""
    for path, owner in module.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        tensors: Iterable[tuple[str, torch.Tensor | None]] = owner._parameters.items()
        for name, tensor in tensors:
            if tensor is not None:
                yield prefix + name, tensor, False, True
        for name, tensor in owner._buffers.items():
            if tensor is not None:
                yield prefix + name, tensor, True, name not in owner._non_persistent_buffers_set


def _memory(tensor: torch.Tensor) -> Any:
    """Equal for two tensors exactly when they are the same elements."""
    if tensor.is_meta or tensor.numel() == 0:
        return id(tensor)
    return tensor.data_ptr(), tensor.device, tensor.dtype, tuple(tensor.shape), tensor.stride()
