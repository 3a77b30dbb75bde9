"""Bringing the output types of a single node up to date."""

from __future__ import annotations

import itertools

from graphopt.errors import ShapeError
from graphopt.ir import UNKNOWN, DType, Node, TensorType, Value, ValueType
from graphopt.ops.record import record_of


def infer_node(node: Node) -> list[Value]:
    """Recomputes the types and contents of one node's outputs; returns the outputs that changed."""
    record = record_of(node)
    if record is None or record.infer is None:
        return []
    try:
        types = record.infer(node)
        contents = record.evaluate(node) if record.evaluate else ()
    except ShapeError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise ShapeError(
            f"inputs or attributes of {node.op} are not as its definition has them ({type(error).__name__}: {error})",
            where=node.describe(),
            hint="check the number of inputs and the attributes",
        ) from error
    changed = []
    for value, new in itertools.zip_longest(node.outputs, types):
        if value is None or new is None:
            continue
        merged = merge(_without(value.type, value.inferred), new, node)
        value.inferred = new
        if merged != value.type:
            value.type = merged
            changed.append(value)
    for value, known in zip(node.outputs, contents, strict=False):
        before = value.known
        value.known = known
        if value.known is not before and value not in changed:
            changed.append(value)
    return changed


def merge(old: ValueType, new: ValueType, node: Node) -> ValueType:
    """The better of a type that was there and the one that a rule gives: the rule wins wherever it knows.

    Where the rule knows less, what was there stays: a file or a tracer tells sizes that no rule can (of NonZero, of an
    operator without a record), rewrites keep what a value holds, pruning stops at operators without a relation, and
    `graphopt.analysis.bind` names new sizes in every type. What the rule itself gave before is not among that: it knows
    less now because an input was widened.
    """
    if not isinstance(new, TensorType):
        return new
    if not isinstance(old, TensorType):
        return new if new != UNKNOWN else old
    dtype = new.dtype if new.dtype is not DType.UNDEFINED else old.dtype
    if new.shape is None:
        return TensorType(dtype, old.shape, new.sparse)
    if old.shape is None or len(old.shape) != len(new.shape):
        return TensorType(dtype, new.shape, new.sparse)
    return TensorType(
        dtype, tuple(o if n is None else n for n, o in zip(new.shape, old.shape, strict=True)), new.sparse
    )


def _without(told: ValueType, inferred: ValueType | None) -> ValueType:
    """A type without what the rule gave the last time."""
    if not isinstance(told, TensorType) or not isinstance(inferred, TensorType):
        return told
    if told == inferred:
        return UNKNOWN
    dtype = DType.UNDEFINED if told.dtype is inferred.dtype else told.dtype
    if told.shape is None or inferred.shape is None or len(told.shape) != len(inferred.shape):
        return TensorType(dtype, told.shape, told.sparse)
    shape = tuple(None if t == i else t for t, i in zip(told.shape, inferred.shape, strict=True))
    return TensorType(dtype, shape, told.sparse)
