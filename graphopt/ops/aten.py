"""Torch operators without a counterpart in the vocabulary, carried as they are.

Such a node has domain ``"aten"``, the operator's name (``"unfold"``; ``"library::name"`` for operators of another torch
library) and overload (``"default"``). Its inputs are the tensors and sizes among the call's arguments, in order of
appearance. Everything else is in one attribute, ``args``, a JSON text::

    {"args": [{"operand": 0}, 2, [3, {"size": 1}], {"dtype": "float32"}], "kwargs": {"dim": 1}}

``{"operand": i}`` stands for input i, a tensor; ``{"size": i}`` for input i, a 0-d integer tensor that torch takes as a
Python number. ``pack`` writes it, ``unpack`` reads it back, ``function_of`` finds the torch operator.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from graphopt.errors import UnsupportedOperatorError
from graphopt.ir import Node, ValueType
from graphopt.ops.record import Operator, register_domain

DOMAIN = "aten"


def pack(
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    is_operand: Callable[[Any], bool],
    is_size: Callable[[Any], bool] = lambda _: False,
) -> tuple[list[Any], str]:
    """Splits a call's arguments into operands and the text that goes into the attribute ``args``.

    Args:
        args: positional arguments, nested lists allowed.
        kwargs: keyword arguments.
        is_operand: tells what becomes an input of the node.
        is_size: tells which operands torch takes as numbers.

    Raises:
        TypeError: an argument that cannot be written.
    """
    operands: list[Any] = []

    def write(item: Any) -> Any:
        if is_operand(item):
            operands.append(item)
            return {"size" if is_size(item) else "operand": len(operands) - 1}
        if isinstance(item, list | tuple):
            return [write(each) for each in item]
        return _write_literal(item)

    tree = {"args": [write(item) for item in args], "kwargs": {name: write(item) for name, item in kwargs.items()}}
    return operands, json.dumps(tree)


def unpack(text: str, operands: Sequence[Any], size: Callable[[Any], Any] = int) -> tuple[list[Any], dict[str, Any]]:
    """The positional and keyword arguments of the call, with `operands` in their places.

    Args:
        text: what `pack` wrote.
        operands: for each input of the node what stands for it: a tensor, an fx node, ...
        size: turns an operand into the number that torch wants.
    """

    def read(item: Any) -> Any:
        if isinstance(item, list):
            return [read(each) for each in item]
        if not isinstance(item, dict):
            return item
        [(kind, content)] = item.items()
        if kind == "operand":
            return operands[content]
        if kind == "size":
            return size(operands[content])
        return _READERS[kind](content)

    tree = json.loads(text)
    return [read(item) for item in tree["args"]], {name: read(item) for name, item in tree["kwargs"].items()}


def function_of(node: Node) -> Any:
    """The torch operator (an ``OpOverload``) that a carried node applies.

    Raises:
        UnsupportedOperatorError: this torch does not have it.
    """
    library, _, name = node.op.rpartition("::")
    packet = getattr(getattr(torch.ops, library or "aten"), name, None)
    function = getattr(packet, node.overload or "default", None)
    if function is None:
        raise UnsupportedOperatorError(
            f"torch {torch.__version__} has no operator {library or 'aten'}::{name}.{node.overload}",
            where=node.describe(),
            hint="import the library that defines it",
        )
    return function


def name_of(function: Any) -> tuple[str, str]:
    """The ``op`` and ``overload`` of a node that applies the ``OpOverload`` `function`."""
    library, _, name = function._schema.name.partition("::")
    return (name if library == "aten" else f"{library}::{name}"), function._overloadname


def _write_literal(item: Any) -> Any:
    if isinstance(item, float) and not math.isfinite(item):
        return {"float": str(item)}
    if item is None or isinstance(item, bool | int | float | str):
        return item
    if isinstance(item, complex):
        return {"complex": [item.real, item.imag]}
    for kind, cls in _NAMED.items():
        if isinstance(item, cls):
            return {kind: str(item).removeprefix("torch.")}
    raise TypeError(f"an argument of type {type(item).__name__} cannot be carried")


_NAMED: dict[str, type] = {
    "dtype": torch.dtype,
    "device": torch.device,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
}
_READERS: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "complex": lambda parts: complex(*parts),
    "dtype": lambda name: getattr(torch, name),
    "device": torch.device,
    "layout": lambda name: getattr(torch, name),
    "memory_format": lambda name: getattr(torch, name),
}


def _record(node: Node) -> Operator:
    def infer(node: Node) -> list[ValueType]:
        return [value.type for value in node.outputs]

    def compute(*operands: torch.Tensor, args: str) -> Any:
        positional, keywords = unpack(args, operands)
        result = function_of(node)(*positional, **keywords)
        return tuple(result) if isinstance(result, list | tuple) else result

    nondeterministic = torch.Tag.nondeterministic_seeded in function_of(node).tags
    return Operator(node.op, infer, compute, domain=DOMAIN, random=nondeterministic)


register_domain(DOMAIN, _record)

__all__ = ["DOMAIN", "function_of", "name_of", "pack", "unpack"]
