"""Call forms: how operators without weights read in torch, as a table from operators to writers.

A writer gives the fx node (or one per output) for a node of the graph, or ``None`` where torch's own function would not
be the same; then the record's computation is called instead.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from graphopt.backends.torch_calls_math import MATH
from graphopt.backends.torch_calls_nn import LAYERS
from graphopt.backends.torch_calls_shape import SHAPES
from graphopt.backends.torch_quant import emit_dequantize
from graphopt.ir import Node
from graphopt.ops import record_of

#: Operator -> writer. Add an entry to teach the backend another idiom.
CALLS: Mapping[str, Callable[..., Any]] = {**SHAPES, **MATH, **LAYERS, "DequantizeLinear": emit_dequantize}


def steering(node: Node, index: int) -> str:
    """Whether the record's computation takes Python numbers for input `index`: "vector", "scalar", or "" for tensors.

    Its annotation tells: ``IntVector``, or a tensor or a number.
    """
    record = record_of(node)
    assert record is not None and record.compute is not None
    kinds = _kinds(record.compute)
    return kinds[index] if index < len(kinds) else ""


@cache
def _kinds(compute: Callable[..., Any]) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(compute).parameters.values()
    except ValueError:
        return ()
    return tuple(_kind(str(p.annotation)) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)


def _kind(annotation: str) -> str:
    if any(name in annotation for name in ("IntVector", "FloatVector", "Axes", "Sequence[int]", "Sequence[float]")):
        return "vector"
    parts = {part.strip() for part in annotation.split("|")}
    return "scalar" if parts & {"int", "float", "bool"} else ""


__all__ = ["CALLS", "steering"]
