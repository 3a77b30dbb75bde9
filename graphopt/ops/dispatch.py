"""Which function computes a node where the record's own cannot: torch lacks the element type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from graphopt.ir import DType, Node
from graphopt.ops import strings, unsigned

_WIDE = frozenset({DType.UINT16, DType.UINT32, DType.UINT64})


def _choose(op: str, domain: str, wide: bool, text: bool) -> Callable[..., Any] | None:
    if domain or not (wide or text) or unsigned.schema_of(op) is None:
        return None
    if text:
        return None if op in strings.NATIVE else strings.coded
    return None if op in unsigned.NATIVE else unsigned.widened


def stand_in(node: Node) -> Callable[..., Any] | None:
    """The function that computes `node`, by the types of its inputs: called with the operator's name, then as usual.

    ``None`` where the record's computation does.
    """
    if node.bodies:
        return None
    types = {v.tensor_type.dtype for v in node.inputs if v is not None}
    return _choose(node.op, node.domain, not types.isdisjoint(_WIDE), DType.STRING in types)


def stand_in_for(node: Node, inputs: Sequence[Any]) -> Callable[..., Any] | None:
    """As `stand_in`, by the inputs themselves."""
    return _choose(node.op, node.domain, unsigned.any_wide(inputs), strings.any_strings(inputs))


__all__ = ["stand_in", "stand_in_for"]
