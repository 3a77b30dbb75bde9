"""Choices: integer values whose elements are indices of a dimension, from where they are made to where they look it up.

What is known of such a value are its *sources*: the axis that all of its elements are indices of, or an axis for each
index of its last dimension (as GatherND takes them), -1 where it is not known. Axes are numbered by whoever asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from graphopt.ir import Node, TensorType, Value
from graphopt.ops import DimRef, Relation, record_of

Sources: TypeAlias = tuple[int, ...]


def looked_up(node: Node, relation: Relation, value: Value) -> tuple[DimRef, ...]:
    """The dimensions that `node` looks up by the elements of `value`: one, or one for each index of its last."""
    if node.inputs.count(value) > 1:
        return ()
    return relation.columns.get(value) or ((relation.positions[value],) if value in relation.positions else ())


def handed_on(node: Node, relation: Relation, value: Value, chosen: Mapping[Value, Sources]) -> Sources | None:
    """What is known of the results of a node that reads the choice `value`.

    Returns:
        the sources, none where nobody reads a number; ``None`` for a node that computes with the numbers.
    """
    record = record_of(node)
    if record is None:
        return None
    if record.shape_only or _only_shapes_are_read(node.outputs):
        return ()
    if record.joins:
        return _joined(node, relation, chosen)
    if not record.moves or node.inputs.index(value) != 0 or not _are_integers(node.outputs):
        return None
    sources = chosen[value]
    return sources if len(sources) == 1 or _keeps_columns(node, relation, value) else None


def _only_shapes_are_read(values: Iterable[Value]) -> bool:
    users = [user for value in values for user in value.users]
    records = [record_of(user) if isinstance(user, Node) else None for user in users]
    return bool(users) and all(record is not None and record.shape_only for record in records)


def _keeps_columns(node: Node, relation: Relation, value: Value) -> bool:
    """Whether the last dimension of `value` is the last one of the results, index for index."""
    axes = relation.axes.get((value, (value.rank or 0) - 1))
    return bool(axes) and all(relation.axes.get((y, (y.rank or 0) - 1)) == axes for y in node.outputs)


def _joined(node: Node, relation: Relation, chosen: Mapping[Value, Sources]) -> Sources | None:
    operands = [value for value in node.inputs if value is not None]
    parts = {each.part[0]: each for each in relation.selections}
    if set(operands) != set(parts):
        return None
    known = [chosen.get(operand, (-1,)) for operand in operands]
    if relation.selections[0].part[1] != (node.output.rank or 0) - 1:
        return known[0] if len(set(known)) == 1 else None
    columns: Sources = ()
    for operand, sources in zip(operands, known, strict=True):
        columns += sources if len(sources) > 1 else sources * len(parts[operand].index)
    return columns[:1] if len(set(columns)) == 1 else columns


def _are_integers(values: Iterable[Value]) -> bool:
    return all(isinstance(value.type, TensorType) and value.dtype.is_integer for value in values)


__all__ = ["Sources", "handed_on", "looked_up"]
