"""If with a condition that is known: the branch that is taken moves into the graph around it."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.analysis import propagate
from graphopt.ir import Graph, Node
from graphopt.ir.inline import inline
from graphopt.ops.infer import static_integers
from graphopt.pipeline import Changes, Context, Pass, register
from graphopt.rewrite import replace


@register("inline-if")
@dataclass(frozen=True)
class InlineIf(Pass):
    """Replace an If whose condition is a constant, or known from the shapes, by the branch that it takes."""

    looks_for = frozenset({"If"})

    def run(self, graph: Graph, context: Context) -> Changes:
        propagate(graph)
        inlined = 0
        stack = [node for node in graph.walk() if node.op == "If" and not node.domain]
        while stack:
            node = stack.pop()
            branch = _taken(node)
            if branch is None or node.graph is None:
                continue
            replace(node.outputs, inline(branch, node))
            if node.graph is not None:  # nothing read it
                node.graph.erase(node)
            inlined += 1
        return Changes(bool(inlined), {"inlined": inlined})


def _taken(node: Node) -> Graph | None:
    condition = static_integers(node.input(0))
    if condition is None or len(condition) != 1:
        return None
    branch = node.attributes["then_branch" if condition[0] else "else_branch"]
    return branch if isinstance(branch, Graph) else None
