"""The operators: one record each, families share a file."""

# ruff: noqa: F401, I001  (importing a family registers its records)
from graphopt.ops import (
    activation, along_axis, arithmetic, aten, attention, cast, classic, concat, control, conv, creation, deform,
    detect, elementwise, expand, flex, gather, logic, loss, matmul, microsoft, norm, ort_fused, pad, pool, quant,
    quant_linear, random, reduce, resize, rnn, roi, rotary, sample, scatter, select, sequence, shape, slice, spectral,
    stateful, text, training, transpose, view,
)  # fmt: skip
from graphopt.ops.codes import real_values, zero_of
from graphopt.ops.record import REQUIRED, Operator, attribute, execute, find, operators, record_of, register
from graphopt.ops.relation import Axis, DimRef, Relation, Selection, Shrinkage, labels

__all__ = [
    "REQUIRED", "Axis", "DimRef", "Operator", "Relation", "Selection", "Shrinkage", "attribute", "execute", "find",
    "labels", "operators", "real_values", "record_of", "register", "zero_of",
]  # fmt: skip
