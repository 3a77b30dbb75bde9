"""SparseGPT: single weights go, and those that stay make up for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch

from graphopt.errors import DataError
from graphopt.ir import Graph, Node, Value
from graphopt.passes.curvature import inverse_factor
from graphopt.passes.prune.layers import readings
from graphopt.passes.prune.masks import keep_highest, keep_pattern
from graphopt.pipeline import Batch
from graphopt.runtime.executor import bind_inputs, run

#: The dimension of a value that layers sum over.
Source: TypeAlias = tuple[Value, int]
#: Columns that are pruned before the rest is brought up to date, as in the paper.
BLOCK = 128


class Choice(Protocol):
    """Which weights of a matrix stay, told for a few columns at a time."""

    @property
    def span(self) -> int:
        """Columns that are chosen together; a block holds a multiple of them."""

    def __call__(self, scores: torch.Tensor, first: int) -> torch.Tensor:
        """The mask [out, columns] of what stays, for scores [out, columns] of columns from `first` on."""


@dataclass(frozen=True)
class ByRatio:
    """Removes the lowest scores of each block, and of all blocks together exactly the ratio."""

    ratio: float
    span: int = BLOCK

    def __call__(self, scores: torch.Tensor, first: int) -> torch.Tensor:
        return keep_highest(scores, self._count(scores, first + scores.shape[1]) - self._count(scores, first))

    def _count(self, scores: torch.Tensor, columns: int) -> int:
        return int(self.ratio * scores.shape[0] * columns + 1e-9)


@dataclass(frozen=True)
class ByPattern:
    """Keeps the n highest of every m neighbours in a row."""

    n: int
    span: int

    def __call__(self, scores: torch.Tensor, first: int) -> torch.Tensor:
        keep = keep_pattern(scores, 1, self.n, self.span)
        assert keep is not None, "a matrix whose inputs no pattern divides is not pruned by one"
        return keep


def sources(weight: Value) -> tuple[int, list[Source]] | None:
    """The dimension of a matrix that meets a layer's input, and the inputs that it meets.

    Returns:
        ``None`` when the weight is no matrix, or when something else than linear layers reads it (an embedding table
        that is tied to the last layer would be changed as well).
    """
    found = list(readings(weight))
    if weight.rank != 2 or weight.is_output or not found:
        return None
    dims: set[int] = set()
    met: list[Source] = []
    for reading in found:
        if reading is None or len(reading.summed) != 1:
            return None
        ((theirs, mine),) = reading.summed
        if (reading.source.shape or ())[theirs] != (weight.shape or ())[mine]:
            return None
        dims.add(mine)
        met.append((reading.source, theirs))
    return (dims.pop(), met) if len(dims) == 1 else None


def grams(graph: Graph, batches: Iterable[Batch], wanted: Iterable[Source]) -> dict[Source, torch.Tensor]:
    """The sums ``X^T X`` [channels, channels] over all samples, where X holds a value's channels as columns.

    Batches stream through the graph; what is kept is one matrix (float32) per value, however many samples there are.

    Args:
        graph: the graph.
        batches: what is run.
        wanted: values, each with the dimension of its channels.

    Raises:
        DataError: a value holds NaN or infinity.
    """
    dims: dict[Value, set[int]] = {}
    for value, dim in wanted:
        dims.setdefault(value, set()).add(dim)
    sums: dict[Source, torch.Tensor] = {}

    def add(value: Value, tensor: Any) -> None:
        for dim in dims.get(value, ()):
            rows = tensor.detach().float().movedim(dim, -1).reshape(-1, tensor.shape[dim])
            known = sums.get((value, dim))
            sums[value, dim] = rows.T @ rows if known is None else known.addmm_(rows.T, rows)

    def note(node: Node, results: tuple[Any, ...]) -> tuple[Any, ...]:
        for value, tensor in zip(node.outputs, results, strict=False):
            add(value, tensor)
        return results

    for batch in batches:
        for value, tensor in bind_inputs(graph, batch.inputs).items():
            add(value, tensor)
        run(graph, batch.inputs, hook=note)
    for (value, _), gram in sums.items():
        if not bool(torch.isfinite(gram).all()):
            raise DataError(
                f"'{value.name}' holds NaN or infinity on the data", where=value.name, hint="check weights and data"
            )
    return sums


def prune_matrix(
    weight: torch.Tensor, gram: torch.Tensor, choose: Choice, damping: float = 0.01
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prunes a matrix so that its products with the inputs change little.

    Frantar, Alistarh: SparseGPT, ICML 2023 (arXiv:2301.00774), algorithm 1. Column after column, what a row loses is
    spread over its columns to the right, by the inverse of the inputs' Gram matrix; Cholesky's factor of the inverse
    holds what all the columns need. Rows are done side by side.

    Args:
        weight: [out, in]; stays as it is.
        gram: ``X^T X`` of the inputs [in, in].
        choose: which weights stay.
        damping: added to the Gram matrix's diagonal, as a part of its mean.

    Returns:
        The new weight (of the same dtype) and the mask of what stays, both [out, in].
    """
    w, h = weight.detach().double(), gram.double().clone()
    diagonal = h.diagonal()
    dead = diagonal == 0  # such an input is always zero, and so may be what it is multiplied with
    diagonal[dead] = 1
    w = torch.where(dead, 0.0, w)
    factor = inverse_factor(h, damping)
    keep = torch.ones_like(w, dtype=torch.bool)
    width = max(BLOCK - BLOCK % choose.span, choose.span)
    for first in range(0, w.shape[1], width):
        block = slice(first, min(first + width, w.shape[1]))
        errors = _prune_block(w[:, block], keep[:, block], factor[block, block], choose, first)
        w[:, block.stop :] -= errors @ factor[block, block.stop :]
    return torch.where(keep, w, 0.0).to(weight.dtype), keep


def _prune_block(w: torch.Tensor, keep: torch.Tensor, factor: torch.Tensor, choose: Choice, first: int) -> torch.Tensor:
    """Prunes a block of columns in place. Returns what later columns are to make up for, [out, columns]."""
    scale = factor.diagonal()
    errors = torch.zeros_like(w)
    for column in range(w.shape[1]):
        if column % choose.span == 0:
            part = slice(column, column + choose.span)
            keep[:, part] = choose((w[:, part] / scale[part]).square(), first + column)
        errors[:, column] = torch.where(keep[:, column], 0.0, w[:, column]) / scale[column]
        w[:, column:] -= errors[:, column, None] * factor[column, column:]
    return errors
