"""calibrate: scales of activations from data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from graphopt.errors import DataError, PassError
from graphopt.ir import Graph, Value
from graphopt.passes.quantize.calibration import in_onnxruntime, in_torch, observe
from graphopt.passes.quantize.candidates import Candidates, Parameters, best_parameters
from graphopt.passes.quantize.divergence import Entropy
from graphopt.passes.quantize.observers import MeanSquareError, MinMax, MovingAverage, Observer, Percentile
from graphopt.passes.quantize.pairs import Pair, activation_pairs
from graphopt.passes.quantize.recovery.options import check_options
from graphopt.passes.quantize.scales import fixed_parameters, parameters_of_range
from graphopt.pipeline import Changes, Context, Contract, Pass, register
from graphopt.targets import Scheme, Target, load_target

#: Ranges of several methods are compared on one batch of so many.
_EVERY = 4


@register("calibrate")
@dataclass(frozen=True)
class Calibrate(Pass):
    """Measure the ranges of activations on the run's data and set the scales of the Q/DQ pairs accordingly.

    Memory does not grow with the number of samples.

    Attributes:
        method: "mse" takes the range with the least mean square error, "entropy" the one that keeps the
            distribution best (TensorRT's choice), "minmax" all values, "percentile" leaves out the rarest at both ends,
            "moving-average" averages the ends of batches. "best" takes, for each scale, that of the first four which
            moves least what the readers of its tensors compute; for that it reads the data a second time.
        percent: part of the values that percentile keeps, out of 100.
        momentum: weight of each new batch in moving-average, between 0 and 1.
        batches: batches to read at most; 0 reads all.
        runtime: what runs the float graph, "torch" or "onnxruntime"; "best" compares ranges in torch.
        target: the target that the pairs were inserted for.
    """

    contract: ClassVar[Contract] = Contract.APPROXIMATE
    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    looks_for: ClassVar[frozenset[str]] = frozenset({"QuantizeLinear"})

    method: Literal["mse", "entropy", "minmax", "percentile", "moving-average", "best"] = "mse"
    percent: float = 99.99
    momentum: float = 0.01
    batches: int = 0
    runtime: Literal["torch", "onnxruntime"] = "torch"
    target: str = "ort-cpu"

    def __post_init__(self) -> None:
        load_target(self.target)
        check_options(
            self,
            ("percent", 50 < self.percent <= 100, "50 < percent <= 100"),
            ("momentum", 0 < self.momentum <= 1, "0 < momentum <= 1"),
            ("batches", self.batches >= 0, "0 or more"),
        )

    def run(self, graph: Graph, context: Context) -> Changes:
        target = load_target(self.target)
        groups = self._groups(graph, target)
        sources = {scale: [pair.source for pair in members] for scale, members in groups.items()}
        samples = _Samples(context, self.batches)
        observers = observe(graph, sources, samples, self._observer, _RUNNERS[self.runtime])
        if not samples.rows:
            raise DataError("no sample has a row", where=self.name, hint="give at least one sample to calibrate on")
        notes = [f"{len(groups)} scales from {samples.rows} samples"]
        if self.method == "best":
            found, note = self._best(graph, groups, observers, context, target.activation)
            notes += note
        else:
            ranges = {scale: observers[scale].range(target.activation) for scale in groups}
            found = {scale: parameters_of_range(*ends, target.activation) for scale, ends in ranges.items()}
        changed = False
        for scale, members in groups.items():
            for pair in members:
                changed |= _set(pair.scale, found[scale][0])
                changed |= _set(pair.zero_point, found[scale][1])
        return Changes(changed, counts={"scales": len(groups)}, notes=tuple(notes))

    def _groups(self, graph: Graph, target: Target) -> dict[Value, list[Pair]]:
        """The pairs that share a scale, by it; without those whose scale the target insists on."""
        by_scale: dict[Value, list[Pair]] = {}
        for pair in activation_pairs(graph):
            if pair.zero_point.dtype is not target.activation.dtype:
                raise PassError(
                    f"'{pair.source.name}' is quantized to {pair.zero_point.dtype}, target '{self.target}' wants "
                    f"{target.activation.dtype}", where=self.name, hint="give calibrate the target that insert-qdq had",
                )  # fmt: skip
            by_scale.setdefault(pair.scale, []).append(pair)
        return {
            scale: members
            for scale, members in by_scale.items()
            if not fixed_parameters([pair.source for pair in members], target)
        }

    def _best(
        self, graph: Graph, groups: Mapping[Value, list[Pair]], observers: Mapping[Value, Observer], context: Context,
        scheme: Scheme,
    ) -> tuple[dict[Value, Parameters], list[str]]:  # fmt: skip
        """Scales and zero points, and what to say of how they were chosen."""
        counted = {scale: each for scale, each in observers.items() if isinstance(each, Candidates)}
        samples = _Samples(context, self.batches, _EVERY)
        found, wins = best_parameters(graph, groups, counted, samples, scheme)
        if not wins:
            return found, []
        told = ", ".join(f"{name} {count}" for name, count in wins.most_common())
        return found, [f"least error at the readers on {samples.rows} samples: {told}"]

    def _observer(self) -> Observer:
        match self.method:
            case "mse":
                return MeanSquareError()
            case "entropy":
                return Entropy()
            case "minmax":
                return MinMax()
            case "percentile":
                return Percentile(self.percent)
            case "moving-average":
                return MovingAverage(self.momentum)
            case "best":
                return Candidates(self.percent)


_RUNNERS = {"torch": in_torch, "onnxruntime": in_onnxruntime}


class _Samples:
    """The inputs of one batch of `every` among at most `batches` (all, when 0), and how many rows they had."""

    def __init__(self, context: Context, batches: int, every: int = 1) -> None:
        self.context = context
        self.batches = batches
        self.every = every
        self.rows = 0

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        what = "calibrating" if self.every == 1 else "comparing ranges"
        shown = self.context.progress(self.context.data, what, self.batches or None)
        for number, batch in enumerate(shown):
            if self.batches and number == self.batches:
                return
            if number % self.every:
                continue
            self.rows += batch.inputs[0].shape[0] if batch.inputs and batch.inputs[0].dim() else 1
            yield batch.inputs


def _set(value: Value, data: torch.Tensor) -> bool:
    """Gives a constant its number. Returns whether it had another."""
    if value.data is not None and torch.equal(value.data, data):
        return False
    value.data = data
    return True
