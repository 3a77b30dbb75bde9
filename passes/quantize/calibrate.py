"""calibrate: scales of activations from data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from graphopt.errors import OptionError
from graphopt.ir import DType, Graph, Value
from graphopt.passes.quantize.calibration import observe
from graphopt.passes.quantize.observers import MeanSquareError, MinMax, Observer, Percentile
from graphopt.passes.quantize.pairs import Pair, pairs
from graphopt.passes.quantize.scales import parameters_of_range
from graphopt.pipeline import Changes, Context, Contract, Pass, register
from graphopt.targets import Scheme


@register("calibrate")
@dataclass(frozen=True)
class Calibrate(Pass):
    """Measure the ranges of activations on the run's data and set the scales of the Q/DQ pairs accordingly.

    Memory does not grow with the number of samples.

    Attributes:
        method: "mse" takes the range with the least mean square error, "minmax" all values, "percentile" leaves out the
            rarest at both ends.
        percent: part of the values that percentile keeps, out of 100.
        batches: batches to read at most; 0 reads all.
    """

    contract: ClassVar[Contract] = Contract.APPROXIMATE
    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    looks_for: ClassVar[frozenset[str]] = frozenset({"QuantizeLinear"})

    method: Literal["mse", "minmax", "percentile"] = "mse"
    percent: float = 99.99
    batches: int = 0

    def __post_init__(self) -> None:
        if not 50 < self.percent <= 100:
            raise OptionError(
                f"percent is {self.percent:g}", where="calibrate{percent}", hint="give 50 < percent <= 100"
            )

    def run(self, graph: Graph, context: Context) -> Changes:
        by_scale: dict[Value, list[Pair]] = {}
        for pair in pairs(graph):
            if not _is_weight(pair.source) and pair.scale.is_constant and pair.scale.rank == 0:
                by_scale.setdefault(pair.scale, []).append(pair)
        groups = {scale: [pair.source for pair in members] for scale, members in by_scale.items()}
        seen = [0]
        observers = observe(graph, groups, self._samples(context, seen), self._observer)
        for scale, members in by_scale.items():
            scheme = _scheme(members[0])
            new_scale, new_zero = parameters_of_range(*observers[scale].range(scheme), scheme)
            for pair in members:
                _set(pair.scale, new_scale)
                _set(pair.zero_point, new_zero)
        note = f"{len(groups)} scales from {seen[0]} samples"
        return Changes(bool(groups), counts={"scales": len(groups)}, notes=(note,))

    def _observer(self) -> Observer:
        if self.method == "percentile":
            return Percentile(self.percent)
        return MinMax() if self.method == "minmax" else MeanSquareError()

    def _samples(self, context: Context, seen: list[int]):  # type: ignore[no-untyped-def]
        for number, batch in enumerate(context.progress(context.data, "calibrating", self.batches or None)):
            if self.batches and number == self.batches:
                break
            seen[0] += batch.inputs[0].shape[0] if batch.inputs and batch.inputs[0].dim() else 1
            yield batch.inputs


def _is_weight(value: Value) -> bool:
    return value.is_constant and value.rank is not None and value.rank > 0 and value.parameter is not None


def _scheme(pair: Pair) -> Scheme:
    dtype = pair.zero_point.dtype
    return Scheme(dtype, symmetric=dtype.name.startswith("INT") and dtype is not DType.INT64)


def _set(value: Value, data: torch.Tensor) -> None:
    if value.data is None or not torch.equal(value.data, data):
        value.data = data
