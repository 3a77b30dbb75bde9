"""Depth pruning: whole residual blocks."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import torch

from graphopt.errors import DataError, OptionError, PassError
from graphopt.ir import Graph, Node, Value
from graphopt.ir.names import unique_names
from graphopt.passes.prune.blocks import Block, find_blocks
from graphopt.passes.prune.budget import unweighed
from graphopt.passes.prune.criteria import Evidence, find_criterion
from graphopt.pipeline import Changes, Context, Contract, Pass, register
from graphopt.runtime.executor import run


@register("prune-depth")
@dataclass(frozen=True)
class PruneDepth(Pass):
    """Remove the least important residual blocks: ``x + f(x)`` becomes ``x``.

    Attributes:
        ratio: part of the blocks to remove; where neither a number nor a budget is given.
        blocks: number of blocks to remove.
        params: budget: part of the parameters that is to be left.
        macs: budget: part of the multiply-accumulates that is to be left.
        criterion: "change" (needs data) scores a block by how far it turns what flows through it, 1 - cos(x, x + f(x))
            (Men et al., ShortGPT, 2024); any other criterion for weights sums over the block's weights.
        ignore: patterns of block names (module paths) to leave alone ("layer1.0").
        batches: most batches of the data that a criterion reads; 0 reads all.
    """

    contract: ClassVar[Contract] = Contract.MASKED
    takes: ClassVar[frozenset[str]] = frozenset({"loss"})

    ratio: float = 0.25
    blocks: int | None = None
    params: float | None = None
    macs: float | None = None
    criterion: str = "l1"
    ignore: tuple[str, ...] = ()
    batches: int = 16

    def __post_init__(self) -> None:
        budgets = [name for name in ("blocks", "params", "macs") if getattr(self, name) is not None]
        for name, good, hint in (
            ("ratio", 0 <= self.ratio <= 1, "from 0 to 1"),
            ("blocks", self.blocks is None or self.blocks >= 0, "0 or more"),
            ("params", self.params is None or 0 < self.params < 1, "the part that is to be left: 0 < params < 1"),
            ("macs", self.macs is None or 0 < self.macs < 1, "the part that is to be left: 0 < macs < 1"),
            ("batches", self.batches >= 0, "0 or more"),
        ):
            if not good:
                raise OptionError(
                    f"{name} is {getattr(self, name)}", where=f"prune-depth{{{name}}}", hint=f"give {hint}"
                )
        if len(budgets) > 1:
            raise OptionError(f"several of {', '.join(budgets)}", where="prune-depth", hint="give one")
        if self.criterion != "change" and find_criterion(self.criterion).elements is None:
            raise OptionError(
                f"criterion {self.criterion} ranks channels, not blocks", where="prune-depth{criterion}",
                hint="change, l1, taylor",
            )  # fmt: skip

    def run(self, graph: Graph, context: Context) -> Changes:
        unique_names(graph)
        found = find_blocks(graph)
        if not found:
            raise PassError(
                "there are no residual blocks to remove", where=self.name,
                hint="a block is a sum x + f(x) of one shape whose branch nothing else reads",
            )  # fmt: skip
        free = self._free(found)
        scores = self._scores(free, graph, context)
        order = sorted(range(len(free)), key=lambda k: (scores[k], -k))
        chosen = [free[k] for k in order[: self._number([free[k] for k in order], context)]]
        zeroed = []
        for block in chosen:
            if block.add.graph is not None:  # it may have gone with a block around it
                zeroed.append(block.branch.name)
                block.remove(graph)
        rows = [{"block": b.name, "score": s, "params": b.params, "macs": b.macs(context.sizes), "removed": b in chosen}
                for b, s in zip(free, scores, strict=True)]  # fmt: skip
        names = ", ".join(block.name for block in chosen)
        notes = [f"{len(chosen)} of {len(found)} blocks removed" + (f": {names}" if names else "")]
        if self.macs is not None:
            notes += filter(None, [unweighed(graph, context.sizes)])
        return Changes(
            bool(chosen), counts={"blocks": len(chosen)}, notes=tuple(notes),
            details={"zeroed": zeroed, "blocks": rows},
        )  # fmt: skip

    def _free(self, blocks: Sequence[Block]) -> list[Block]:
        for pattern in self.ignore:
            if not any(fnmatch.fnmatchcase(block.name, pattern) for block in blocks):
                raise OptionError(
                    f"ignore pattern '{pattern}' matches no block", where="ignore",
                    hint=f"the blocks are: {', '.join(block.name for block in blocks)}",
                )  # fmt: skip
        return [b for b in blocks if not any(fnmatch.fnmatchcase(b.name, pattern) for pattern in self.ignore)]

    def _number(self, order: Sequence[Block], context: Context) -> int:
        """How many blocks of `order` go."""
        if self.blocks is not None:
            if self.blocks > len(order):
                raise PassError(
                    f"{self.blocks} blocks are to go and {len(order)} can", where=self.name, hint="lower blocks"
                )
            return self.blocks
        figure = "params" if self.params is not None else "macs"
        target = getattr(self, figure)
        if target is None:
            return int(self.ratio * len(order) + 1e-9)
        cost = context.cost()
        whole = cost.weights if figure == "params" else cost.macs
        left = [1.0]
        for block in order:
            gone = block.params if figure == "params" else block.macs(context.sizes)
            left.append(left[-1] - gone / max(whole, 1))
        if left[-1] > target * 1.02:
            raise PassError(
                f"{figure}={target:g} cannot be reached: without any block {left[-1]:.3f} of it is left",
                where=self.name, hint="prune channels as well",
            )  # fmt: skip
        return min(range(len(left)), key=lambda count: abs(left[count] - target))

    def _scores(self, blocks: Sequence[Block], graph: Graph, context: Context) -> list[float]:
        if self.criterion == "change":
            return _change(blocks, graph, context, self.batches)
        rule, evidence = find_criterion(self.criterion).elements, Evidence(context, graph, self.batches)
        assert rule is not None
        scores = []
        for block in blocks:
            parts = [rule(value, evidence) for value in block.weights if value.dtype.is_float]
            scores.append(abs(sum(float(part.double().sum()) for part in parts if part is not None)))
        return scores


def _change(blocks: Sequence[Block], graph: Graph, context: Context, batches: int) -> list[float]:
    if not context.has_data:
        raise DataError(
            "criterion change needs data and the run was given none", where="criterion",
            hint="pass data=..., or --data FILE.npz; or take l1",
        )  # fmt: skip
    wanted = {value for block in blocks for value in (block.add.operand(block.place), block.add.output)}
    skips = {block.add: k for k, block in enumerate(blocks)}
    totals, count = [0.0] * len(blocks), 0
    for batch in islice(context.data, batches or None):
        tensors: dict[Value, torch.Tensor] = dict(zip(graph.inputs, batch.inputs, strict=True))

        def note(node: Node, results: tuple[Any, ...], tensors: dict[Value, torch.Tensor] = tensors) -> tuple[Any, ...]:
            tensors.update((v, r) for v, r in zip(node.outputs, results, strict=False) if v in wanted)
            if node in skips:
                skip = node.operand(blocks[skips[node]].place)
                before, after = tensors[skip].flatten(), results[0].flatten()
                totals[skips[node]] += 1 - float(torch.cosine_similarity(before, after, dim=0))
            return results

        run(graph, batch.inputs, hook=note)
        count += 1
    return [total / count for total in totals]
