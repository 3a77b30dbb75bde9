"""Weight pruning: single weights, wherever they are."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from graphopt.errors import DataError, OptionError, PassError
from graphopt.ir import Graph, Value
from graphopt.ir.names import unique_names
from graphopt.ops import attribute, record_of
from graphopt.passes.prune.criteria import Evidence, find_criterion
from graphopt.passes.train.zeros import SPARSE
from graphopt.pipeline import Changes, Context, Contract, Pass, register


@register("sparsify")
@dataclass(frozen=True)
class Sparsify(Pass):
    """Make the least important weights of layers zero (or small); shapes stay, and finetune keeps the zeros.

    Biases, normalisations and tables that no layer multiplies with are left alone.

    Attributes:
        ratio: part of the weights to remove, where neither a threshold nor a pattern is given.
        threshold: remove every weight whose score is below it (with l1: ``W * (abs(W) > T)``).
        scope: "layer" removes the ratio of every weight tensor, "global" ranks all together.
        criterion: importance of single weights: l1, l2, lamp, random; with data wanda; with labels taylor, obd-c,
            hessian.
        pattern: "2of4" (or "2:4") keeps 2 of every 4 neighbouring inputs of an output, as NVIDIA's sparse cores want.
        factor: what the removed weights are multiplied by: 0, or a little (0.1) that training can revive.
        ignore: patterns of parameter names or module paths to leave alone.
        batches: most batches of the data that a criterion reads; 0 reads all.
    """

    contract: ClassVar[Contract] = Contract.APPROXIMATE

    ratio: float = 0.5
    threshold: float | None = None
    scope: Literal["layer", "global"] = "layer"
    criterion: str = "l1"
    pattern: str = ""
    factor: float = 0.0
    ignore: tuple[str, ...] = ()
    batches: int = 16

    def __post_init__(self) -> None:
        for name, good, hint in (
            ("ratio", 0 <= self.ratio < 1, "give 0 <= ratio < 1"),
            ("threshold", self.threshold is None or self.threshold >= 0, "give 0 or more"),
            ("pattern", not self.pattern or self._pattern is not None, "write n of m with 0 < n < m, such as 2of4"),
            ("factor", 0 <= self.factor < 1, "give 0, or a little (0.1)"),
            ("batches", self.batches >= 0, "give 0 or more"),
            ("threshold", self.threshold is None or not self.pattern, "give a threshold or a pattern"),
        ):
            if not good:
                raise OptionError(f"{name} is {getattr(self, name)}", where=f"sparsify{{{name}}}", hint=hint)
        if find_criterion(self.criterion).elements is None:
            raise OptionError(
                f"criterion {self.criterion} ranks channels, not single weights", where="sparsify{criterion}",
                hint="l1, l2, lamp, wanda, taylor, hessian",
            )  # fmt: skip

    @property
    def _pattern(self) -> tuple[int, int] | None:
        match = re.fullmatch(r"(\d+)(?::|of)(\d+)", self.pattern)
        n, m = (int(match[1]), int(match[2])) if match else (0, 0)
        return (n, m) if 0 < n < m else None

    def run(self, graph: Graph, context: Context) -> Changes:
        unique_names(graph)
        weights = self._weights(graph)
        if not weights:
            raise PassError(
                "no layer has weights to make sparse", where=self.name,
                hint="look at ignore; sparsify comes before quantize",
            )  # fmt: skip
        evidence, rule = Evidence(context, graph, self.batches), find_criterion(self.criterion).elements
        assert rule is not None
        scored: list[tuple[Value, int | None, torch.Tensor]] = []
        silent = []
        for value, dim in weights:
            scores = rule(value, evidence)
            if scores is None:
                silent.append(value.name)
            else:
                scored.append((value, dim, _finite(scores, value)))
        notes = [f"criterion {self.criterion} says nothing about {', '.join(silent)}"] if silent else []
        masks = self._keep([(dim, scores) for _, dim, scores in scored])
        table: list[dict[str, Any]] = []
        for (value, _, _), keep in zip(scored, masks, strict=True):
            if keep is None:
                notes.append(f"{value.name} {list(value.shape or ())} has no inputs that divide by {self.pattern}")
                continue
            data = value.data
            assert data is not None
            if not bool(keep.all()):
                value.data = torch.where(keep, data, data * self.factor)
            table.append({"weight": value.name, "elements": data.numel(), "removed": int((~keep).sum())})
        removed, total = (sum(row[key] for row in table) for key in ("removed", "elements"))
        if not removed and self.ratio > 0:
            raise PassError("no weight is removed", where=self.name, hint="raise ratio or threshold, or change pattern")
        if not self.factor:
            sparse = context.options.setdefault(SPARSE, set())
            sparse.update(row["weight"] for row in table if row["removed"])
        what = "made zero" if not self.factor else f"multiplied by {self.factor:g}"
        notes.insert(0, f"{removed} of {total} weights ({removed / max(total, 1):.1%}) {what}")
        return Changes(bool(removed), {"weights": removed}, tuple(notes), details={"weights": table})

    def _weights(self, graph: Graph) -> list[tuple[Value, int | None]]:
        names = [value.name for value in graph.constants]
        for pattern in self.ignore:
            if not any(_matches(name, pattern) for name in names):
                raise OptionError(
                    f"ignore pattern '{pattern}' matches no parameter", where="ignore",
                    hint="'graphopt inspect MODEL' lists the names",
                )  # fmt: skip
        read = _read_by_layers(graph)
        return [
            (value, input_dim(value))
            for value in list(graph.constants)
            if value in read and value.dtype.is_float and value.dtype.bits > 8 and (value.rank or 0) >= 2
            if not any(_matches(value.name, pattern) for pattern in self.ignore)
        ]

    def _keep(self, scored: Sequence[tuple[int | None, torch.Tensor]]) -> list[torch.Tensor | None]:
        """For each weight which elements stay; ``None`` where the pattern does not fit."""
        scores = [each for _, each in scored]
        if self._pattern is not None:
            return [None if dim is None else keep_pattern(each, dim, *self._pattern) for dim, each in scored]
        if self.threshold is not None:
            return [each >= self.threshold for each in scores]
        if self.scope == "layer":
            return [_keep_highest(each, self.ratio) for each in scores]
        if not scores:
            return []
        together = _keep_highest(torch.cat([each.flatten() for each in scores]), self.ratio)
        parts = torch.split(together, [each.numel() for each in scores])
        return [part.reshape(each.shape) for part, each in zip(parts, scores, strict=True)]


def _read_by_layers(graph: Graph) -> set[Value]:
    """Constants that operators with multiply-accumulates read, as they are or rearranged."""
    derived: set[Value] = set()
    found: set[Value] = set()
    for node in graph.nodes:
        read = [value for value in node.inputs if value is not None]
        if read and all(value.is_constant or value in derived for value in read):
            derived.update(node.outputs)
        record = record_of(node)
        pending = read if record is not None and record.macs is not None else []
        while pending:
            value = pending.pop()
            if value.is_constant:
                found.add(value)
            elif value in derived and value.producer is not None:
                pending.extend(each for each in value.producer.inputs if each is not None)
    return found


def input_dim(weight: Value) -> int | None:
    """The dimension of a weight that runs over a layer's inputs; ``None`` when no layer says."""
    for user, dims in _readers(weight, tuple(range(weight.rank or 0))):
        record = record_of(user)
        relation = record.relate(user) if record is not None and record.relate is not None else None
        if relation is None:
            continue
        operand = next(
            (v for v in user.inputs if v is not None and v.rank == len(dims) and _comes_from(v, weight)), None
        )
        source = next((v for v in user.inputs if v is not None and not _comes_from(v, weight)), None)
        if operand is None or source is None:
            continue
        out = {axis.label for (value, _), axes in relation.axes.items() if value in user.outputs for axis in axes}
        theirs = {axis.label for (value, _), axes in relation.axes.items() if value is source for axis in axes}
        for dim, original in enumerate(dims):
            axes = relation.axes.get((operand, dim), ())
            if any(axis.label in theirs and axis.label not in out for axis in axes):
                return original
    return None


def _readers(value: Value, dims: tuple[int, ...]) -> Iterator[tuple[Any, tuple[int, ...]]]:
    """The layers that read a weight, through transpositions, with the weight's dimensions in the order they see."""
    for user in value.users:
        record = record_of(user)
        if record is not None and record.macs is not None:
            yield user, dims
        elif user.op == "Transpose":
            perm = attribute(user, "perm") or tuple(reversed(range(len(dims))))
            yield from _readers(user.output, tuple(dims[p] for p in perm))


def _comes_from(value: Value, weight: Value) -> bool:
    while value is not weight and value.producer is not None and value.producer.op == "Transpose":
        value = value.producer.operand(0)
    return value is weight


def keep_pattern(scores: torch.Tensor, dim: int, n: int, m: int) -> torch.Tensor | None:
    """The n highest of every m neighbours along `dim`; ``None`` when its extent is no multiple of m."""
    if scores.shape[dim] % m:
        return None
    lines = scores.movedim(dim, -1)
    groups = lines.reshape(-1, m)
    keep = torch.zeros_like(groups, dtype=torch.bool)
    keep.scatter_(1, groups.topk(n, dim=1).indices, True)
    return keep.reshape(lines.shape).movedim(-1, dim)


def _keep_highest(scores: torch.Tensor, ratio: float) -> torch.Tensor:
    keep = torch.ones(scores.numel(), dtype=torch.bool)
    count = int(ratio * scores.numel() + 1e-9)
    keep[scores.flatten().argsort(stable=True)[:count]] = False
    return keep.reshape(scores.shape)


def _finite(scores: torch.Tensor, value: Value) -> torch.Tensor:
    if not bool(torch.isfinite(scores).all()):
        raise DataError(
            f"weight '{value.name}' holds NaN or infinity, so its elements cannot be ranked", where=value.name,
            hint="repair the checkpoint, or put the layer on the ignore list",
        )  # fmt: skip
    return scores


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name.rpartition(".")[0], pattern)
