"""Weights from a trained torch module back into its graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from graphopt.analysis.shapes import propagate
from graphopt.backends.torch_plan import Binding, plan
from graphopt.errors import DataError, ShapeError
from graphopt.ir import Graph, Value
from graphopt.ir.expect import expect_graph, expect_module


def bindings(graph: Graph) -> Iterator[tuple[str, Binding]]:
    """All weights of a graph and the bodies inside it, with the path of the module that each binding is relative to."""
    propagate(graph)
    yield from _bindings(graph, "")


def _bindings(graph: Graph, prefix: str) -> Iterator[tuple[str, Binding]]:
    made = plan(graph)
    for binding in made.bindings:
        yield prefix, binding
    for node, path in made.bodies.items():
        for name, body in node.attributes.items():
            if isinstance(body, Graph):
                yield from _bindings(body, f"{prefix}{path}.{name}.")


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """All parameters and buffers of a module by name, under every name that they have."""
    found: dict[str, torch.Tensor] = dict(module.named_parameters(remove_duplicate=False))
    found.update(module.named_buffers(remove_duplicate=False))
    return found


def update_from(graph: Graph, module: nn.Module) -> None:
    """Takes the weights and statistics of a trained module back into the graph.

    The constants get new tensors, copied from the module; their element types and devices stay. Nothing is changed when
    something does not fit.

    Args:
        graph: the graph that `module` was made from (by `to_torch`), or captured from, not edited since.
        module: the module; copies of the original one will do.

    Raises:
        DataError: the module lacks a weight of the graph.
        ShapeError: a weight has another shape in the module; the message names it.
        OptionError: `module` is no module.
    """
    expect_graph(graph, "update_from")
    expect_module(module, "update_from")
    have = tensors_of(module)
    updates: list[tuple[Value, torch.Tensor]] = []
    for prefix, binding in bindings(graph):
        old = binding.value.data
        assert old is not None
        keys = [prefix + key for key in binding.keys]
        expected = [tuple(tensor.shape) for tensor in binding.unpack(old)]
        for key, shape in zip(keys, expected, strict=True):
            _check(key, have, shape)
        if binding.parameter.buffer and not binding.parameter.persistent and keys[0] not in have:
            continue
        new = binding.pack([have[key].detach() for key in keys]).to(dtype=old.dtype, device=old.device)
        if not torch.equal(new, old):
            updates.append((binding.value, new.clone()))
    for value, tensor in updates:
        value.data = tensor


def _check(key: str, have: Mapping[str, torch.Tensor], shape: tuple[int, ...]) -> None:
    if key not in have:
        raise DataError(
            f"the module has no '{key}', which the graph does",
            hint="give the module that to_torch made from this graph, before further passes ran",
        )
    if tuple(have[key].shape) != shape:
        raise ShapeError(
            f"'{key}' is {list(have[key].shape)} in the module and {list(shape)} in the graph",
            hint="give the module that to_torch made from this graph, before further passes ran",
        )


__all__ = ["bindings", "tensors_of", "update_from"]
