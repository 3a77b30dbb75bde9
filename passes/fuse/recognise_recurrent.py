"""Recurrent networks from primitives."""

from __future__ import annotations

from dataclasses import dataclass, replace

from graphopt.analysis import propagate
from graphopt.ir import Graph
from graphopt.passes.fuse import cells
from graphopt.passes.fuse.sequences import loops_to_layers, merge_steps
from graphopt.pipeline import Changes, Context, register
from graphopt.rewrite import RewritePass


@register("recognise-recurrent")
@dataclass(frozen=True)
class RecogniseRecurrent(RewritePass):
    """Make LSTM and GRU of the gates that their cells consist of, unrolled or in the body of a Scan or Loop.

    First every step becomes an operator of its own; then those that follow one another, with the same weights, become
    one, and so does a loop whose body is a step. Weights that are parameters of a captured module are left, for it
    would lose them.
    """

    rules = cells.RULES
    looks_for = frozenset({"LSTM", "GRU", "Sigmoid"})

    def run(self, graph: Graph, context: Context) -> Changes:
        changes = super().run(graph, context)
        propagate(graph)
        merged, lifted = merge_steps(graph, self.name), loops_to_layers(graph, self.name)
        counts = {**changes.counts, "steps-merged": merged, "loops-lifted": lifted}
        return replace(changes, modified=changes.modified or bool(merged or lifted), counts=counts)
