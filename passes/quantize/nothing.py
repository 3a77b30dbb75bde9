"""Why a graph has nothing that could be quantized."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from graphopt.ir import DType, Graph, Node


def why_nothing(graph: Graph, operators: Collection[str], *, bodies: bool) -> str:
    """What stands in the way of quantizing float32 operators, in words.

    Args:
        graph: the graph, none of whose nodes could be quantized.
        operators: those that are quantized elsewhere.
        bodies: those in bodies of control flow could be quantized, too.
    """
    nodes = [node for node in graph.walk() if not node.domain and node.op in operators]
    found = Counter(_reason(node, bodies or node.graph is graph) for node in nodes)
    if not found:
        return f"the graph has none of {', '.join(sorted(operators))}"
    return "of those that the graph has, " + "; ".join(f"{count} {reason}" for reason, count in found.most_common())


def _reason(node: Node, reached: bool) -> str:
    kind = node.operand(0).dtype
    if kind is DType.UNDEFINED:
        return "of a type that is not known"
    if kind.is_integer:
        return f"of integers ({kind}): quantized already"
    if kind is not DType.FLOAT32:
        return f"of {kind}, where float32 is quantized"
    if not reached:
        return "in bodies of control flow, where nothing is quantized"
    return "ignored, or of weights that are no constants"
