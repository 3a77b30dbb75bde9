"""Dead code: nodes and constants that nothing reads."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir import Graph
from graphopt.pipeline import Changes, Context, Pass, register
from graphopt.rewrite.replace import is_kept


@register("eliminate-dead")
@dataclass(frozen=True)
class EliminateDead(Pass):
    """Remove nodes whose outputs nothing reads, and constants that nothing reads.

    Parameters and persistent buffers of a captured module stay, used or not, because its ``state_dict`` has them.

    Attributes:
        parameters: remove unused parameters and buffers, too.
    """

    parameters: bool = False

    def run(self, graph: Graph, context: Context) -> Changes:
        nodes = sum(_erase_nodes(scope) for scope in reversed(list(graph.graphs())))
        constants = 0
        for scope in graph.graphs():
            for value in list(scope.constants):
                if not value.uses and (self.parameters or not is_kept(value)):
                    scope.remove_constant(value)
                    constants += 1
        return Changes(bool(nodes or constants), {"nodes": nodes, "constants": constants})


def _erase_nodes(graph: Graph) -> int:
    erased = 0
    for node in reversed(graph):
        # A node without outputs is there for what it does, not for what it gives.
        if node.outputs and not any(value.uses for value in node.outputs):
            graph.erase(node)
            erased += 1
    return erased
