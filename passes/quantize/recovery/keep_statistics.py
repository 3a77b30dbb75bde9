"""keep-statistics: what batch normalizations say of their channels, kept for when they are folded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Graph
from graphopt.passes.quantize.recovery.statistics import note, statistics_of
from graphopt.pipeline import Changes, Context, Contract, Pass, register


@register("keep-statistics")
@dataclass(frozen=True)
class KeepStatistics(Pass):
    """Note the mean and deviation of each channel behind a BatchNormalization, so that folding it does not lose them.

    They are its shift and scale. The notes are metadata of nodes, which `fuse` hands on and `save` writes;
    `absorb-bias` and ``correct-bias{method=analytic}``, which need no data where there are notes, read them, `equalize`
    keeps them true, and the latter takes them out in the end. Runs right before `fuse`: pruning or training in between
    would make them wrong.
    """

    contract: ClassVar[Contract] = Contract.EXACT
    looks_for: ClassVar[frozenset[str]] = frozenset({"BatchNormalization"})

    def run(self, graph: Graph, context: Context) -> Changes:
        count = 0
        for node in graph.nodes:
            known = statistics_of(node.outputs[0]) if node.op == "BatchNormalization" and not node.domain else None
            count += known is not None and note(node, known)
        return Changes(count > 0, counts={"normalizations": count})
