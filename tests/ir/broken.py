"""Small graphs for the tests of the verifier to break."""

import pytest
import torch

from graphopt.errors import VerifyError
from graphopt.ir import DType, Graph, Node, TensorType, verify


def chain() -> tuple[Graph, list[Node]]:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.FLOAT32, (2,)))
    graph.add_constant(torch.zeros(2), "c")
    for index in range(3):
        x = graph.add("Relu", x, name=f"relu{index}")
        x.name = f"v{index}"
    graph.add_output(x, "y")
    return graph, list(graph.nodes)


def branches() -> tuple[Graph, Node, Graph, Graph]:
    graph, nodes = chain()
    bodies = []
    for name in ("then", "else"):
        body = Graph(name)
        body.add_output(body.add("Neg", nodes[0].output, name=f"{name}_neg"), "b")
        bodies.append(body)
    owner = graph.append(
        Node("If", [nodes[1].output], {"then_branch": bodies[0], "else_branch": bodies[1]}, name="choice")
    )
    return graph, owner, bodies[0], bodies[1]


def fails(graph: Graph, what: str, where: str = "") -> VerifyError:
    with pytest.raises(VerifyError, match=what) as caught:
        verify(graph)
    assert where in (caught.value.where or "")
    return caught.value
