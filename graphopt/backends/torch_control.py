"""If, Loop, Scan, SequenceMap, FlexAttention in torch: modules whose bodies are modules, control flow in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from graphopt.backends.torch_module import install
from graphopt.backends.torch_plan import plan
from graphopt.errors import DataError
from graphopt.ir import DType, Graph, Node, Value, captured
from graphopt.ops.flex import flex_attention

if TYPE_CHECKING:
    from graphopt.backends.torch_emit import Emitter

Results = tuple[torch.Tensor, ...]
#: Shape and dtype of what a round adds to a stacked result; no dtype where it is not known.
Entry: TypeAlias = tuple[Sequence[int], torch.dtype | None]


class If(nn.Module):
    """Runs one of two branches on the values that they read from outside."""

    def __init__(self, then_branch: nn.Module, else_branch: nn.Module) -> None:
        super().__init__()
        self.then_branch = then_branch
        self.else_branch = else_branch

    def forward(self, condition: torch.Tensor, captured: Sequence[Any]) -> Results:
        result: Results = self.then_branch(*captured) if bool(condition) else self.else_branch(*captured)
        return result


class Loop(nn.Module):
    """ONNX's Loop: runs its body up to `limit` times, as long as it says so.

    Args:
        body: takes the step, the condition, the carried values and what it reads from outside; gives the condition, the
            carried values and an entry for each stacked result.
        shapes: shape and dtype of the entries of each stacked result, for a loop that runs no step.
    """

    def __init__(self, body: nn.Module, shapes: Sequence[Entry]) -> None:
        super().__init__()
        self.body = body
        self.shapes = tuple(shapes)

    def forward(
        self,
        limit: torch.Tensor | None,
        condition: torch.Tensor | None,
        carried: Sequence[Any],
        captured: Sequence[Any],
    ) -> Results:
        steps = None if limit is None else int(limit)
        going = condition is None or bool(condition)
        state = tuple(carried)
        stacks: list[list[torch.Tensor]] = [[] for _ in self.shapes]
        step = 0
        while going and (steps is None or step < steps):
            results = self.body(torch.tensor(step), torch.tensor(going), *state, *captured)
            going, state = bool(results[0]), results[1 : 1 + len(state)]
            for stack, result in zip(stacks, results[1 + len(state) :], strict=True):
                stack.append(result)
            step += 1
        stacked = [
            torch.stack(stack) if stack else _nothing(shape, dtype)
            for stack, (shape, dtype) in zip(stacks, self.shapes, strict=True)
        ]
        return (*state, *stacked)


class Scan(nn.Module):
    """ONNX's Scan: runs its body over the slices of sequences.

    Args:
        body: takes the states, a slice of each sequence and what it reads from outside.
        inputs: axis and direction (1 is backwards) of each sequence.
        outputs: the same for each stacked result.
    """

    def __init__(self, body: nn.Module, inputs: Sequence[tuple[int, int]], outputs: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.body = body
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)

    def forward(self, states: Sequence[Any], sequences: Sequence[torch.Tensor], captured: Sequence[Any]) -> Results:
        unbound = [
            torch.unbind(sequence, axis)[:: -1 if backwards else 1]
            for sequence, (axis, backwards) in zip(sequences, self.inputs, strict=True)
        ]
        state = tuple(states)
        stacks: list[list[torch.Tensor]] = [[] for _ in self.outputs]
        for slices in zip(*unbound, strict=True):
            results = self.body(*state, *slices, *captured)
            state = results[: len(state)]
            for stack, result in zip(stacks, results[len(state) :], strict=True):
                stack.append(result)
        stacked = [
            torch.stack(stack[:: -1 if backwards else 1], axis)
            for stack, (axis, backwards) in zip(stacks, self.outputs, strict=True)
        ]
        return (*state, *stacked)


class SequenceMap(nn.Module):
    """ONNX's SequenceMap: runs its body on the elements of sequences; tensors come as they are.

    Args:
        body: takes an element of each sequence, the tensors, and what it reads from outside.
        results: number of results of the body.
    """

    def __init__(self, body: nn.Module, results: int) -> None:
        super().__init__()
        self.body = body
        self.results = results

    def forward(self, given: Sequence[Any], captured: Sequence[Any]) -> tuple[list[Any], ...]:
        rows = [
            self.body(*(each[index] if isinstance(each, list) else each for each in given), *captured)
            for index in range(len(given[0]))
        ]
        return tuple([row[i] for row in rows] for i in range(self.results))


class FlexAttention(nn.Module):
    """ONNX's FlexAttention, whose bodies change scores and probabilities.

    Args:
        modifiers: the bodies, by attribute.
        options: the other attributes.
    """

    def __init__(self, modifiers: Mapping[str, nn.Module], options: Mapping[str, Any]) -> None:
        super().__init__()
        self.modifiers = nn.ModuleDict(modifiers)
        self.options = dict(options)

    def forward(self, operands: Sequence[torch.Tensor], captured: Sequence[Any]) -> Results:
        calls = {name: _Modifier(module, captured) for name, module in self.modifiers.items()}
        q, k, v = operands
        return (flex_attention(q, k, v, **{**self.options, **calls}),)


class _Modifier:
    def __init__(self, module: nn.Module, captured: Sequence[Any]) -> None:
        self._module, self._captured = module, captured

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self._module(scores, *self._captured)[0]
        return result


#: Operators with bodies that can be written.
CONTROL = frozenset({("", "If"), ("", "Loop"), ("", "Scan"), ("", "SequenceMap"), ("ai.onnx.preview", "FlexAttention")})


def emit_control(emitter: Emitter, node: Node) -> Any:
    """Writes a control-flow node: its bodies become modules, called with the values that they read from outside."""
    outside = captured(node)
    given = [emitter.tensor(value) for value in outside]
    operands = emitter.operands(node)

    def module_of(name: str) -> nn.Module:
        from graphopt.backends.torch_emit import emit  # the two write each other's insides

        body: Graph = node.attributes[name]
        return emit(body, plan(body), emitter.root.training, outside)

    if node.op == "If":
        module: nn.Module = If(module_of("then_branch"), module_of("else_branch"))
        args: tuple[Any, ...] = (operands[0], given)
    elif node.op == "Loop":
        body: Graph = node.attributes["body"]
        carried = len(node.inputs) - 2
        module = Loop(module_of("body"), [_entry(value) for value in body.outputs[1 + carried :]])
        args = (operands[0], operands[1], operands[2:], given)
    elif node.op == "SequenceMap":
        module, args = SequenceMap(module_of("body"), len(node.outputs)), (operands, given)
    elif node.op == "FlexAttention":
        bodies = {name: module_of(name) for name in ("score_mod", "prob_mod") if name in node.attributes}
        options = {name: value for name, value in node.attributes.items() if name not in bodies}
        module, args = FlexAttention(bodies, options), (operands, given)
    else:
        count = node.attributes["num_scan_inputs"]
        states = len(operands) - count
        module = Scan(module_of("body"), _ways(node, "input", count), _ways(node, "output", len(node.outputs) - states))
        args = (operands[:states], operands[states:], given)
    path = emitter.plan.bodies[node]
    install(emitter.root, path, module)
    return emitter.fx.call_module(path, args)


def _entry(value: Value) -> Entry:
    known = value.dtype not in (DType.UNDEFINED, DType.STRING)
    return tuple(d if isinstance(d, int) else 0 for d in value.shape or ()), value.dtype.torch if known else None


def _nothing(shape: Sequence[int], dtype: torch.dtype | None) -> torch.Tensor:
    if dtype is None:
        raise DataError("no rounds were run, and the type of what they would have given is not known")
    return torch.empty([0, *shape], dtype=dtype)


def _ways(node: Node, kind: str, count: int) -> list[tuple[int, int]]:
    axes = node.attributes.get(f"scan_{kind}_axes") or (0,) * count
    directions = node.attributes.get(f"scan_{kind}_directions") or (0,) * count
    return list(zip(axes, directions, strict=True))


__all__ = ["CONTROL", "FlexAttention", "If", "Loop", "Scan", "SequenceMap", "emit_control"]
