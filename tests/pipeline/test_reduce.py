"""Reduction finds the nodes that a failure needs, and no others."""

from __future__ import annotations

import pytest

import graphopt as go
from graphopt.errors import OptionError, PipelineError
from graphopt.pipeline.reduce import failure_of, reduce_graph
from tests.pipeline.failing import network


def test_a_wrong_rewrite():
    graph = network()
    failing = reduce_graph(graph, "simplify,test-wrong-sum")
    assert sorted(node.op for node in graph) == ["Add", "Relu", "Sigmoid"]
    assert failing.step == "test-wrong-sum"
    assert failing.kind[0] == "EquivalenceError"
    graph.verify()
    again = go.load(go.to_onnx(graph))
    assert failing.is_like(failure_of(again, "simplify,test-wrong-sum"))


def test_a_crash():
    graph = network()
    failing = reduce_graph(graph, "test-crash-behind-gemm")
    assert [node.op for node in graph] == ["Gemm", "Tanh"]
    assert failing.kind == ("PassError", "IndexError")


def test_what_does_not_fail_cannot_be_reduced():
    graph = network()
    before = str(graph)
    with pytest.raises(OptionError, match="does not fail"):
        reduce_graph(graph, "simplify")
    assert str(graph) == before
    with pytest.raises(PipelineError, match="simplifi"):
        reduce_graph(graph, "simplifi")
