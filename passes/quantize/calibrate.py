"""calibrate: scales of activations from data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from graphopt.errors import DataError, OptionError, PassError
from graphopt.ir import Graph, Value
from graphopt.passes.quantize.calibration import in_onnxruntime, in_torch, observe
from graphopt.passes.quantize.divergence import Entropy
from graphopt.passes.quantize.observers import MeanSquareError, MinMax, MovingAverage, Observer, Percentile
from graphopt.passes.quantize.pairs import Pair, activation_pairs
from graphopt.passes.quantize.scales import fixed_parameters, parameters_of_range
from graphopt.pipeline import Changes, Context, Contract, Pass, register
from graphopt.targets import load_target


@register("calibrate")
@dataclass(frozen=True)
class Calibrate(Pass):
    """Measure the ranges of activations on the run's data and set the scales of the Q/DQ pairs accordingly.

    Memory does not grow with the number of samples.

    Attributes:
        method: "mse" takes the range with the least mean square error, "entropy" the one that keeps the
            distribution best (TensorRT's choice), "minmax" all values, "percentile" leaves out the rarest at both ends,
            "moving-average" averages the ends of batches.
        percent: part of the values that percentile keeps, out of 100.
        momentum: weight of each new batch in moving-average, between 0 and 1.
        batches: batches to read at most; 0 reads all.
        runtime: what runs the float graph, "torch" or "onnxruntime".
        target: the target that the pairs were inserted for.
    """

    contract: ClassVar[Contract] = Contract.APPROXIMATE
    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    looks_for: ClassVar[frozenset[str]] = frozenset({"QuantizeLinear"})

    method: Literal["mse", "entropy", "minmax", "percentile", "moving-average"] = "mse"
    percent: float = 99.99
    momentum: float = 0.01
    batches: int = 0
    runtime: Literal["torch", "onnxruntime"] = "torch"
    target: str = "ort-cpu"

    def __post_init__(self) -> None:
        load_target(self.target)
        if not 50 < self.percent <= 100:
            raise OptionError(
                f"percent is {self.percent:g}", where="calibrate{percent}", hint="give 50 < percent <= 100"
            )
        if not 0 < self.momentum <= 1:
            raise OptionError(
                f"momentum is {self.momentum:g}", where="calibrate{momentum}", hint="give 0 < momentum <= 1"
            )
        if self.batches < 0:
            raise OptionError(f"batches is {self.batches}", where="calibrate{batches}", hint="give 0 or more")

    def run(self, graph: Graph, context: Context) -> Changes:
        target = load_target(self.target)
        scheme = target.activation
        by_scale: dict[Value, list[Pair]] = {}
        for pair in activation_pairs(graph):
            if pair.zero_point.dtype is not scheme.dtype:
                raise PassError(
                    f"'{pair.source.name}' is quantized to {pair.zero_point.dtype}, target '{self.target}' wants "
                    f"{scheme.dtype}", where=self.name, hint="give calibrate the target that insert-qdq had",
                )  # fmt: skip
            by_scale.setdefault(pair.scale, []).append(pair)
        for scale, members in list(by_scale.items()):
            if fixed_parameters([pair.source for pair in members], target):
                del by_scale[scale]
        groups = {scale: [pair.source for pair in members] for scale, members in by_scale.items()}
        samples = _Samples(context, self.batches)
        observers = observe(graph, groups, samples, self._observer, _RUNNERS[self.runtime])
        if not samples.rows:
            raise DataError("no sample has a row", where=self.name, hint="give at least one sample to calibrate on")
        for scale, members in by_scale.items():
            new_scale, new_zero = parameters_of_range(*observers[scale].range(scheme), scheme)
            for pair in members:
                _set(pair.scale, new_scale)
                _set(pair.zero_point, new_zero)
        note = f"{len(groups)} scales from {samples.rows} samples"
        return Changes(bool(groups), counts={"scales": len(groups)}, notes=(note,))

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


_RUNNERS = {"torch": in_torch, "onnxruntime": in_onnxruntime}


class _Samples:
    """The inputs of at most `batches` batches (all, when 0), and how many rows they had."""

    def __init__(self, context: Context, batches: int) -> None:
        self.context = context
        self.batches = batches
        self.rows = 0

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        shown = self.context.progress(self.context.data, "calibrating", self.batches or None)
        for number, batch in enumerate(shown):
            if self.batches and number == self.batches:
                return
            self.rows += batch.inputs[0].shape[0] if batch.inputs and batch.inputs[0].dim() else 1
            yield batch.inputs


def _set(value: Value, data: torch.Tensor) -> None:
    if value.data is None or not torch.equal(value.data, data):
        value.data = data
