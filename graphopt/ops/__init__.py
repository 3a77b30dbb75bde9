"""The operators: one record each, families share a file."""

from graphopt.ops import activation, arithmetic, aten, cast, classic, detect, sequence, stateful, text, training, attention, rotary, rnn, conv, deform, matmul, loss, norm, roi, spectral, pool, elementwise, logic, along_axis, reduce, quant, quant_linear, concat, creation, expand, gather, pad, random, resize, sample, scatter, select, shape, slice, transpose, view  # noqa: F401  (importing a family registers its records)
from graphopt.ops.record import REQUIRED, Operator, attribute, execute, find, operators, record_of, register
from graphopt.ops.relation import Axis, DimRef, Relation, Selection, Shrinkage, labels

__all__ = [
    "REQUIRED", "Axis", "DimRef", "Operator", "Relation", "Selection", "Shrinkage", "attribute", "execute", "find",
    "labels", "operators", "record_of", "register",
]  # fmt: skip
