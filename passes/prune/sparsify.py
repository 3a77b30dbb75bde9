"""Weight pruning: single weights, wherever they are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Literal, TypeAlias

import torch

from graphopt.errors import DataError, OptionError, PassError
from graphopt.ir import Graph, Value
from graphopt.ir.names import unique_names
from graphopt.passes.prune.criteria import Evidence, find_criterion
from graphopt.passes.prune.layers import input_dim, layer_weights
from graphopt.passes.prune.masks import keep_highest, keep_highest_of_each, keep_pattern
from graphopt.passes.prune.sparsegpt import ByPattern, ByRatio, grams, prune_matrix, sources
from graphopt.passes.train.zeros import SPARSE
from graphopt.pipeline import Changes, Context, Contract, Pass, register

#: A weight, its new data, and the mask of what stays.
Pruned: TypeAlias = tuple[Value, torch.Tensor, torch.Tensor]


@register("sparsify")
@dataclass(frozen=True)
class Sparsify(Pass):
    """Make the least important weights of layers zero (or small); shapes stay, and finetune keeps the zeros.

    Biases, normalisations and tables that no layer multiplies with are left alone.

    Attributes:
        ratio: part of the weights to remove, where neither a threshold nor a pattern is given.
        threshold: remove every weight whose score is below it (with l1: ``W * (abs(W) > T)``).
        scope: "layer" removes the ratio of every weight tensor, "global" ranks all together, "output" removes the
            ratio of what each output reads (each kernel position apart), as Wanda's paper does.
        criterion: importance of single weights: l1, l2, lamp, random; with data wanda; with labels taylor, obd-c,
            hessian.
        pattern: "2of4" (or "2:4") keeps 2 of every 4 neighbouring inputs of an output, as NVIDIA's sparse cores want.
        factor: what the removed weights are multiplied by: 0, or a little (0.1) that training can revive.
        ignore: patterns of parameter names or module paths to leave alone.
        batches: most batches of the data that are read; 0 reads all.
        method: "mask" takes away what scores low; "sparsegpt" also changes what stays, to make up for what goes
            (Frantar and Alistarh, ICML 2023), in matrices of linear layers, from data without labels.
    """

    contract: ClassVar[Contract] = Contract.APPROXIMATE
    takes: ClassVar[frozenset[str]] = frozenset({"loss"})

    ratio: float = 0.5
    threshold: float | None = None
    scope: Literal["layer", "global", "output"] = "layer"
    criterion: str = "l1"
    pattern: str = ""
    factor: float = 0.0
    ignore: tuple[str, ...] = ()
    batches: int = 16
    method: Literal["mask", "sparsegpt"] = "mask"

    def __post_init__(self) -> None:
        for name, good, hint in (
            ("ratio", 0 <= self.ratio < 1, "give 0 <= ratio < 1"),
            ("threshold", self.threshold is None or self.threshold >= 0, "give 0 or more"),
            ("pattern", not self.pattern or self._pattern is not None, "write n of m with 0 < n < m, such as 2of4"),
            ("factor", 0 <= self.factor < 1, "give 0, or a little (0.1)"),
            ("batches", self.batches >= 0, "give 0 or more"),
            ("threshold", self.threshold is None or not self.pattern, "give a threshold or a pattern"),
            *self._sparsegpt_takes(),
        ):
            if not good:
                raise OptionError(f"{name} is {getattr(self, name)}", where=f"sparsify{{{name}}}", hint=hint)
        if find_criterion(self.criterion).elements is None:
            raise OptionError(
                f"criterion {self.criterion} ranks channels, not single weights", where="sparsify{criterion}",
                hint="l1, l2, lamp, wanda, taylor, hessian",
            )  # fmt: skip

    def _sparsegpt_takes(self) -> Iterator[tuple[str, bool, str]]:
        if self.method == "sparsegpt":
            yield "threshold", self.threshold is None, "leave it out: sparsegpt takes a ratio or a pattern"
            yield "scope", self.scope == "layer", "leave it out: sparsegpt prunes each layer on its own"
            yield "criterion", self.criterion == "l1", "leave it out: sparsegpt has its own"
            yield "factor", self.factor == 0, "leave it out: sparsegpt makes zeros"

    @property
    def _pattern(self) -> tuple[int, int] | None:
        match = re.fullmatch(r"(\d+)(?::|of)(\d+)", self.pattern)
        n, m = (int(match[1]), int(match[2])) if match else (0, 0)
        return (n, m) if 0 < n < m else None

    def run(self, graph: Graph, context: Context) -> Changes:
        unique_names(graph)
        weights = layer_weights(graph, self.ignore)
        if not weights:
            raise PassError(
                "no layer has weights to make sparse", where=self.name,
                hint="look at ignore; sparsify comes before quantize",
            )  # fmt: skip
        select = self._compensated if self.method == "sparsegpt" else self._selected
        notes: list[str] = []
        table: list[dict[str, Any]] = []
        for value, data, keep in select(graph, weights, context, notes):
            if not bool(keep.all()):
                value.data = data
            table.append({"weight": value.name, "elements": data.numel(), "removed": int((~keep).sum())})
        removed, total = (sum(row[key] for row in table) for key in ("removed", "elements"))
        if not removed and self.ratio > 0:
            hint = "; ".join(["raise ratio or threshold, or change pattern", *notes])
            raise PassError("no weight is removed", where=self.name, hint=hint)
        if not self.factor:
            sparse = context.options.setdefault(SPARSE, set())
            sparse.update(row["weight"] for row in table if row["removed"])
        what = "made zero" if not self.factor else f"multiplied by {self.factor:g}"
        notes.insert(0, f"{removed} of {total} weights ({removed / max(total, 1):.1%}) {what}")
        return Changes(bool(removed), {"weights": removed}, tuple(notes), details={"weights": table})

    def _selected(self, graph: Graph, weights: Sequence[Value], context: Context, notes: list[str]) -> Iterator[Pruned]:
        """Weights by their scores alone."""
        evidence, rule = Evidence(context, graph, self.batches), find_criterion(self.criterion).elements
        assert rule is not None
        found = [(value, rule(value, evidence)) for value in weights]
        silent = [value.name for value, scores in found if scores is None]
        if silent:
            notes.append(f"criterion {self.criterion} says nothing about {', '.join(silent)}")
        scored = [(value, _finite(scores, value)) for value, scores in found if scores is not None]
        masks = self._keep([(input_dim(value), scores) for value, scores in scored])
        for (value, _), keep in zip(scored, masks, strict=True):
            if keep is None:
                notes.append(self._misfit(value))
            elif value.data is not None:
                # A product with 0 would leave negative zeros, which are no zeros to whoever compares bits.
                less = value.data * self.factor if self.factor else torch.zeros_like(value.data)
                yield value, torch.where(keep, value.data, less), keep

    def _compensated(
        self, graph: Graph, weights: Sequence[Value], context: Context, notes: list[str]
    ) -> Iterator[Pruned]:
        """Weights of linear layers, the rest of which makes up for what goes."""
        met = {value: found for value in weights if (found := sources(value)) is not None}
        others = [value.name for value in weights if value not in met]
        if others:
            notes.append(f"left alone, being no matrix of linear layers only: {', '.join(others)}")
        wanted = {source for _, each in met.values() for source in each}
        sums = grams(graph, islice(context.data, self.batches or None), wanted) if met else {}
        choose = ByRatio(self.ratio) if self._pattern is None else ByPattern(*self._pattern)
        for value, (dim, read) in met.items():
            data = value.data
            assert data is not None
            if data.shape[dim] % choose.span and self._pattern is not None:
                notes.append(self._misfit(value))
                continue
            _finite(data, value)
            gram = torch.stack([sums[source] for source in read]).sum(0)
            new, keep = prune_matrix(data.movedim(dim, 1), gram, choose)
            yield value, new.movedim(1, dim).contiguous(), keep.movedim(1, dim)

    def _misfit(self, value: Value) -> str:
        return f"{value.name} {list(value.shape or ())} has no inputs that divide by {self.pattern}"

    def _keep(self, scored: Sequence[tuple[int | None, torch.Tensor]]) -> list[torch.Tensor | None]:
        """For each weight which elements stay; ``None`` where the pattern does not fit."""
        scores = [each for _, each in scored]
        if self._pattern is not None:
            return [None if dim is None else keep_pattern(each, dim, *self._pattern) for dim, each in scored]
        if self.threshold is not None:
            return [each >= self.threshold for each in scores]
        if self.scope == "layer":
            return [keep_highest(each, self._removed(each.numel())) for each in scores]
        if self.scope == "output":
            return [
                keep_highest(each, self._removed(each.numel())) if dim is None
                else keep_highest_of_each(each, dim, self._removed(each.shape[dim]))
                for dim, each in scored
            ]  # fmt: skip
        if not scores:
            return []
        flat = torch.cat([each.flatten() for each in scores])
        parts = torch.split(keep_highest(flat, self._removed(len(flat))), [each.numel() for each in scores])
        return [part.reshape(each.shape) for part, each in zip(parts, scores, strict=True)]

    def _removed(self, elements: int) -> int:
        return int(self.ratio * elements + 1e-9)


def _finite(scores: torch.Tensor, value: Value) -> torch.Tensor:
    if not bool(torch.isfinite(scores).all()):
        raise DataError(
            f"weight '{value.name}' holds NaN or infinity, so its elements cannot be ranked", where=value.name,
            hint="repair the checkpoint, or put the layer on the ignore list",
        )  # fmt: skip
    return scores
