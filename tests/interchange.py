"""Graphs through other libraries: onnx_ir loses nothing, onnx-graphsurgeon only what it has no place for."""

from __future__ import annotations

import graphopt as go
from graphopt.ir import Graph, difference


def through_other_libraries(graph: Graph) -> None:
    """Asserts that a graph comes back from both the same."""
    plain = go.load(go.to_onnx(graph))
    assert difference(plain, go.load(go.to_onnx_ir(graph)), provenance=True) is None
    assert difference(plain, go.load(go.to_graphsurgeon(graph))) is None
