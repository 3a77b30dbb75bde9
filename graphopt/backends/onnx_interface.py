"""What callers know of a model: the names of its outputs' dimensions stay those of the file that was read."""

from __future__ import annotations

from graphopt.ir import Dim, Graph, TensorType, ValueType
from graphopt.ir.dims import is_symbolic


def declared_outputs(graph: Graph) -> dict[str, ValueType]:
    """Types to write for outputs, by name, in place of what shape propagation found.

    A dimension that the file named keeps its name where propagation has an expression for it, or a number. This holds
    while the inputs are as the file declared them: who renames or fixes a size there gets what follows from it.
    """
    declared = graph.model.declared
    if not declared or any(declared.get(value.name, value.type) != value.type for value in graph.inputs):
        return {}
    types: dict[str, ValueType] = {}
    for value, name in zip(graph.outputs, graph.output_names, strict=True):
        told, found = declared.get(name), value.type
        if isinstance(told, TensorType) and isinstance(found, TensorType) and _agree(told, found):
            types[name] = found.with_shape(tuple(map(_named, told.shape or (), found.shape or ())))
    return types


def _agree(told: TensorType, found: TensorType) -> bool:
    return told.rank is not None and told.rank == found.rank and told.sparse == found.sparse


def _named(told: Dim, found: Dim) -> Dim:
    return told if is_symbolic(told) or found is None else found
