"""The executor: runs a graph node by node on torch tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from graphopt.errors import DataError, GraphoptError, PassError
from graphopt.ir import Graph, Node, OptionalType, Value, captured
from graphopt.ops import execute

#: Sees a node and the results of its computation, and may replace them.
Hook: TypeAlias = Callable[[Node, tuple[Any, ...]], tuple[Any, ...]]

#: Computes a node from its arguments in a way of its own, or leaves it to its operator with ``None``.
Instead: TypeAlias = Callable[[Node, Sequence[Any]], "tuple[Any, ...] | None"]


def run(
    graph: Graph,
    inputs: Sequence[Any] | Mapping[str, Any],
    *,
    hook: Hook | None = None,
    instead: Instead | None = None,
    constants: Mapping[Value, torch.Tensor] | None = None,
) -> list[Any]:
    """Computes the outputs of `graph`.

    Args:
        graph: the outermost graph.
        inputs: tensors or numpy arrays by position or by input name; inputs with a default may be left out.
        hook: called after each node of the outermost graph.
        instead: asked before each node of the outermost graph is computed.
        constants: tensors to use in place of the data of some constants.

    Returns:
        One entry per graph output. Intermediate tensors are dropped after their last use.

    Raises:
        DataError: an input is missing or unknown.
        UnsupportedOperatorError: an operator cannot be computed.
    """
    env: dict[Value, Any] = dict(constants or {})
    env.update(bind_inputs(graph, inputs))
    with torch.no_grad():
        return _run(graph, env, hook, instead)


def run_in_float64(
    graph: Graph,
    inputs: Sequence[Any] | Mapping[str, Any],
    *,
    hook: Hook | None = None,
    constants: Mapping[Value, torch.Tensor] | None = None,
) -> list[Any]:
    """Computes `graph` as `run` does, with all that is float32 in float64: what differs there is not rounding.

    Raises what `run` raises, also where an operator refuses float64.
    """
    given = dict(constants or {})
    for scope in graph.graphs():
        for value in scope.constants:
            if value.data is not None:
                given[value] = in_float64(given.get(value, value.data))
    lifted = {value.name: in_float64(tensor) for value, tensor in bind_inputs(graph, inputs).items()}

    def lift(node: Node, results: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(map(in_float64, results if hook is None else hook(node, results)))

    return run(graph, lifted, hook=lift, constants=given)


def in_float64(tensor: Any) -> Any:
    """A tensor of float32 in float64; anything else as it is."""
    return tensor.double() if isinstance(tensor, torch.Tensor) and tensor.dtype is torch.float32 else tensor


def values_of(
    graph: Graph, inputs: Sequence[Any] | Mapping[str, Any], wanted: Sequence[Value]
) -> dict[Value, torch.Tensor]:
    """Computes `graph` and returns the tensors of the values in `wanted`."""
    found: dict[Value, torch.Tensor] = {}
    targets = set(wanted)

    def keep(node: Node, results: tuple[Any, ...]) -> tuple[Any, ...]:
        for value, tensor in zip(node.outputs, results, strict=False):
            if value in targets:
                found[value] = tensor
        return results

    run(graph, inputs, hook=keep)
    for value, tensor in bind_inputs(graph, inputs).items():
        if value in targets:
            found[value] = tensor
    for value in targets:
        if value.data is not None:
            found.setdefault(value, value.data)
    return found


def bind_inputs(graph: Graph, inputs: Sequence[Any] | Mapping[str, Any]) -> dict[Value, Any]:
    """Matches tensors with the graph's inputs. Raises DataError when one is missing or there are too many."""
    names = [value.name for value in graph.inputs]
    if isinstance(inputs, Mapping):
        unknown = [name for name in inputs if name not in names]
        if unknown:
            raise DataError(f"the graph has no input '{unknown[0]}'", hint=f"its inputs are: {', '.join(names)}")
        given = [inputs.get(name) for name in names]
    else:
        if len(inputs) > len(names):
            raise DataError(f"{len(inputs)} inputs given, the graph has {len(names)}: {', '.join(names)}")
        given = [*inputs, *[None] * (len(names) - len(inputs))]
    bound = {}
    for value, tensor in zip(graph.inputs, given, strict=True):
        missing = tensor is None and value.data is None and value.strings is None
        if missing and not isinstance(value.type, OptionalType):
            raise DataError(f"input '{value.name}' is missing", hint=f"the graph's inputs are: {', '.join(names)}")
        bound[value] = _default(value) if tensor is None else _as_tensor(tensor)
    return bound


def _as_tensor(item: Any) -> Any:
    is_numbers = isinstance(item, np.ndarray) and item.dtype.kind in "biufc"
    return torch.from_numpy(item if item.flags.writeable else item.copy()) if is_numbers else item


def _run(graph: Graph, env: dict[Value, Any], hook: Hook | None, instead: Instead | None = None) -> list[Any]:
    remaining = _reads(graph)
    for node in graph.nodes:
        arguments = [None if value is None else _lookup(value, env) for value in node.inputs]
        given = instead(node, arguments) if instead is not None else None
        results = _execute(node, arguments, env) if given is None else given
        if hook is not None:
            results = hook(node, results)
        for value, result in zip(node.outputs, results, strict=False):
            if remaining[value]:
                env[value] = result
        for value in _read_by(node):
            remaining[value] -= 1
            if not remaining[value] and value.producer is not None and value.graph is graph:
                env.pop(value, None)
    return [_lookup(value, env) for value in graph.outputs]


def _lookup(value: Value, env: Mapping[Value, Any]) -> Any:
    if value in env:
        return env[value]
    return _default(value)


def _default(value: Value) -> Any:
    data = value.data
    if data is None:
        return value.strings
    if data.is_meta:  # torch would go on computing without numbers
        raise DataError(
            f"constant '{value.name}' has no data", hint="parse(text, weights) takes what the text leaves out"
        )
    return data


def _execute(node: Node, arguments: Sequence[Any], env: dict[Value, Any]) -> tuple[Any, ...]:
    if node.bodies:
        from graphopt.runtime.control import execute_control

        return execute_control(node, arguments, env, _run)
    try:
        return execute(node, arguments)
    except GraphoptError:
        raise
    except Exception as error:  # torch raises RuntimeError, IndexError, TypeError, ...; a record may be anybody's
        raise PassError(
            f"{type(error).__name__} while executing: {error}", where=node.describe(),
            hint="the inputs do not fit the operator; check shapes and element types",
        ) from error  # fmt: skip


def _read_by(node: Node) -> Iterator[Value]:
    for value in node.inputs:
        if value is not None:
            yield value
    yield from captured(node)


def _reads(graph: Graph) -> Counter[Value]:
    reads: Counter[Value] = Counter()
    for node in graph.nodes:
        reads.update(_read_by(node))
    reads.update(graph.outputs)
    return reads
